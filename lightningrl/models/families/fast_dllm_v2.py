"""Fast-dLLM v2 (arXiv 2509.26328): Qwen2.5 turned into a block-causal diffusion model, with its shift.

The logit at a position predicts the next one's token, so a block's first token is read from the block before it. The
grid of blocks begins at position 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightningrl.models.families.qwen2 import Qwen2

MASK_TOKEN_ID = 151665
"""`|<MASK>|`: an added token of the published tokenizers, and a default argument of the published code; the published
config.json does not say it."""


class FastDLLMv2(Qwen2):
    """Its config.json calls the block size `bd_size`, and may say the mask token."""

    keys: ClassVar = {**Qwen2.keys, "block_size": "bd_size", "mask_token_id": "mask_token_id"}
    facts: ClassVar = {
        "family": "Fast_dLLM_Qwen", "attention": "block_causal", "logit_shift": True, "qk_norm": False,
        "qkv_bias": True,
    }  # fmt: skip
    written: ClassVar = {
        **Qwen2.written, "architectures": ["Fast_dLLM_QwenForCausalLM"], "model_type": "Fast_dLLM_Qwen",
    }  # fmt: skip

    def shape(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        return {"mask_token_id": MASK_TOKEN_ID} | super().shape(raw)
