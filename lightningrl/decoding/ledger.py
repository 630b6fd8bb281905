"""What forwards were run: the count behind every compute and throughput figure. Per-row counts are in DecodeStats."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one forward that did the same over equally many positions."""

    kind: str
    """`prefill`, `denoise`, `fused` (commit and denoise), `commit`, `refresh` (the whole canvas, which denoises too and
    whose keys and values are kept)."""
    rows: int
    query_tokens: int
    """Query positions a row."""
    kv_tokens: int
    """Keys that the part's queries see at most."""
    revealed: int
    """Positions revealed, over all rows."""

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
