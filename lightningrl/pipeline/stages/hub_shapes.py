"""The shapes of checkpoints in the hub that the shipped configs name, so that what does not fit is said before a fetch.

Sizes are those of the cost formulas (`bench.model_shape`), other facts those of the families. Repositories that are not
listed are not known: a name alone says nothing of what is in it.
"""

from __future__ import annotations

from typing import Any

from lightningrl.bench.model_shape import FAMILIES, KEYS, NUMBERS
from lightningrl.config.base import Base
from lightningrl.models.config_file import family_named
from lightningrl.models.transformer import ModelConfig

LLADA, DREAM, QWEN = ("llada", "llada-8b"), ("Dream", "7b"), ("qwen2", "7b")
ENDS, TASKS = ("", "-b8", "-b32"), ("GSM8K", "MATH500", "MBPP", "HumanEval")
KNOWN = {
    **{f"JetLM/SDAR-{size.upper()}-Chat{end}": ("sdar", size) for size in ("1.7b", "4b", "8b") for end in ENDS},
    **{f"SJTU-DENG-Lab/LightningRL-8B-b32-{task}": ("sdar", "8b") for task in TASKS},
    "GSAI-ML/LLaDA-8B-Instruct": LLADA, "Zigeng/dParallel-LLaDA-8B-instruct": LLADA, "d3LLM/d3LLM_LLaDA": LLADA,
    "Dream-org/Dream-v0-Instruct-7B": DREAM, "Zigeng/dParallel_Dream_7B_Instruct": DREAM, "d3LLM/d3LLM_Dream": DREAM,
    "Qwen/Qwen2.5-7B-Instruct": QWEN, "Efficient-Large-Model/Fast_dLLM_v2_7B": ("Fast_dLLM_Qwen", "7b"),
}  # fmt: skip
"""Repository -> model_type of its config.json, and size."""
POSITIONS = {"Dream": {"max_position_embeddings": 131072}}
"""Contexts that are not those of the size."""


def shape_in_hub(base: Base) -> ModelConfig | None:
    """Returns the shape of a checkpoint in the hub, its token ids aside; None for one that is not known here."""
    if base.checkpoint not in KNOWN:
        return None
    model_type, size = KNOWN[base.checkpoint]
    numbers = dict(zip(KEYS, (NUMBERS | FAMILIES)[size], strict=True))
    family, said = family_named(model_type), {} if base.block_size is None else {"block_size": base.block_size}
    found: dict[str, Any] = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "initializer_range": 0.02, "mask_token_id": 0}
    found |= {"block_size": 32} | numbers | POSITIONS.get(model_type, {})
    found |= {**family.defaults, **said, **family.facts}
    return ModelConfig(**found)
