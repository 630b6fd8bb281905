"""An objective of supervised training: from a sequence to noisy rows, and from rows to a loss.

It is made with the model's config, which says how its positions see each other and whether its logits are shifted, and
with the phase of the training that it is for, or the run, of which it reads `copies`. Raises ConfigError then for a
model that it is not made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor

from lightningrl.models.transformer import ModelConfig, Transformer
from lightningrl.training.supervised.corpus import TrainingSequence

if TYPE_CHECKING:
    from lightningrl.config.model import Phase
    from lightningrl.config.train import Run

Row = tuple[Any, np.ndarray]
"""A row of the model's forward, which says its `num_tokens`, and the weight of each scored token in row order."""


class Objective(Protocol):
    """What a phase of supervised training learns."""

    def __init__(self, config: ModelConfig, phase: Phase | Run) -> None: ...

    def rows(self, sequence: TrainingSequence, rng: np.random.Generator) -> list[Row]:
        """Returns one or more rows of a sequence, with noise that is drawn from `rng`."""
        ...

    def loss(self, model: Transformer, rows: Sequence[Row]) -> Tensor:
        """Returns the sum over the rows' scored tokens of weight times -log p, nats: a differentiable scalar."""
        ...
