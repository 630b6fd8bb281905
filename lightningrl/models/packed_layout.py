"""Who sees whom in a packed row, in two intervals a query; no dense mask anywhere.

A packed row holds segments one after another, each `[clean | copies]`: the clean tokens of one sequence, then noisy
copies of single blocks of it. A clean position sees the clean positions of its own and earlier blocks; a position of a
copy of block b sees the clean positions of the blocks before b, and its own copy. Nothing sees another segment.
That is SDAR's doubled mask (block diagonal, offset block causal, block causal) with any number of noisy copies a block.

Shapes: S segments; C copies of a segment; K block size; Q positions of the whole row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One sequence. A copy of block b needs b * K clean positions before it."""

    clean: int
    """T: clean positions."""
    copy_block: np.ndarray
    """[C] int64: the block each copy stands for, any order; equal neighbours are computed together."""


@dataclass(frozen=True, slots=True, eq=False)
class Intervals:
    """[Q] int64 each: query q sees keys past_from <= k < past_to and own_from <= k < own_to."""

    past_from: np.ndarray
    past_to: np.ndarray
    own_from: np.ndarray
    """Of a copy's positions; own_from = own_to = 0 for clean ones."""
    own_to: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Queries start <= q < stop that are computed together: clean positions, or whole copies, of one segment.

    They see keys of key_start <= k < key_start + keys, query i the first limit[i] of them; copies also see themselves.
    """

    start: int
    stop: int
    copies: bool
    key_start: int
    limit: np.ndarray

    @property
    def keys(self) -> int:
        return int(self.limit.max())

    @property
    def seen_by_all(self) -> int:
        """So many first keys are hidden from no query; only those behind them need a mask."""
        return int(self.limit.min())


class PackedLayout:
    """Segments in one row.

    >>> layout = PackedLayout(2, [Segment(4, np.array([1, 1, 2]))])
    >>> layout.num_tokens, layout.intervals.past_to.tolist()
    (10, [2, 2, 4, 4, 2, 2, 2, 2, 4, 4])
    """

    def __init__(self, block_size: int, segments: Sequence[Segment]):
        self.block_size, self.segments = block_size, tuple(segments)
        for segment in self.segments:
            assert segment.clean >= block_size * max(segment.copy_block, default=0), "a copy without its clean past"
        lengths = [segment.clean + block_size * len(segment.copy_block) for segment in self.segments]
        self.starts = np.cumsum([0, *lengths])[:-1]
        self.num_tokens = sum(lengths)

    @cached_property
    def intervals(self) -> Intervals:
        """For kernels that take the mask as a function of (query, key)."""
        size, columns = self.block_size, []
        for start, segment in zip(self.starts, self.segments, strict=True):
            clean, copies = np.arange(segment.clean), len(segment.copy_block)
            own = start + segment.clean + np.repeat(np.arange(copies) * size, size)
            none = np.zeros(segment.clean, dtype=np.int64)
            seen_clean = np.minimum((clean // size + 1) * size, segment.clean)
            past_to = start + np.concatenate([seen_clean, np.repeat(segment.copy_block * size, size)])
            past_from = np.full_like(past_to, start)
            columns.append((past_from, past_to, np.concatenate([none, own]), np.concatenate([none, own + size])))
        return Intervals(*(np.concatenate(column) for column in zip(*columns, strict=True)))

    def tiles(self, span_tokens: int, most_pairs: int) -> Iterator[Tile]:
        """Cut the queries into tiles whose limits differ by at most `span_tokens` or one block, in order.

        So at most that many keys a query are computed in vain. A tile has at most `most_pairs` pairs of a query and a
        key, its own copies' included, as long as it has more than one copy, or one clean block.
        """
        for start, segment in zip(self.starts.tolist(), self.segments, strict=True):
            clean = np.arange(0, segment.clean, self.block_size)
            limits = np.minimum(clean + self.block_size, segment.clean)
            for first, last in self._runs(limits, span_tokens, most_pairs):
                limit = np.minimum(np.repeat(limits[first:last], self.block_size), segment.clean)
                limit = limit[: min(last * self.block_size, segment.clean) - first * self.block_size]
                begin = start + first * self.block_size
                yield Tile(begin, begin + len(limit), False, start, limit)
            limits = segment.copy_block * self.block_size
            for first, last in self._runs(limits, span_tokens, most_pairs):
                begin = start + segment.clean + first * self.block_size
                limit = np.repeat(limits[first:last], self.block_size)
                yield Tile(begin, begin + len(limit), True, start, limit)

    def _runs(self, limits: np.ndarray, span_tokens: int, most_pairs: int) -> Iterator[tuple[int, int]]:
        """Cut blocks of K queries with these limits into runs: (first, behind the last)."""
        size, first = self.block_size, 0
        low = high = int(limits[0]) if len(limits) else 0
        for index, limit in enumerate(limits.tolist()):
            lower, higher = min(low, limit), max(high, limit)
            pairs = (index + 1 - first) * size * (higher + size)
            if index > first and (higher - lower > span_tokens or pairs > most_pairs):
                yield first, index
                first, lower, higher = index, limit, limit
            low, high = lower, higher
        if len(limits):
            yield first, len(limits)
