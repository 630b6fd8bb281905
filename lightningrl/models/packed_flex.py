"""Attention over a packed row (models/packed_layout.py) by torch's flex attention: the mask is a function.

Experimental: for CUDA, where the compiled kernel skips tiles that nobody sees; no GPU run is on record. On the CPU it
is the uncompiled reference without a backward pass, which only tests use.

Shapes: Q positions of the row; E tiles of `TILE` positions that cover it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from lightningrl.models.canvas import CanvasLayout
from lightningrl.models.packed_layout import Intervals, PackedLayout

TILE = 128
"""Positions of a side of flex attention's sparse tiles: its default."""


def mask_function(intervals: Intervals, device: torch.device | str) -> Callable[..., Tensor]:
    """flex attention's `mask_mod`: (batch, head, query, key) -> whether the query sees the key."""
    past_from, past_to, own_from, own_to = (torch.from_numpy(a).to(device, torch.int32) for a in intervals)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        in_past = (key >= past_from[query]) & (key < past_to[query])
        return in_past | ((key >= own_from[query]) & (key < own_to[query]))

    return sees


def tile_tables(intervals: Intervals, tile: int = TILE) -> tuple[np.ndarray, np.ndarray]:
    """(E, E) bool: tiles of (queries, keys) where some query sees some key; and where all see all."""
    length = len(intervals.past_to)
    count = -(-length // tile)
    row_Q = np.arange(length) // tile
    steps = np.zeros((count, count + 1), dtype=np.int64)
    for start, stop in ((intervals.past_from, intervals.past_to), (intervals.own_from, intervals.own_to)):
        some = stop > start
        np.add.at(steps, (row_Q[some], start[some] // tile), 1)
        np.add.at(steps, (row_Q[some], (stop[some] - 1) // tile + 1), -1)
    touched = steps.cumsum(axis=1)[:, :count] > 0
    # A tile is whole only through the past: a copy is narrower than a tile, or it is computed with the mask.
    pad = count * tile - length
    latest_E = np.pad(intervals.past_from, (0, pad)).reshape(count, tile).max(axis=1)
    earliest_E = np.pad(intervals.past_to, (0, pad)).reshape(count, tile).min(axis=1)
    edge = np.arange(count) * tile
    return touched, (latest_E[:, None] <= edge) & (edge + tile <= earliest_E[:, None])


def block_mask(layout: PackedLayout | CanvasLayout, device: torch.device | str) -> BlockMask:
    """The sparse mask of a row, made on the host without a (Q, Q) table."""
    touched, whole = tile_tables(layout.intervals)
    return BlockMask.from_kv_blocks(
        *_lists(touched & ~whole, device),
        *_lists(whole, device),
        BLOCK_SIZE=TILE,
        mask_mod=mask_function(layout.intervals, device),
        seq_lengths=(layout.num_tokens, layout.num_tokens),
    )


def _lists(table_EE: np.ndarray, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """How many key tiles each query tile has, and which, those first: (1, 1, E) and (1, 1, E, E) int32."""
    order = np.argsort(~table_EE, axis=1, kind="stable")
    count, index = table_EE.sum(axis=1)[None, None], order[None, None]
    return torch.from_numpy(count).to(device, torch.int32), torch.from_numpy(index).to(device, torch.int32)


@cache
def _compiled() -> Callable[..., Tensor]:
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(True)  # now the compiler, too, is told: `use_threads` does not import it
    return torch.compile(flex_attention, dynamic=True)  # type: ignore[return-value]


class FlexPacked:
    """An `Attend` (models/transformer.py) for one packed row: q (1, N, Q, D), k and v (1, M, Q, D)."""

    def __init__(self, layout: PackedLayout | CanvasLayout, device: torch.device | str):
        self.mask = block_mask(layout, device)

    def __call__(self, layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
        kernel = _compiled() if q_BNQD.is_cuda else flex_attention
        return kernel(q_BNQD, k_BMQD, v_BMQD, block_mask=self.mask, enable_gqa=True)  # type: ignore[return-value]
