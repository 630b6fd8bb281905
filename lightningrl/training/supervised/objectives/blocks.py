"""SDAR's objectives: block diffusion, and its limit of block size 1 for the warm start (`supervised.objective`).

Where the model's logits are shifted, as Fast-dLLM v2's, a block's first token is predicted by the block before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from lightningrl.errors import ConfigError
from lightningrl.models.transformer import ModelConfig, Transformer
from lightningrl.training.supervised.corpus import TrainingSequence
from lightningrl.training.supervised.objective import autoregressive_row, diffusion_row, weighted_cross_entropy
from lightningrl.training.supervised.objectives.protocol import Row

if TYPE_CHECKING:
    from lightningrl.config.model import Phase
    from lightningrl.config.train import Run


class BlockDiffusion:
    """Masks a random part of each block; the blocks before it are clean."""

    def __init__(self, config: ModelConfig, phase: Phase | Run) -> None:
        if config.attention != "block_causal":
            raise ConfigError(
                f"the objective {type(self).__name__} is for models with block-causal attention; a {config.family} "
                f"model has {config.attention} attention. Take `masked` (full) or `next_token` (causal)"
            )
        self.config, self.copies = config, phase.copies

    def rows(self, sequence: TrainingSequence, rng: np.random.Generator) -> list[Row]:
        return [diffusion_row(sequence, self.config.block_size, self.copies, self.config.mask_token_id, rng)]

    def loss(self, model: Transformer, rows: Sequence[Row]) -> Tensor:
        return weighted_cross_entropy(model, rows)


class MaskedNext(BlockDiffusion):
    """Predicts each response token from a mask in its place and the clean past: block diffusion of block size 1."""

    def rows(self, sequence: TrainingSequence, rng: np.random.Generator) -> list[Row]:
        return [autoregressive_row(sequence, self.config.mask_token_id)]
