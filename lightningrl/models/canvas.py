"""Whole sequences in one training forward, for models with full or causal attention: rows, who sees whom, attention.

It stands beside models/packing.py, which is for the copies of blocks of block-causal models. A row is one state of a
sequence: the tokens as the model sees them, masks among them, where it is scored, and with which tokens. Each position
sees the first `limits` positions of its own row, all of them where there are no limits, and nothing of another row.
Rows stand one after another without padding, so a row's numbers do not depend on its neighbours.

Shapes: L positions of a row; Q positions of the forward; n scored positions; N, M query and key/value heads; D head
size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightningrl.models.packed_layout import Intervals


@dataclass(frozen=True, slots=True, eq=False)
class CanvasRow:
    """One state of one sequence."""

    ids: np.ndarray
    """[L] int64: what the model sees, masked positions holding the mask token."""
    target_ids: np.ndarray
    """[L] int64: the tokens to score."""
    scored: np.ndarray
    """[L] bool: where a token is scored; only there the head is evaluated."""
    limits: np.ndarray | None = None
    """[L] int64: how many positions, from the row's first, each position sees; None: all."""

    @property
    def num_tokens(self) -> int:
        """Positions of its forward: the cost."""
        return len(self.ids)

    @property
    def num_scored(self) -> int:
        """Tokens that are scored."""
        return int(np.count_nonzero(self.scored))


def block_limits(prompt_len: int, length: int, block_size: int) -> np.ndarray:
    """Returns [L] int64, how far each position sees where the prompt is the first block, of any length, and blocks of
    `block_size` follow it to the row's end: D2F's mask (arXiv 2508.09192).

    >>> block_limits(3, 8, 2).tolist()
    [3, 3, 3, 5, 5, 7, 7, 8]
    """
    position = np.arange(length)
    end = prompt_len + ((position - prompt_len) // block_size + 1) * block_size
    return np.where(position < prompt_len, prompt_len, np.minimum(end, length))


def causal_limits(length: int) -> np.ndarray:
    """Returns [L] int64, how far each position sees where it sees itself and those before it."""
    return np.arange(1, length + 1)


class Neighbours(NamedTuple):
    """Rows of a forward that are computed as one batch: next to each other, of one length, seeing alike."""

    first: int
    """The number of the first of them among all rows, and `start` its first position in the forward."""
    start: int
    rows: int
    length: int


class CanvasLayout:
    """Rows one behind the other. It has what kernels for intervals ask of a layout (models/packed_flex.py).

    >>> CanvasLayout([5, 5, 7]).neighbours
    [Neighbours(first=0, start=0, rows=2, length=5), Neighbours(first=2, start=10, rows=1, length=7)]
    """

    def __init__(self, lengths: Sequence[int], limits: Sequence[np.ndarray | None] | None = None):
        self.lengths = list(lengths)
        self.limits = list(limits) if limits is not None else [None] * len(self.lengths)
        self.starts = np.cumsum([0, *self.lengths])[:-1]
        self.num_tokens = sum(self.lengths)

    @property
    def needs_no_mask(self) -> bool:
        """Whether every row has full or causal attention, of which kernels know without a table of who sees whom."""
        return all(limits is None or _is_causal(limits) for limits in self.limits)

    @property
    def intervals(self) -> Intervals:
        """The keys that each query sees; there are no copies."""
        start_Q = np.repeat(self.starts, self.lengths)
        both = zip(self.limits, self.lengths, strict=True)
        seen_Q = np.concatenate([np.full(length, length) if seen is None else seen for seen, length in both])
        none = np.zeros_like(start_Q)
        return Intervals(start_Q, start_Q + seen_Q, none, none)

    @property
    def neighbours(self) -> list[Neighbours]:
        """All rows, in order."""
        alike = [
            (length, None if seen is None else seen.tobytes())
            for length, seen in zip(self.lengths, self.limits, strict=True)
        ]
        found, first = [], 0
        for (length, _), members in groupby(alike):
            found.append(Neighbours(first, int(self.starts[first]), rows := len(list(members)), length))
            first += rows
        return found


class CanvasAttention:
    """An `Attend` (models/transformer.py), neighbours as one batch: q (1, N, Q, D), k and v (1, M, Q, D)."""

    def __init__(self, layout: CanvasLayout):
        self.neighbours = [(each, layout.limits[each.first]) for each in layout.neighbours]
        self._masks: list[Tensor | None] | None = None

    def __call__(self, layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
        if self._masks is None:  # the same for all layers
            self._masks = [_mask(limits, q_BNQD.device) for _, limits in self.neighbours]
        is_grouped = q_BNQD.shape[1] != k_BMQD.shape[1]
        mixed = []
        for ((_, start, rows, length), limits), mask in zip(self.neighbours, self._masks, strict=True):
            is_causal = limits is not None and mask is None
            q, k, v = (
                each[0, :, start : start + rows * length].unflatten(1, (rows, length)).transpose(0, 1)
                for each in (q_BNQD, k_BMQD, v_BMQD)
            )
            mixed_RNLD = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=is_grouped
            )
            mixed.append(mixed_RNLD.transpose(0, 1).flatten(1, 2))
        return torch.cat(mixed, dim=1)[None]


def _mask(limits: np.ndarray | None, device: torch.device) -> Tensor | None:
    """(L, L) bool: whether a query sees a key; None where all see all, or where the attention is causal."""
    if limits is None or _is_causal(limits):
        return None
    return torch.from_numpy(np.arange(len(limits)) < limits[:, None]).to(device)


def _is_causal(limits: np.ndarray) -> bool:
    return bool((limits == causal_limits(len(limits))).all())


Plan = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`Transformer.plan`."""


def planned(plan: Plan, hidden_QH: Tensor, layout: CanvasLayout, timestep_C: Tensor, open_Q: Tensor) -> Tensor:
    """(Q,) the planner's logits at every position of the rows; differentiable. timestep: of each row; open: bool."""
    found = []
    for first, start, rows, length in layout.neighbours:
        here = slice(start, start + rows * length)
        hidden_RLH, open_RL = hidden_QH[here].unflatten(0, (rows, length)), open_Q[here].view(rows, length)
        found.append(plan(hidden_RLH, timestep_C[first : first + rows], open_RL).flatten())
    return torch.cat(found)
