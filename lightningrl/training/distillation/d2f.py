"""D2F: a model that sees its whole canvas teaches itself to see block by block (arXiv 2508.09192, section 4).

Teacher and student are given one noisy answer. The student, block-causal with the prompt as its first block, learns the
distribution of the teacher, the weights as they were, which sees everything. Blocks are masked more and more along the
answer, so that the student learns to begin a block while the one before it is unfinished: its keys can be cached and
several blocks decoded at once (the schedule `block_pipeline`). With an adapter the teacher is the same model without
it; without one the frozen base is held beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from lightningrl.config.section import Section
from lightningrl.errors import ConfigError
from lightningrl.training.distillation.algorithm import Distillation, DistillationConfig

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from lightningrl.models.packing import Packed
    from lightningrl.models.transformer import ModelConfig, Transformer
    from lightningrl.training.distillation.answers import Target
    from lightningrl.training.distillation.states import Views


class D2FConfig(DistillationConfig):
    """The keys of D2F."""

    block_size: int = Field(16, gt=0)
    """Positions of a block of the student's attention, counted from the prompt's end."""
    min_rate: float = Field(0.2, ge=0, le=1)
    """The first block's mask rate at least; it is drawn up to `max_rate`."""
    max_rate: float = Field(0.7, gt=0, le=1)
    """No block's mask rate is above it. As published, a block that is wholly masked is hardly ever trained on, although
    decoding begins with it."""
    from_teacher: bool = True
    """Learn the teacher's distribution; false: the answer's own tokens."""
    beta2: float = Field(0.95, gt=0, lt=1)

    @model_validator(mode="after")
    def _ordered(self) -> D2FConfig:
        if self.min_rate > self.max_rate:
            raise ValueError(f"min_rate: found {self.min_rate}, allowed: at most max_rate ({self.max_rate})")
        return self


def mask_rates(count: int, longest: int, low: float, high: float, rng: np.random.Generator) -> np.ndarray:
    """Returns [count] rates that do not fall: the first within low to high, each later one a random part of an equal
    share of what is left to `high`. longest: blocks of the unit's longest answer, by which that share is measured.

    >>> import numpy as np
    >>> bool((np.diff(mask_rates(9, 9, 0.2, 0.7, np.random.default_rng(0))) >= 0).all())
    True
    """
    import numpy as np

    first = low + (high - low) * rng.random()
    steps = rng.random(count - 1) * (high - first) / max(1, longest - 1)
    return first + np.r_[0.0, np.cumsum(steps)]


class D2F(Distillation):
    """The algorithm `d2f`."""

    Config: ClassVar[type[Section]] = D2FConfig

    def __init__(self, config: Any):
        super().__init__(config)
        self.needs_reference = config.from_teacher and config.adapter is None

    def check(self, model: ModelConfig, where: str, beside: Mapping[str, ModelConfig] = MappingProxyType({})) -> None:
        super().check(model, where, beside)
        if model.attention != "full":
            raise ConfigError(
                f"{where}: d2f teaches a model that sees its whole canvas to see block by block, and a {model.family} "
                f"model has {model.attention} attention; start from LLaDA or Dream"
            )

    def views(self, unit: Sequence[Target], model: ModelConfig, rng: np.random.Generator, progress: float) -> Views:
        from lightningrl.training.distillation.states import merged

        keys: D2FConfig = self.config
        longest = max(-(-len(target.response_ids) // keys.block_size) for target in unit)
        return merged([self._views(target, model, rng, longest) for target in unit])

    def _views(self, target: Target, model: ModelConfig, rng: np.random.Generator, longest: int) -> Views:
        import numpy as np

        keys: D2FConfig = self.config
        blocks = -(-len(target.response_ids) // keys.block_size)
        rates = mask_rates(blocks, longest, keys.min_rate, keys.max_rate, rng)
        rate_N = np.repeat(rates, keys.block_size)[: len(target.response_ids)]
        masked_N = rng.random(len(rate_N)) < rate_N
        return noisy_views(target.ids, target.prompt_len, masked_N, rate_N, keys.block_size, model.mask_token_id)

    def extra_forwards(self, views: Views) -> int:
        return views.num_tokens if self.config.from_teacher else 0

    def loss(
        self, model: Transformer, reference: Transformer, packed: Packed, units: Sequence[Views]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        from dataclasses import replace

        from lightningrl.models.packing import pack_canvases
        from lightningrl.training.distillation.losses import teacher_log_probs, teacher_loss

        teacher_nV, bans = None, not self.config.compat
        if self.config.from_teacher:
            rows: Any = [replace(row, limits=None) for unit in units for row in unit.rows]
            whole = pack_canvases(rows, model.device, model.config.logit_shift)
            teacher_nV = teacher_log_probs(reference if self.needs_reference else model, whole, bans)
        return teacher_loss(model, packed, units, teacher_nV, bans)

    def logged(self, sums: dict[str, float]) -> dict[str, Any]:
        targets = max(1.0, sums["targets"])
        return {"targets": int(sums["targets"]), "cross_entropy": sums["cross_entropy"] / targets}


def noisy_views(
    ids_L: np.ndarray, prompt_len: int, masked_N: np.ndarray, rate_N: np.ndarray, block_size: int, mask_token_id: int
) -> Views:  # fmt: skip
    """Returns the student's state of one answer; each masked token counts by the inverse of its block's rate."""
    import numpy as np

    from lightningrl.models.canvas import CanvasRow, block_limits
    from lightningrl.training.distillation.states import Views

    masked_L = np.r_[np.zeros(prompt_len, dtype=bool), masked_N]
    limits = block_limits(prompt_len, len(ids_L), block_size)
    row = CanvasRow(np.where(masked_L, mask_token_id, ids_L), ids_L, masked_L, limits)
    return Views([row], np.zeros(row.num_scored, dtype=np.int64), 1 / rate_N[masked_N])
