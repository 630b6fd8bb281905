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
from lightningrl.models.padded_rows import SequenceRow, sequence_log_probs
from lightningrl.models.transformer import ModelConfig, Transformer
from lightningrl.training.supervised.corpus import TrainingSequence
from lightningrl.training.supervised.objectives.protocol import Row

if TYPE_CHECKING:
    from lightningrl.config.model import Phase


class NextToken:
    """Predicts each response token by the logits of the position before it, which sees what is before it alone."""

    def __init__(self, config: ModelConfig, phase: Phase) -> None:
        if not config.logit_shift:
            raise ConfigError(
                "the objective `next_token` is for models whose logits predict the next position's token; those of a "
                f"{config.family} model predict their own. Take `masked` (full attention) or `masked_next` "
                "(block-causal)"
            )

    def rows(self, sequence: TrainingSequence, rng: np.random.Generator) -> list[Row]:
        prompt, end = len(sequence.prompt_ids), len(sequence.response_ids) - sequence.pads
        ids = np.concatenate([sequence.prompt_ids, sequence.response_ids[:end]])
        position = np.arange(prompt, len(ids))
        return [(SequenceRow(ids[:-1], position - 1, ids[position]), np.ones(len(position)))]

    def loss(self, model: Transformer, rows: Sequence[Row]) -> Tensor:
        return cross_entropy(rows, sequence_log_probs(model, [row for row, _ in rows], causal=True))


def cross_entropy(rows: Sequence[Row], logp_n: Tensor) -> Tensor:
    """The sum of weight times -log p over all scored tokens of the rows, nats."""
    weight_n = torch.from_numpy(np.concatenate([weight for _, weight in rows])).to(logp_n)
    return -(weight_n * logp_n).sum()
