"""Llama 3 (arXiv 2407.21783): no biases, no norms of heads; autoregressive; RoPE scaled from 3.1 on.

As in Qwen2 the logit at a position predicts the next token, and there is no mask token. What other Llamas add (linear,
dynamic or YaRN scaling, biases, tensor-parallel slices of the arithmetic) is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lightningrl.models.families.checks import llama3_rope, refuse_windows
from lightningrl.models.families.protocol import NO_MASK, Family
from lightningrl.models.families.qwen2 import Qwen2, head_dim, own_head_dim, tied

if TYPE_CHECKING:
    from lightningrl.models.transformer import ModelConfig


class Llama(Family):
    """Its weights' names are the transformer's own."""

    keys: ClassVar = Qwen2.keys
    facts: ClassVar = {
        "family": "llama", "attention": "causal", "logit_shift": True, "qk_norm": False, "qkv_bias": False,
        "block_size": 1, "mask_token_id": NO_MASK,
    }  # fmt: skip
    variants: ClassVar = {
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
        "pretraining_tp": 1, "quantization_config": None,
    }  # fmt: skip
    written: ClassVar = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": False,
        "mlp_bias": False, "attention_dropout": 0.0, "pretraining_tp": 1,
    }  # fmt: skip

    def shape(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        refuse_windows(raw)
        return super().shape(raw) | head_dim(raw) | tied(raw) | llama3_rope(raw)

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        scaling = config.rope_scaling
        rope = None if scaling is None else {"rope_type": "llama3"} | dataclasses.asdict(scaling)
        return super().config_json(config) | own_head_dim(config) | {"rope_scaling": rope}
