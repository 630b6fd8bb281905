"""d3LLM's pseudo-trajectory distillation (arXiv 2601.07568; hao-ai-lab/d3LLM).

As dParallel, with the order in which the model itself decoded an answer, one token a forward (`order`): a segment's
state is one that decoding went through, its complement the other. Two curricula run over the training: the share of a
segment that is masked begins anywhere and ends high, and segments grow. The loss is dParallel's, divided by four. An
answer that nobody decoded has its positions masked at random, as in the published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from lightningrl.config.section import Section
from lightningrl.training.distillation.algorithm import Certainty, CertaintyConfig

if TYPE_CHECKING:
    import numpy as np

    from lightningrl.models.transformer import ModelConfig
    from lightningrl.training.distillation.answers import Target
    from lightningrl.training.distillation.states import Views


class D3LLMConfig(CertaintyConfig):
    """The keys of d3LLM."""

    min_ratio: float = Field(0.0, ge=0, le=1)
    """The lower end of the share that is masked, at the beginning; it rises linearly to `max_ratio`."""
    max_ratio: float = Field(0.8, ge=0, le=1)
    """The upper end of the share that is masked, at all times."""
    block_sizes: list[int] = Field([16, 24, 32], min_length=1)
    """Positions of a segment in each equal part of the training, growing within one towards the next; block-causal
    models have their own blocks. Published: [16, 24, 32] for Dream, [16, 16, 24, 24, 32, 32] for LLaDA."""

    @model_validator(mode="after")
    def _ordered(self) -> D3LLMConfig:
        if self.min_ratio > self.max_ratio:
            raise ValueError(f"min_ratio: found {self.min_ratio}, allowed: at most max_ratio ({self.max_ratio})")
        if min(self.block_sizes) < 1:
            raise ValueError(f"block_sizes: found {self.block_sizes}, allowed: sizes of 1 or more")
        return self


def block_size_at(sizes: Sequence[int], progress: float) -> int:
    """Returns the size at a share of the training, linear within a part towards the next one's, truncated.

    >>> [block_size_at([16, 24, 32], share) for share in (0, 1 / 6, 1 / 3, 0.99)]
    [16, 20, 24, 32]
    """
    part, inside = divmod(progress * len(sizes), 1.0)
    here = sizes[int(part)]
    return int(here + inside * (sizes[min(int(part) + 1, len(sizes) - 1)] - here))


def visible_in(order: np.ndarray, start: int, end: int, ratio: float, compat: bool = False) -> np.ndarray:
    """Returns bool, which positions of a segment of the response a state shows: those that were revealed first in it,
    the share 1 - ratio of them, truncated.

    compat: the published index into the states of the whole response, start + (1 - ratio) (end - start), of which the
    first is the one after the first token; it shows that many of the segment only where the answer was decoded in
    blocks of this size, and one more.
    """
    import numpy as np

    count = int((1 - ratio) * (end - start))
    if compat:
        return order[start:end] <= min(start + count, int(order.max()) - 1) + 1
    return np.argsort(np.argsort(order[start:end], kind="stable"), kind="stable") < count


class D3LLM(Certainty):
    """The algorithm `d3llm`."""

    Config: ClassVar[type[Section]] = D3LLMConfig
    scale: ClassVar[float] = 0.25

    def views(self, unit: Sequence[Target], model: ModelConfig, rng: np.random.Generator, progress: float) -> Views:
        """One share and one size for the whole unit, as published for a batch."""
        from lightningrl.training.distillation.states import merged

        keys: D3LLMConfig = self.config
        lowest = keys.min_ratio + progress * (keys.max_ratio - keys.min_ratio)
        ratio, size = float(rng.uniform(lowest, keys.max_ratio)), block_size_at(keys.block_sizes, progress)
        return merged([self._views(target, model, rng, ratio, size) for target in unit])

    def _views(
        self, target: Target, model: ModelConfig, rng: np.random.Generator, ratio: float, size: int
    ) -> Views:  # fmt: skip
        import numpy as np

        from lightningrl.training.distillation.states import block_views, drawn_segment, segment_views

        compat, prompt_len = self.config.compat, target.prompt_len

        def masked(start: int, end: int) -> np.ndarray:
            if target.order is None:
                return rng.random(end - start) < 0.999 * ratio + 0.001
            return ~visible_in(target.order, start - prompt_len, end - prompt_len, ratio, compat)

        if model.attention != "block_causal":
            start, end = drawn_segment(target, size, rng, compat)
            return segment_views(target.ids, start, masked(start, end), model.mask_token_id)
        edges = np.r_[prompt_len, np.arange((prompt_len // model.block_size + 1) * model.block_size, target.length + 1,
                                            model.block_size)]  # fmt: skip
        found = [masked(start, end) for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
        masked_L = np.concatenate([np.zeros(prompt_len, dtype=bool), *found])
        return block_views(target.ids, masked_L, prompt_len, model.block_size, model.mask_token_id)
