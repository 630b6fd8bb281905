"""The objective of autoregressive language models: each response token from all tokens before it, end token included.

Models with shifted logits and full attention (Dream) begin with it, under a causal mask, as the published one began
with an autoregressive model. The pads of a canvas are not learnt: after its end token such a model writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lightningrl.errors import ConfigError
from lightningrl.models.canvas import CanvasRow, causal_limits
from lightningrl.models.packing import pack_canvases, token_scores
from lightningrl.models.transformer import ModelConfig, Transformer
from lightningrl.training.supervised.corpus import TrainingSequence
from lightningrl.training.supervised.objectives.protocol import Row

if TYPE_CHECKING:
    from lightningrl.config.model import Phase
    from lightningrl.config.train import Run


class NextToken:
    """Predicts each response token by the logits of the position before it, which sees what is before it alone."""

    def __init__(self, config: ModelConfig, phase: Phase | Run) -> None:
        if not config.logit_shift:
            raise ConfigError(
                "the objective `next_token` is for models whose logits predict the next position's token; those of a "
                f"{config.family} model predict their own. Take `masked` (full attention) or `masked_next` "
                "(block-causal)"
            )

    def rows(self, sequence: TrainingSequence, rng: np.random.Generator) -> list[Row]:
        prompt, end = len(sequence.prompt_ids), len(sequence.response_ids) - sequence.pads
        ids = np.concatenate([sequence.prompt_ids, sequence.response_ids[:end]])
        seen = ids[:-1]  # each token stands as the target of the one before it; nothing is predicted by the last
        row = CanvasRow(seen, ids[1:], np.arange(1, len(ids)) >= prompt, causal_limits(len(seen)))
        return [(row, np.ones(row.num_scored))]

    def loss(self, model: Transformer, rows: Sequence[Row]) -> Tensor:
        return cross_entropy(model, rows, logit_shift=False)


def cross_entropy(model: Transformer, rows: Sequence[Row], logit_shift: bool) -> Tensor:
    """Returns the sum of weight times -log p over all scored tokens of whole sequences, nats; differentiable.

    logit_shift: whether a target is predicted by the position before its own.
    """
    logp_n, _ = token_scores(model, pack_canvases([row for row, _ in rows], model.device, logit_shift))
    weight_n = torch.from_numpy(np.concatenate([weight for _, weight in rows])).to(logp_n)
    return -(weight_n * logp_n).sum()
