"""The paper's rows beside what was measured for them: one line a (benchmark, row, policy)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lightningrl.report.paper.printed import BENCHMARKS, PrintedRow, printed
from lightningrl.report.tables import MISSING

NAN = float("nan")
DAGGER = "†"
"""Marks numbers of systems that are not run here."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a paper's table on one benchmark, and one policy that stands for it, if any was measured."""

    benchmark: str
    """As the experiment names it."""
    row: PrintedRow
    measured: Any | None
    """The collected row; None where no policy was measured."""

    @property
    def title(self) -> str:
        return BENCHMARKS.get(self.benchmark, self.benchmark)

    @property
    def label(self) -> str:
        """The row as printed; a checkpoint of others says so."""
        released = self.measured is not None and self.measured.role == "released"
        return self.row.label + (", released checkpoint" if released else "")

    @property
    def policy(self) -> str:
        return MISSING if self.measured is None else self.measured.policy

    @property
    def as_published(self) -> bool:
        """Whether the paper's numbers stand in for a measurement: a system that is not run here."""
        return self.measured is None and self.row.other_system

    def published(self, metric: str) -> float:
        """As printed; NaN where the table has no such number."""
        return self.row.numbers.get((self.benchmark, metric), NAN)

    def value(self, column: str) -> float:
        """As measured; NaN where nothing was."""
        return NAN if self.measured is None else float(getattr(self.measured, column))

    def entry(self, part: str, metric: str, value: float, low: float = NAN, high: float = NAN, **more: Any) -> dict:
        """A row of the long table."""
        policy, role = ("", "") if self.measured is None else (self.measured.policy, self.measured.role)
        named = {"part": part, "benchmark": self.benchmark, "row": self.row.identity, "policy": policy, "role": role}
        return named | {"metric": metric, "value": value, "low": low, "high": high} | more


def lines(table: str, collected: pd.DataFrame) -> list[Line]:
    """By benchmark and row in the paper's order; policies of one row in the collected order, released ones last."""
    rows = printed(table)
    found = []
    for benchmark in BENCHMARKS:
        for row in rows:
            if any(of == benchmark for of, _ in row.numbers):
                found += [Line(benchmark, row, one) for one in _measured(collected, row.identity, benchmark)]
    return found


def _measured(collected: pd.DataFrame, identity: str, benchmark: str) -> Iterable[Any]:
    chosen = collected[(collected["published"] == identity) & (collected["benchmark"] == benchmark)]
    own = [row for row in chosen.itertuples() if row.role != "released"]
    return [*own, *(row for row in chosen.itertuples() if row.role == "released")] or [None]


LONG_COLUMNS = ("part", "benchmark", "row", "policy", "role", "metric", "value", "low", "high", "y_max", "mark")


def long_table(entries: Iterable[dict]) -> pd.DataFrame:
    """All numbers of a table, one a row; those that are not known are left out."""
    rows = [entry for entry in entries if not pd.isna(entry["value"])]
    return pd.DataFrame(rows, columns=list(LONG_COLUMNS))
