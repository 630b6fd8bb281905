"""Packed rows for training: one clean copy of a sequence, and a noisy copy of one block for each state trained on; or,
for models with full or causal attention, whole sequences alone (models/canvas.py).

What a state is, the caller decides: rl/likelihood.py has one for each denoise forward of a trajectory,
training/supervised/objective.py draws them at random. Rows stand one after another in one forward, without padding; who
sees whom is in models/packed_layout.py, and the head is evaluated at scored positions only (models/head.py).

Shapes: T clean positions of a row; C copies of a row; K block size; Q positions of the forward; n scored positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lightningrl.models.canvas import CanvasAttention, CanvasLayout, CanvasRow
from lightningrl.models.head import token_log_probs
from lightningrl.models.packed_attention import PackedBlocks
from lightningrl.models.packed_flex import FlexPacked
from lightningrl.models.packed_layout import PackedLayout, Segment
from lightningrl.models.transformer import Attend, Transformer

ALL = slice(None)
"""Every copy of a row."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedRow:
    """One sequence with its states."""

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
    is_canvas: bool = False
    """Each copy is a whole canvas, for a model with full attention: K is its length, and nothing else is seen."""

    @property
    def num_tokens(self) -> int:
        """Positions of its forward: the cost."""
        return len(self.clean_ids) + self.copy_ids.size

    @property
    def num_scored(self) -> int:
        """Tokens that are scored."""
        return int(np.count_nonzero(self.scored))

    def part(self, copies: slice | np.ndarray) -> PackedRow:
        """The row with these copies only (in time), and with the clean blocks that they see."""
        blocks, size = self.copy_block[copies], self.copy_ids.shape[1]
        clean_ids = self.clean_ids[: blocks.max() * size]
        own = {"copy_block": blocks, "copy_ids": self.copy_ids[copies], "target_ids": self.target_ids[copies]}
        return replace(self, clean_ids=clean_ids, scored=self.scored[copies], **own)

    def split(self, positions: int) -> list[slice]:
        """As few parts as have at most `positions` positions each, or one copy; in order, no copy in two of them."""
        size, parts, first, behind = self.copy_ids.shape[1], [], 0, 0
        for copy, block in enumerate(self.copy_block.tolist()):
            behind = max(behind, block)
            if copy > first and (behind + copy + 1 - first) * size > positions:
                parts.append(slice(first, copy))
                first, behind = copy, block
        return [*parts, slice(first, len(self.copy_block))] if parts else [ALL]


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Rows one behind the other in one forward, on a device; scored positions in row, copy, column order."""

    layout: PackedLayout | CanvasLayout
    ids_1Q: Tensor
    positions_1Q: Tensor
    """The position of each token in its own sequence."""
    at_n: Tensor
    """Where each scored token is predicted, as an index into the forward; `position_n`: where it stands in its
    sequence."""
    target_n: Tensor
    row_n: Tensor
    position_n: Tensor


def pack(rows: Sequence[PackedRow], device: torch.device | str = "cpu", logit_shift: bool = False) -> Packed:
    """Put rows one after another, nothing between them.

    logit_shift: the model's (`ModelConfig`). A token is then predicted by the position before it: of its own copy, or,
    the first of a block, by the clean copy of the block before, as it is decoded. The first position of a sequence,
    which is predicted by none, keeps its own.
    """
    if rows[0].is_canvas:
        layout = CanvasLayout([row.copy_ids.shape[1] for row in rows for _ in row.copy_block])
        starts = np.cumsum([0, *(row.copy_ids.size for row in rows)])[:-1]
    else:
        layout = PackedLayout(rows[0].copy_ids.shape[1], [Segment(len(row.clean_ids), row.copy_block) for row in rows])
        starts = layout.starts
    ids, positions, at, target, number, position = [], [], [], [], [], []
    for index, (start, row) in enumerate(zip(starts, rows, strict=True)):
        block = row.copy_ids.shape[1]
        position_CK = row.copy_block[:, None] * block + np.arange(block)
        ids += [row.clean_ids, row.copy_ids.ravel()]
        positions += [np.arange(len(row.clean_ids)), position_CK.ravel()]
        at_CK = start + len(row.clean_ids) + np.arange(position_CK.size).reshape(position_CK.shape)
        if logit_shift:
            before_C1 = start + position_CK[:, :1] - 1
            at_CK = np.where(position_CK == 0, at_CK, np.concatenate([before_C1, at_CK[:, :-1]], axis=1))
        at.append(at_CK[row.scored])
        target.append(row.target_ids[row.scored])
        number.append(np.full(len(target[-1]), index))
        position.append(position_CK[row.scored])
    ids_Q, positions_Q, *scored = (
        torch.from_numpy(np.concatenate(parts)).to(device) for parts in (ids, positions, at, target, number, position)
    )
    return Packed(layout, ids_Q[None], positions_Q[None], *scored)


def pack_canvases(
    rows: Sequence[CanvasRow], device: torch.device | str = "cpu", logit_shift: bool = False
) -> Packed:  # fmt: skip
    """Puts whole canvases one after another, nothing between them; `logit_shift` as for `pack`."""
    layout = CanvasLayout([len(row.ids) for row in rows], [row.limits for row in rows])
    positions = [np.arange(len(row.ids)) for row in rows]
    scored = [np.flatnonzero(row.scored) for row in rows]
    at = [np.maximum(position - 1, 0) if logit_shift else position for position in scored]
    both = zip(layout.starts, at, strict=True)
    columns = (
        np.concatenate([row.ids for row in rows]),
        np.concatenate(positions),
        np.concatenate([start + where for start, where in both]),
        np.concatenate([row.target_ids[row.scored] for row in rows]),
        np.repeat(np.arange(len(rows)), [len(each) for each in scored]),
        np.concatenate(scored),
    )
    ids_Q, positions_Q, *rest = (torch.from_numpy(column.astype(np.int64)).to(device) for column in columns)
    return Packed(layout, ids_Q[None], positions_Q[None], *rest)


def token_scores(model: Transformer, packed: Packed, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """(n,) log-probability of each target, differentiable; (n,) entropy at its state, detached; nats."""
    return model(lambda m: token_log_probs(m, scored_hidden(m, packed), packed.target_n, temperature))


def scored_hidden(model: Transformer, packed: Packed) -> Tensor:
    """(n, H) hidden states at the scored positions; differentiable."""
    hidden_BQH = model.hidden(packed.ids_1Q, packed.positions_1Q, attend_packed(packed.layout, packed.ids_1Q.device))
    return hidden_BQH[0, packed.at_n]


def attend_packed(layout: PackedLayout | CanvasLayout, device: torch.device) -> Attend:
    """The way of attending for a layout and a device; the kernel for CUDA is experimental."""
    if device.type == "cuda" and not (isinstance(layout, CanvasLayout) and layout.needs_no_mask):
        return FlexPacked(layout, device)
    return CanvasAttention(layout) if isinstance(layout, CanvasLayout) else PackedBlocks(layout)
