"""Whole sequences for training: rows beside each other, padded at their ends; positions see all, or those before them.

This is for models with full attention, whose sequence is one canvas, and for causal ones. Block-causal models have
packed rows instead (models/packing.py), in which copies of single blocks share one clean past. The head is evaluated at
scored positions only (models/head.py).

Shapes: B rows; Q positions of the longest; n scored positions of a row; N, M query and key/value heads; D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightningrl.models.head import token_log_probs
from lightningrl.models.transformer import Transformer


@dataclass(frozen=True, slots=True, eq=False)
class SequenceRow:
    """One sequence as the model sees it, and what is scored in it."""

    ids: np.ndarray
    """[Q] int64, masked positions holding the mask token."""
    at: np.ndarray
    """[n] int64: the positions whose logits predict the targets."""
    target_ids: np.ndarray
    """[n] int64: the tokens to score."""

    @property
    def num_tokens(self) -> int:
        """Positions of its forward: the cost."""
        return len(self.ids)


class PaddedAttention:
    """An `Attend` (models/transformer.py) of rows of these lengths: a position sees all of its row, or, where `causal`,
    those up to itself. What pads see is of no use to anybody, but finite."""

    def __init__(self, lengths: Sequence[int], causal: bool, device: torch.device):
        longest, self.causal = max(lengths), causal
        self.seen_B1QQ: Tensor | None = None
        if not causal and min(lengths) < longest:  # causal rows do not see the pads behind them
            positions = torch.arange(longest, device=device)
            self.seen_B1QQ = (positions < torch.tensor(lengths, device=device)[:, None])[:, None, None]

    def __call__(self, layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            q_BNQD, k_BMQD, v_BMQD, attn_mask=self.seen_B1QQ, is_causal=self.causal, enable_gqa=True
        )


def sequence_log_probs(model: Transformer, rows: Sequence[SequenceRow], causal: bool) -> Tensor:
    """(all scored tokens of the rows,) log-probability of each target, in row order; nats, differentiable."""
    return model(lambda m: token_log_probs(m, *scored_sequences(m, rows, causal)))[0]


def scored_sequences(model: Transformer, rows: Sequence[SequenceRow], causal: bool) -> tuple[Tensor, Tensor]:
    """(n, H) hidden states at the scored positions of all rows, in row order, differentiable; (n,) their targets."""
    device, lengths = model.device, [row.num_tokens for row in rows]
    ids_BQ = np.zeros((len(rows), max(lengths)), dtype=np.int64)
    for line, row in zip(ids_BQ, rows, strict=True):
        line[: row.num_tokens] = row.ids
    at = np.concatenate([number * ids_BQ.shape[1] + row.at for number, row in enumerate(rows)])
    target = np.concatenate([row.target_ids for row in rows])
    positions_BQ = torch.arange(ids_BQ.shape[1], device=device).expand(ids_BQ.shape)
    hidden_BQH = model.hidden(
        torch.from_numpy(ids_BQ).to(device), positions_BQ, PaddedAttention(lengths, causal, device)
    )
    return hidden_BQH.flatten(0, 1)[torch.from_numpy(at).to(device)], torch.from_numpy(target).to(device)
