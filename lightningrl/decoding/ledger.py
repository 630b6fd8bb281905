"""What forwards were run: the count behind every compute and throughput figure. Per-row counts are in DecodeStats.

Over all forwards, positions and keys of a kind are the sums over the responses: where no rows share a prompt, those of
kind `prefill` are the responses' `prefill_positions` and `prefill_keys`; those of all kinds but `prefill` and
`recompute` are their `decode_positions` and `decode_keys`. What was computed a second time, for rows that had given
their pages up, is of kind `recompute` and in no response's counts. A prompt that rows share counts here once, for the
row that computed it, while each of their responses has it in its own counts, as if it were alone. A request that ended
with an error leaves its forwards here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

WITHOUT_TOKENS = ("prefill", "recompute")
"""The kinds of parts that only write keys and values of what is known when a row enters, or comes back."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one forward that did the same over equally many positions."""

    kind: str
    """`prefill`, `recompute` (what had been computed before, for a row that lost its pages), `denoise`, `fused` (commit
    and denoise), `commit`, `refresh` (the whole canvas, which denoises too and whose keys and values are kept)."""
    rows: int
    query_tokens: int
    """Query positions per row, those of its twin among them."""
    kv_tokens: int
    """Keys that the part's queries see at most."""
    revealed: int
    """Positions revealed, over all rows."""
    keys: int = 0
    """Keys that the query positions attended to, summed over the positions of all rows."""

    @property
    def positions(self) -> int:
        """Token-forwards: query positions over all rows."""
        return self.rows * self.query_tokens


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward of the engine: rows at different blocks and steps share it."""

    parts: tuple[Part, ...]
    seconds: float
    """Seconds of the engine's turn: the forward, the draws, the bookkeeping."""

    @property
    def positions(self) -> int:
        return sum(part.positions for part in self.parts)


@dataclass(slots=True)
class Ledger:
    """Forwards since the last `clear`."""

    forwards: list[Forward] = field(default_factory=list)
    preemptions: int = 0
    """Rows that gave their pages up and were recomputed later."""

    def add(self, forward: Forward) -> None:
        self.forwards.append(forward)

    @property
    def positions(self) -> int:
        return sum(forward.positions for forward in self.forwards)

    def clear(self) -> None:
        self.forwards.clear()
        self.preemptions = 0


def parts_of(
    seen_S: Sequence[int],
    span_B: np.ndarray,
    kind_B: np.ndarray,
    queries_B: np.ndarray,
    keys_B: np.ndarray,
    revealed_B: np.ndarray,
) -> tuple[Part, ...]:
    """The rows of a forward by span and by what they did. seen_S: the keys that each span sees at most; span_B: the
    span of each row; and of each row its kind, its query positions, the keys that they attend to, and what it revealed.
    """
    counts: dict[tuple[int, str, int], list[int]] = {}
    columns = (column.tolist() for column in (span_B, kind_B, queries_B, keys_B, revealed_B))
    for span, kind, queries, keys, revealed in zip(*columns, strict=True):
        count = counts.setdefault((span, kind, queries), [0, 0, 0])
        count[0], count[1], count[2] = count[0] + 1, count[1] + revealed, count[2] + keys
    return tuple(
        Part(kind, rows, queries, seen_S[span], revealed, keys)
        for (span, kind, queries), (rows, revealed, keys) in sorted(counts.items())
    )
