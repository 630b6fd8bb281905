"""Qwen2 and Qwen2.5 (arXiv 2412.15115): biases on queries, keys and values, no norms of heads; autoregressive.

The logit at a position predicts the token of the next one, a position sees those up to itself, and there is no mask
token: the schedule `autoregressive` decodes it, one token a forward. Dream and Fast-dLLM v2 were made from its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lightningrl.models.families.checks import refuse_windows, rope_theta
from lightningrl.models.families.protocol import NO_MASK, Family

if TYPE_CHECKING:
    from lightningrl.models.transformer import ModelConfig


class Qwen2(Family):
    """Its weights' names are the transformer's own. The small sizes tie the head to the embedding, the 7B does not."""

    keys: ClassVar[Mapping[str, str]] = {key: key for key in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta", "initializer_range",
        "tie_word_embeddings",
    )}  # fmt: skip
    facts: ClassVar[Mapping[str, Any]] = {
        "family": "qwen2", "attention": "causal", "logit_shift": True, "qk_norm": False, "qkv_bias": True,
        "block_size": 1, "mask_token_id": NO_MASK,
    }  # fmt: skip
    variants: ClassVar[Mapping[str, Any]] = {
        "hidden_act": "silu", "rope_scaling": None, "use_sliding_window": False, "use_mrope": False,
        "attention_dropout": 0.0, "quantization_config": None,
    }  # fmt: skip
    written: ClassVar[Mapping[str, Any]] = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "attention_dropout": 0.0,
        "rope_scaling": None, "use_sliding_window": False, "sliding_window": None,
    }  # fmt: skip

    def shape(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        refuse_windows(raw)
        return super().shape(raw) | head_dim(raw) | tied(raw) | rope_theta(raw)

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        return super().config_json(config) | own_head_dim(config)


def head_dim(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The field `head_dim`: the file's, or the hidden size over the heads, which is what its absence means."""
    hidden, heads = raw.get("hidden_size"), raw.get("num_attention_heads")
    if raw.get("head_dim") is not None:
        return {"head_dim": raw["head_dim"]}
    if type(hidden) is not int or type(heads) is not int or heads < 1:
        return {}  # the caller names what is absent or out of range
    if hidden % heads:
        raise ValueError(f"hidden_size {hidden} is no multiple of {heads} attention heads, and no head_dim is said")
    return {"head_dim": hidden // heads}


def own_head_dim(config: ModelConfig) -> dict[str, Any]:
    """What config.json says of the head size: nothing where it follows from the hidden size."""
    follows = config.head_dim * config.num_attention_heads == config.hidden_size
    return {} if follows else {"head_dim": config.head_dim}


def tied(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The field `tie_word_embeddings`. Raises ValueError where the file does not say it: published sizes differ."""
    if type(raw.get("tie_word_embeddings")) is not bool:
        raise ValueError(f"tie_word_embeddings is {raw.get('tie_word_embeddings')!r}, expected true or false")
    return {"tie_word_embeddings": raw["tie_word_embeddings"]}
