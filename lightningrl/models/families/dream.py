"""Dream v0 and Dream-Coder (arXiv 2508.15487): Qwen2.5 7B turned into a diffusion model with full attention.

The shift of the autoregressive model stayed: the logit at a position predicts the token of the next one, masked or not.
D2F's and d3LLM's Dream have the same files; D2F's is a LoRA over them (models/lora.py).
"""

from __future__ import annotations

from typing import ClassVar

from lightningrl.models.families.qwen2 import Qwen2


class Dream(Qwen2):
    """Its config.json says the mask token. It has no blocks: one that a schedule does not name is one position."""

    keys: ClassVar = {**Qwen2.keys, "mask_token_id": "mask_token_id"}
    facts: ClassVar = {
        "family": "Dream", "attention": "full", "logit_shift": True, "qk_norm": False, "qkv_bias": True,
        "block_size": 1,
    }  # fmt: skip
    written: ClassVar = {**Qwen2.written, "architectures": ["DreamModel"], "model_type": "Dream"}
