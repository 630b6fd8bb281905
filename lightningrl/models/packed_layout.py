"""Who sees whom in a packed row, in two intervals a query; no dense mask anywhere.

A packed row holds segments one after another, each `[clean | copies]`: the clean tokens of one sequence, then noisy
copies of single blocks of it. A clean position sees the clean positions of its own and earlier blocks; a position of a
copy of block b sees the clean positions of the blocks before b, and its own copy. Nothing sees another segment.
That is SDAR's doubled mask (block diagonal, offset block causal, block causal) with several noisy copies per block.

Tiles are cut from the row with short segments next to each other padded to one shape, so that a whole run of them is
two tiles: many small products would cost more than what is computed of the pads.

Shapes: S segments; C copies of a segment; K block size; Q positions of the whole row, P with its pads; B segments of a
run, 1 of most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

MOST_PADDED = 1.25
"""Positions of a run, its pads included, over those without."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One sequence: clean positions, and copies of blocks. A copy of block b needs b * K clean positions before it."""

    clean: int
    copy_block: np.ndarray
    """[C] int64: the block each copy stands for, any order; equal neighbours are computed together."""


class Intervals(NamedTuple):
    """[Q] int64 each: query q sees keys past_from <= k < past_to and own_from <= k < own_to.

    The second is a copy's own positions; for clean ones own_from = own_to = 0.
    """

    past_from: np.ndarray
    past_to: np.ndarray
    own_from: np.ndarray
    own_to: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Queries that are computed together: clean positions, or whole copies, of one segment or of each of a run.

    Those of the run's first segment are start <= q < stop, of the padded row; those of the next lie `stride` behind.
    They see keys of key_start <= k < key_start + keys, query i of segment b the first limit[b, i] of them; copies also
    see themselves.
    """

    start: int
    stop: int
    copies: bool
    key_start: int
    limit: np.ndarray
    """[B, queries of a segment] int64."""
    stride: int = 0

    @property
    def keys(self) -> int:
        return int(self.limit.max())

    @property
    def seen_by_all(self) -> int:
        """So many first keys are hidden from no query; only those behind them need a mask."""
        return int(self.limit.min())


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Neighbouring segments padded to one shape, `[clean | copies]` each, from `start` on in the padded row."""

    start: int
    segments: tuple[Segment, ...]
    clean: int
    copies: int

    def limits(self, block_size: int) -> tuple[np.ndarray, np.ndarray]:
        """[B, clean] and [B, copies * K] int64: how many clean keys each query sees; pads see all."""
        clean = np.full((len(self.segments), self.clean), self.clean)
        copies = np.full((len(self.segments), self.copies), self.clean)
        ends = (np.arange(self.clean) // block_size + 1) * block_size
        for row, segment in enumerate(self.segments):
            clean[row, : segment.clean] = np.minimum(ends[: segment.clean], segment.clean)
            copies[row, : len(segment.copy_block)] = segment.copy_block * block_size
        return clean, np.repeat(copies, block_size, axis=1)


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

    def runs(self, short_tokens: int, most_pairs: int) -> list[Run]:
        """Cut the segments into runs, in order: those of at most `short_tokens` clean positions stand together while
        neither the clean queries nor the copies of all have more than `most_pairs` pairs, pads included, and the pads
        are few."""
        size, runs = self.block_size, list[Run]()
        start, members, clean, copies, tokens = 0, list[Segment](), 0, 0, 0
        for segment in self.segments:
            wider, more = max(clean, segment.clean), max(copies, len(segment.copy_block))
            count, own = len(members) + 1, segment.clean + len(segment.copy_block) * size
            fits = wider <= short_tokens and count * max(wider, more * size) * (wider + size) <= most_pairs
            if members and not (fits and count * (wider + more * size) <= MOST_PADDED * (tokens + own)):
                runs.append(Run(start, tuple(members), clean, copies))
                start += len(members) * (clean + copies * size)
                members, wider, more, tokens = [], segment.clean, len(segment.copy_block), 0
            members.append(segment)
            clean, copies, tokens = wider, more, tokens + own
        return [*runs, Run(start, tuple(members), clean, copies)] if members else runs

    def padding(self, runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray] | None:
        """[P] int64, the position of the row at each position of the padded row, Q at pads; and [Q] int64, the way
        back. None when nothing is padded."""
        size, at = self.block_size, list[np.ndarray]()
        starts = iter(self.starts.tolist())
        for run in runs:
            for segment in run.segments:
                start, pad = next(starts), self.num_tokens
                own = start + segment.clean + np.arange(size * len(segment.copy_block))
                at += [np.arange(start, start + segment.clean), np.full(run.clean - segment.clean, pad)]
                at += [own, np.full(size * run.copies - len(own), pad)]
        at_P = np.concatenate(at)
        if len(at_P) == self.num_tokens:
            return None
        return at_P, np.flatnonzero(at_P < self.num_tokens)

    def tiles(self, span_tokens: int, most_pairs: int, runs: Sequence[Run]) -> Iterator[Tile]:
        """Cut the queries into tiles: of a run of several segments its clean positions and its copies, else those whose
        limits differ by at most `span_tokens` or one block, in order.

        So at most that many keys a query are computed in vain. A tile has at most `most_pairs` pairs of a query and a
        key, its own copies' included, as long as it has more than one copy, or one clean block.
        """
        size = self.block_size
        for run in runs:
            stride, begin = run.clean + run.copies * size, run.start
            for is_copies, limit in enumerate(run.limits(size)):
                if len(run.segments) == 1:
                    for first, last in self._spans(limit[0, ::size], span_tokens, most_pairs):
                        part, at = limit[:, first * size : last * size], begin + first * size
                        yield Tile(at, at + part.shape[1], bool(is_copies), run.start, part)
                elif limit.size:
                    yield Tile(begin, begin + limit.shape[1], bool(is_copies), run.start, limit, stride)
                begin += limit.shape[1]

    def _spans(self, limits: np.ndarray, span_tokens: int, most_pairs: int) -> Iterator[tuple[int, int]]:
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
