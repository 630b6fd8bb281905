"""Packed rows for training: one clean copy of a sequence, and a noisy copy of one block for each state trained on.

What a state is, the caller decides: rl/likelihood.py has one for each denoise forward of a trajectory,
pretraining/objective.py draws them at random. The attention is models/attention.PackedBlocks.

Shapes: B rows; T clean positions; C copies a row; K block size; n scored positions of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightningrl.models.attention import PackedBlocks
from lightningrl.models.sdar import SDAR


@dataclass(frozen=True, slots=True, eq=False)
class PackedRow:
    """One sequence with its states.

    >>> row = PackedRow(np.array([5, 6, 7, 8]), np.array([1]), np.array([[3, 9, 9, 9]]), np.array([[3, 1, 2, 4]]),
    ...     np.array([[0, 1, 0, 0]], dtype=bool))
    >>> row.num_tokens
    8
    """

    clean_ids: np.ndarray
    """[T] int64: every block but the last, which no state sees."""
    copy_block: np.ndarray
    """[C] int64: the block each state is of."""
    copy_ids: np.ndarray
    """[C, K] int64: the state, masked positions holding the mask token."""
    target_ids: np.ndarray
    """[C, K] int64: the tokens to score."""
    scored: np.ndarray
    """[C, K] bool: where a token is scored; only there the head is evaluated."""

    @property
    def num_tokens(self) -> int:
        """Positions of its forward: the cost."""
        return len(self.clean_ids) + self.copy_ids.size


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Rows padded to one shape, on a device; scored positions in row, copy, column order."""

    clean_BT: Tensor
    copy_block_BC: Tensor
    copy_ids_BCK: Tensor
    target_n: Tensor
    row_n: Tensor
    copy_n: Tensor
    column_n: Tensor


def pack(rows: Sequence[PackedRow], mask_token_id: int, device: torch.device | str = "cpu") -> Packed:
    """Pad rows on the right; padding copies stand for block 0, see only themselves and are never scored."""
    block = rows[0].copy_ids.shape[1]
    length = max(block, max(len(row.clean_ids) for row in rows))
    copies = max(len(row.copy_block) for row in rows)
    clean_BT = np.full((len(rows), length), mask_token_id, dtype=np.int64)
    copy_block_BC = np.zeros((len(rows), copies), dtype=np.int64)
    copy_ids_BCK = np.full((len(rows), copies, block), mask_token_id, dtype=np.int64)
    target_BCK = np.zeros_like(copy_ids_BCK)
    scored_BCK = np.zeros(copy_ids_BCK.shape, dtype=bool)
    for index, row in enumerate(rows):
        clean_BT[index, : len(row.clean_ids)] = row.clean_ids
        here = (index, slice(0, len(row.copy_block)))
        copy_block_BC[here], copy_ids_BCK[here] = row.copy_block, row.copy_ids
        target_BCK[here], scored_BCK[here] = row.target_ids, row.scored
    row_n, copy_n, column_n = np.nonzero(scored_BCK)
    arrays = (clean_BT, copy_block_BC, copy_ids_BCK, target_BCK[scored_BCK], row_n, copy_n, column_n)
    return Packed(*(torch.from_numpy(array).to(device) for array in arrays))


def scored_log_probs(model: SDAR, packed: Packed, temperature: float = 1.0) -> Tensor:
    """(n, V) log-probabilities at the scored positions, in nats; differentiable."""
    return model.log_probs(scored_hidden(model, packed), temperature)


def scored_hidden(model: SDAR, packed: Packed) -> Tensor:
    """(n, H) hidden states at the scored positions; differentiable."""
    rows, _, size = packed.copy_ids_BCK.shape
    length = packed.clean_BT.shape[1]
    device = packed.clean_BT.device
    offset_K = torch.arange(size, device=device)
    clean_position_BT = torch.arange(length, device=device).expand(rows, -1)
    copy_position_BCK = packed.copy_block_BC[:, :, None] * size + offset_K
    ids_BQ = torch.cat([packed.clean_BT, packed.copy_ids_BCK.flatten(1)], dim=1)
    positions_BQ = torch.cat([clean_position_BT, copy_position_BCK.flatten(1)], dim=1)
    attend = PackedBlocks(length, size, packed.copy_block_BC)
    hidden_BQH = model.hidden(ids_BQ, positions_BQ, attend)
    at_n = length + packed.copy_n * size + packed.column_n
    return hidden_BQH[packed.row_n, at_n]
