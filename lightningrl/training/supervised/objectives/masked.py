"""LLaDA's and Dream's objective: a random part of the whole response is masked, and the model sees the whole canvas.

LLaDA (arXiv 2502.09992, Eq. 5) masks each response token with a probability t, uniform in (0, 1), and weighs the loss
by 1/t. Here the number n of masked tokens is uniform in 1..m, m those of the response, at uniform places, with the
weight m/n: the same expectation without empty draws, as in block diffusion. In Dream (arXiv 2508.15487) the logits are
shifted: a masked token is predicted by the position before it. Its context-adaptive weights of tokens are not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from lightningrl.errors import ConfigError
from lightningrl.models.canvas import CanvasRow
from lightningrl.models.transformer import ModelConfig, Transformer
from lightningrl.training.supervised.corpus import TrainingSequence
from lightningrl.training.supervised.objectives.next_token import cross_entropy
from lightningrl.training.supervised.objectives.protocol import Row

if TYPE_CHECKING:
    from lightningrl.config.model import Phase
    from lightningrl.config.train import Run


class Masked:
    """Masks a random part of the response, and shows the rest, on both sides."""

    def __init__(self, config: ModelConfig, phase: Phase | Run) -> None:
        if config.attention != "full":
            raise ConfigError(
                f"the objective `masked` is for models with full attention; a {config.family} model has "
                f"{config.attention} attention. Take `block_diffusion` (block-causal) or `next_token` (causal)"
            )
        self.mask_token_id, self.copies = config.mask_token_id, phase.copies

    def rows(self, sequence: TrainingSequence, rng: np.random.Generator) -> list[Row]:
        prompt, maskable = len(sequence.prompt_ids), len(sequence.response_ids)
        ids, rows = np.concatenate([sequence.prompt_ids, sequence.response_ids]), list[Row]()
        for _ in range(self.copies):
            count = 1 + int(rng.random() * maskable)
            masked = np.zeros(len(ids), dtype=bool)
            masked[prompt + rng.permutation(maskable)[:count]] = True
            row = CanvasRow(np.where(masked, self.mask_token_id, ids), ids, masked)
            rows.append((row, np.full(count, maskable / count)))
        return rows

    def loss(self, model: Transformer, rows: Sequence[Row]) -> Tensor:
        return cross_entropy(model, rows, model.config.logit_shift)
