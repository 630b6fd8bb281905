"""The paper's rows beside what was measured for them, with a line for each (benchmark, row, policy)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pandas as pd

from lightningrl.evaluation.intervals import Estimate, triple
from lightningrl.report.paper.printed import BENCHMARKS, CITATION, PrintedRow, notes_of, printed
from lightningrl.report.tables import MISSING, Sections, Table, number, shown_key

NAN = float("nan")
DAGGER = "†"
"""The mark of numbers of systems that are not run here."""
CONSTANT = "The published number is taken as a constant"
Part = tuple[Table, list[dict[str, Any]]]
"""A table for readers, and its numbers as rows of the long table."""
LONG_COLUMNS = ("part", "benchmark", "row", "policy", "role", "metric", "value", "low", "high", "y_max", "mark")


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a paper's table on one benchmark, and one policy that stands for it, if any was measured."""

    benchmark: str
    """The experiment's name of it."""
    row: PrintedRow
    measured: Any | None
    """The collected row, or None where no policy was measured."""

    @property
    def names(self) -> tuple[str, str, str]:
        """The cells that name it: benchmark, row as printed, policy; a released checkpoint and a system that is not
        run here are marked."""
        title = BENCHMARKS.get(self.benchmark, self.benchmark)
        if self.measured is None:
            return title, self.row.label + (f" {DAGGER}" if self.as_published else ""), MISSING
        released = ", released checkpoint" if self.measured.role == "released" else ""
        return title, self.row.label + released, self.measured.policy

    @property
    def key(self) -> tuple[str, str]:
        """(benchmark, policy or else row)."""
        return self.benchmark, self.row.identity if self.measured is None else self.measured.policy

    @property
    def as_published(self) -> bool:
        """Whether the paper's numbers stand in for a measurement: a system that is not run here."""
        return self.measured is None and self.row.other_system

    def published(self, metric: str) -> float:
        """Returns the printed number, or NaN where the table has none."""
        return self.row.numbers.get((self.benchmark, metric), NAN)

    def value(self, column: str) -> float:
        """Returns the measured number, or NaN where there is none, as of a column that older collections lack."""
        found = getattr(self.measured, column, None)
        return NAN if found is None else float(found)

    def shown(self, column: str) -> tuple[str, str]:
        """Returns the column that is shown for a number, and a mark where that is a server's word."""
        return (column, "") if self.measured is None else shown_key(self.measured, column)

    def estimate(self, column: str) -> Estimate:
        """Returns a measured number with its interval."""
        return Estimate(*map(self.value, triple(column)))

    def entry(self, part: str, metric: str, value: float, low: float = NAN, high: float = NAN, **more: Any) -> dict:
        """Returns a row of the long table."""
        policy, role = ("", "") if self.measured is None else (self.measured.policy, self.measured.role)
        named = {"part": part, "benchmark": self.benchmark, "row": self.row.identity, "policy": policy, "role": role}
        return named | {"metric": metric, "value": value, "low": low, "high": high} | more


def lines(table: str, collected: pd.DataFrame) -> list[Line]:
    """Returns lines in the paper's order; the policies of a row are in the collected order, released ones last."""
    found = []
    for benchmark in BENCHMARKS:
        for row in printed(table):
            if any(of == benchmark for of, _ in row.numbers):
                chosen = collected[(collected["published"] == row.identity) & (collected["benchmark"] == benchmark)]
                mine = sorted(chosen.itertuples(), key=lambda one: one.role == "released")
                found += [Line(benchmark, row, one) for one in mine or [None]]
    return found


def published(table: str, found: Iterable[Line], shown: Mapping[str, tuple[str, int]]) -> Part:
    """Returns the table as the paper prints it, with its inconsistencies. shown: metric -> title and digits."""
    once = {(line.benchmark, line.row.identity): Line(line.benchmark, line.row, None) for line in found}.values()
    rows, entries = [], []
    for line in once:
        numbers = {metric: line.published(metric) for metric in shown}
        cells = (number(value, shown[metric][1]) for metric, value in numbers.items())
        rows.append((*line.names[:1], line.row.label, *cells))
        entries += [line.entry("published", metric, value) for metric, value in numbers.items()]
    header = ("Benchmark", "Row", *(title for title, _ in shown.values()))
    notes = (f"From {CITATION}. None of these numbers was measured here.", *notes_of(table))
    return Table("published", "As published", notes, header, tuple(rows), n_text_columns=2), entries


def sections(name: str, caption: str, parts: Iterable[Part]) -> Sections:
    """Returns the parts below one another, and one long table of all their known numbers."""
    tables, entries = zip(*parts, strict=True)
    rows = [entry for entry in chain.from_iterable(entries) if not pd.isna(entry["value"])]
    return Sections(name, caption, tables, pd.DataFrame(rows, columns=list(LONG_COLUMNS)))
