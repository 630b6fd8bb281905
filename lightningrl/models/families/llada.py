"""LLaDA (arXiv 2502.09992): a LLaMA-like decoder in which every position sees the whole canvas, with an untied head.

It reads LLaDA-8B-Instruct, LLaDA-1.5 and checkpoints with their names, such as dParallel-LLaDA. The logit at a position
predicts the token of that same position. There are no biases and no norms of heads. The size of a block is no property
of these models but of how they are decoded: 32 unless somebody says otherwise. dUltra's checkpoints
(`LLaDOUModelLM`) are LLaDA's with a planner beside the head (models/planner.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lightningrl.models.families.protocol import Family

if TYPE_CHECKING:
    from lightningrl.models.transformer import ModelConfig

_TRUNK, _LAYERS = "model.transformer.", "model.layers."
_OUTSIDE = {"model.embed_tokens": "wte", "model.norm": "ln_f", "lm_head": "ff_out"}
_INSIDE = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "q_proj", "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj", "self_attn.o_proj": "attn_out", "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj", "mlp.up_proj": "up_proj", "mlp.down_proj": "ff_out",
}  # fmt: skip
"""A module of a layer -> what the files call it. `ff_out` is the head, and inside a layer the down projection."""
_PLANNER = {"norm_in": "norm_out_1", "norm_out": "norm_out_2"}
_PLANNED: dict[str, Any] = {
    "architectures": ["LLaDOUModelLM"], "num_head_layers": 1, "use_adaln": True, "use_mask_embeddings": True,
    "use_block_embeddings": False,
}  # fmt: skip
"""What config.json says of a model with a planner."""


class LLaDA(Family):
    """Keys and weights are named as in OLMo, of which the official class is made."""

    keys: ClassVar = {
        "vocab_size": "embedding_size", "hidden_size": "d_model", "intermediate_size": "mlp_hidden_size",
        "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads", "num_key_value_heads": "n_kv_heads",
        "max_position_embeddings": "max_sequence_length", "rms_norm_eps": "rms_norm_eps", "rope_theta": "rope_theta",
        "initializer_range": "init_std", "mask_token_id": "mask_token_id", "block_size": "block_size",
    }  # fmt: skip
    facts: ClassVar = {"family": "llada", "attention": "full", "qk_norm": False}
    defaults: ClassVar = {"block_size": 32}
    stop_tokens: ClassVar = ("<|eot_id|>",)
    variants: ClassVar = {
        "architectures": ["LLaDAModelLM"], "alibi": False, "bias_for_layer_norm": False, "attention_layer_norm": False,
        "input_emb_norm": False, "scale_logits": False, "include_qkv_bias": False, "block_group_size": 1,
        "rope_full_precision": True, "layer_norm_with_affine": True, "quantization_config": None,
    }  # fmt: skip
    said: ClassVar = {
        "block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms", "rope": True, "include_bias": False,
        "weight_tying": False,
    }  # fmt: skip
    """Variants that the file must name, because the official class means something else where it does not."""
    written: ClassVar = {
        **variants, **said, "model_type": "llada", "alibi_bias_max": 8.0, "attention_layer_norm_with_affine": True,
        "attention_dropout": 0.0, "embedding_dropout": 0.0, "residual_dropout": 0.0, "flash_attention": False,
        "init_cutoff_factor": None, "init_device": "meta", "init_fn": "mitchell", "mlp_ratio": 4,
        "multi_query_attention": None, "use_cache": False,
    }  # fmt: skip

    def shape(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        for key, value in self.said.items():
            if raw.get(key) != value:
                raise ValueError(f"{key} is {raw.get(key)!r}; this model class has {value!r} only")
        has_planner = raw.get("architectures") == _PLANNED["architectures"]
        for key, value in _PLANNED.items() if has_planner else ():
            if raw.get(key) != value:
                raise ValueError(f"{key} is {raw.get(key)!r}; this model class has a planner with {value!r} only")
        plain = {key: value for key, value in raw.items() if key != "architectures" or not has_planner}
        found = super().shape(plain) | {"has_planner": has_planner}
        width, heads = found.get("hidden_size"), found.get("num_attention_heads")
        if "vocab_size" not in found and raw.get("vocab_size") is not None:
            found["vocab_size"] = raw["vocab_size"]
        if type(width) is int and "intermediate_size" not in found and raw.get("mlp_ratio") is not None:
            found["intermediate_size"] = width * raw["mlp_ratio"]
        if type(heads) is int and heads > 0:
            found.setdefault("num_key_value_heads", 1 if raw.get("multi_query_attention") else heads)
            if type(width) is int:
                if width % heads:
                    raise ValueError(f"d_model is {width}, expected a multiple of the {heads} heads (n_heads)")
                found["head_dim"] = width // heads
        return found

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        found = super().config_json(config) | {"vocab_size": config.vocab_size}
        if config.block_size == self.defaults["block_size"]:
            del found["block_size"]
        found |= _PLANNED if config.has_planner else {}
        return {key: value for key, value in found.items() if key != "quantization_config"}

    def stored_name(self, name: str) -> str:
        if name.startswith("planner."):
            first, _, rest = name.removeprefix("planner.").partition(".")
            if first != "layer":
                return f"{_PLANNER.get(first, first)}.{rest}"
            module, _, kind = rest.rpartition(".")
            return f"mask_head.0.{_INSIDE[module]}.{kind}"
        if not name.startswith(_LAYERS):
            module, _, kind = name.rpartition(".")
            return f"{_TRUNK}{_OUTSIDE[module]}.{kind}"
        number, _, rest = name.removeprefix(_LAYERS).partition(".")
        module, _, kind = rest.rpartition(".")
        return f"{_TRUNK}blocks.{number}.{_INSIDE[module]}.{kind}"
