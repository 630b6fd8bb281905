"""What forwards were run: the count behind every compute and throughput figure. Per-row counts are in DecodeStats."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward of the engine.

    >>> Forward("denoise", rows=4, query_tokens=8, kv_tokens=40, revealed=5, seconds=0.01).positions
    32
    """

    kind: str
    """`prefill`, `denoise`, `fused` (commit and denoise), `commit`."""
    rows: int
    query_tokens: int
    """Query positions a row."""
    kv_tokens: int
    """Keys a query could see at most."""
    revealed: int
    """Positions revealed, over all rows."""
    seconds: float

    @property
    def positions(self) -> int:
        """Token-forwards: query positions over all rows."""
        return self.rows * self.query_tokens


@dataclass(slots=True)
class Ledger:
    """Forwards since the last `clear`."""

    forwards: list[Forward] = field(default_factory=list)

    def add(self, forward: Forward) -> None:
        self.forwards.append(forward)

    @property
    def positions(self) -> int:
        return sum(forward.positions for forward in self.forwards)

    def clear(self) -> None:
        self.forwards.clear()
