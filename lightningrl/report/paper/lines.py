"""The paper's rows beside what was measured for them, with a line for each (benchmark, row, policy)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lightningrl.report.paper.printed import BENCHMARKS, PrintedRow, printed
from lightningrl.report.tables import MISSING

NAN = float("nan")
DAGGER = "†"
"""The mark of numbers of systems that are not run here."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a paper's table on one benchmark, and one policy that stands for it, if any was measured."""

    benchmark: str
    """The experiment's name of it."""
    row: PrintedRow
    measured: Any | None
    """The collected row, or None where no policy was measured."""

    @property
    def title(self) -> str:
        return BENCHMARKS.get(self.benchmark, self.benchmark)

    @property
    def label(self) -> str:
        """The row as printed; a released checkpoint is marked."""
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
        """Returns the printed number, or NaN where the table has none."""
        return self.row.numbers.get((self.benchmark, metric), NAN)

    def value(self, column: str) -> float:
        """Returns the measured number, or NaN where there is none."""
        return NAN if self.measured is None else float(getattr(self.measured, column))

    def entry(self, part: str, metric: str, value: float, low: float = NAN, high: float = NAN, **more: Any) -> dict:
        """Returns a row of the long table."""
        policy, role = ("", "") if self.measured is None else (self.measured.policy, self.measured.role)
        named = {"part": part, "benchmark": self.benchmark, "row": self.row.identity, "policy": policy, "role": role}
        return named | {"metric": metric, "value": value, "low": low, "high": high} | more


def lines(table: str, collected: pd.DataFrame) -> list[Line]:
    """Returns lines in the paper's order; the policies of a row are in the collected order, released ones last."""
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
    """Returns all known numbers of a table, one in each row."""
    rows = [entry for entry in entries if not pd.isna(entry["value"])]
    return pd.DataFrame(rows, columns=list(LONG_COLUMNS))
