"""SDAR (arXiv 2510.06303): Qwen3's dense decoder, block-causal, with an untied head. Hugging Face's `qwen3` fits too.

The logit at a masked position predicts the token of that same position. The official files say neither the block size
nor the mask token, and the defaults of their configuration class are wrong for every released size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightningrl.models.families.checks import refuse_windows, rope_theta
from lightningrl.models.families.protocol import Family


class SDAR(Family):
    """Its keys and weights' names are the transformer's own."""

    keys: ClassVar = {key: key for key in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta",
        "initializer_range", "block_size", "mask_token_id",
    )}  # fmt: skip
    facts: ClassVar = {"family": "sdar", "attention": "block_causal"}
    variants: ClassVar = {
        "tie_word_embeddings": False, "attention_bias": False, "rope_scaling": None, "hidden_act": "silu",
        "use_sliding_window": False, "quantization_config": None,
    }  # fmt: skip
    written: ClassVar = {
        "architectures": ["SDARForCausalLM"], "model_type": "sdar", "hidden_act": "silu", "attention_bias": False,
        "attention_dropout": 0.0, "rope_scaling": None, "tie_word_embeddings": False, "sliding_window": None,
    }  # fmt: skip

    def shape(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        refuse_windows(raw)
        return super().shape(raw) | rope_theta(raw)
