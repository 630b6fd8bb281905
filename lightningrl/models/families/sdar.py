"""SDAR (arXiv 2510.06303): Qwen3's dense decoder, block-causal, with an untied head. Hugging Face's `qwen3` fits too.

The logit at a masked position predicts the token of that same position. The official files say neither the block size
nor the mask token, and the defaults of their configuration class are wrong for every released size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightningrl.models.transformer import ModelConfig

_COMPUTED = {
    "tie_word_embeddings": False, "attention_bias": False, "rope_scaling": None, "hidden_act": "silu",
    "use_sliding_window": False, "quantization_config": None,
}  # fmt: skip
_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta", "initializer_range",
    "block_size", "mask_token_id",
)  # fmt: skip


class SDAR:
    """A `Family`."""

    def shape(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family.shape`."""
        _refuse_variants(raw)
        found = {field: raw[field] for field in _FIELDS if raw.get(field) is not None}
        return found | rope_theta(raw) | {"family": "sdar", "attention": "block_causal"}

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        """The official keys and the two facts of ours."""
        facts = asdict(config)
        return {field: facts[field] for field in _FIELDS} | {
            "architectures": ["SDARForCausalLM"], "model_type": "sdar", "hidden_act": "silu", "attention_bias": False,
            "attention_dropout": 0.0, "rope_scaling": None, "tie_word_embeddings": False, "sliding_window": None,
        }  # fmt: skip

    def stored_name(self, name: str) -> str:
        """The transformer's names are the official ones."""
        return name


def _refuse_variants(raw: Mapping[str, Any]) -> None:
    for key, value in _COMPUTED.items():
        if raw.get(key, value) != value:
            raise ValueError(f"{key} is {raw[key]!r}; this model class has {value!r} only")
    if raw.get("sliding_window") is not None and "use_sliding_window" not in raw:
        raise ValueError(f"sliding_window is {raw['sliding_window']!r}; this model class has None only")
    layers = raw.get("layer_types") or []
    if not isinstance(layers, list) or any(kind != "full_attention" for kind in layers):
        raise ValueError(f"layer_types is {layers!r}; this model class has 'full_attention' only")


def rope_theta(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Newer transformers write `rope_parameters` (rope_theta, rope_type) where the official files have `rope_theta`."""
    rope = raw.get("rope_parameters")
    if rope is None:
        return {}
    if not isinstance(rope, dict) or not set(rope) <= {"rope_theta", "rope_type"} or rope.get("rope_type") != "default":
        raise ValueError(f"rope_parameters is {rope!r}; this model class has rope_type 'default' only")
    theta = rope.get("rope_theta")
    if raw.get("rope_theta", theta) != theta:
        raise ValueError(f"says rope_theta {raw['rope_theta']} and, in rope_parameters, {theta}: which?")
    return {} if theta is None else {"rope_theta": theta}
