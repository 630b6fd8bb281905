"""dParallel: certainty-forcing distillation (arXiv 2509.26488, section 3; czg1225/dParallel).

A model learns its own answers again, in states in which half of a block is masked and all behind it, and is made
certain where it is right already, so that more tokens pass a threshold at once. The loss of an answer is CE + CE' +
weight (H + H') over two complementary states. What a segment is depends on the model: for LLaDA one block of the
response, drawn anew each time; for Dream the whole response, whose logits are shifted (only a summary of that was to be
had, and no oracle); for block-causal models, a form of ours, every block of the response at once, each behind its clean
past.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lightningrl.config.section import Section
from lightningrl.training.distillation.algorithm import Certainty, CertaintyConfig

if TYPE_CHECKING:
    import numpy as np

    from lightningrl.models.transformer import ModelConfig
    from lightningrl.training.distillation.answers import Target
    from lightningrl.training.distillation.states import Views


class DParallelConfig(CertaintyConfig):
    """The keys of dParallel."""

    block_size: int = Field(32, gt=0)
    """Positions of a segment of a canvas; block-causal models have their own blocks."""
    segment: Literal["block", "response", "model"] = "model"
    """What is masked of a canvas: one block and all behind it, or half of the whole response. `model`: the response
    where logits are shifted (Dream), else a block, as published."""
    mask_rate: float = Field(0.5005, gt=0, lt=1)
    """The probability that a position of the segment is masked in the first state: 0.999 times a half and 0.001."""


class DParallel(Certainty):
    """The algorithm `dparallel`."""

    Config: ClassVar[type[Section]] = DParallelConfig

    def views(self, unit: Sequence[Target], model: ModelConfig, rng: np.random.Generator, progress: float) -> Views:
        from lightningrl.training.distillation.states import merged

        return merged([self._views(target, model, rng) for target in unit])

    def _views(self, target: Target, model: ModelConfig, rng: np.random.Generator) -> Views:
        from lightningrl.training.distillation.states import block_views, drawn_segment, segment_views

        keys: DParallelConfig = self.config
        if model.attention == "block_causal":
            masked_L = rng.random(target.length) < keys.mask_rate
            return block_views(target.ids, masked_L, target.prompt_len, model.block_size, model.mask_token_id)
        start, end = target.prompt_len, target.length
        if keys.segment == "block" or (keys.segment == "model" and not model.logit_shift):
            start, end = drawn_segment(target, keys.block_size, rng, keys.compat)
        return segment_views(target.ids, start, rng.random(end - start) < keys.mask_rate, model.mask_token_id)
