"""Measured minus published, and the part of it that is due to the grader and the counting.

    measured - published = (ours - theirs, on the same answers) + (theirs, on our answers, - published)

The first bracket is paired by problem and has its own interval (`report.compat`). The published number is a constant,
because the paper gives neither intervals nor several runs; so the other intervals are the measurement's, shifted by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from lightningrl.report.columns import triple
from lightningrl.report.paper.lines import Line
from lightningrl.report.paper.printed import METRICS
from lightningrl.report.tables import Table, number

DIGITS = {"accuracy_pct": 1, "tpf": 2, "aup": 1}
THEIRS = {"accuracy_pct": "compat_accuracy_pct", "tpf": "tpf_paper", "aup": "aup_compat"}
"""Our metric -> its value by the published grader and count."""
MINUS_THEIRS = {"accuracy_pct": "accuracy_pct_minus_compat", "tpf": "tpf_minus_paper", "aup": "aup_minus_compat"}
PARTS = ("difference", "of which grader and count", "left")
NOTES = (
    "The published number is taken as a constant: the paper has one run and no intervals. Brackets are 95 % "
    "intervals over problems of what was measured here.",
    "Grader and count: our judge minus the published grader on the same answers, our TPF minus the published "
    "count (visible tokens over forwards that revealed something), our AUP minus that of both, each with its own "
    "y_max. Left: the published grader and count on our answers, minus the published number.",
)


class IntervalEstimate(NamedTuple):
    """A value with its interval."""

    value: float
    low: float
    high: float

    def minus(self, constant: float) -> IntervalEstimate:
        return IntervalEstimate(*(each - constant for each in self))

    def text(self, digits: int, sign: bool = False) -> str:
        value = number(self.value, digits, sign)
        if pd.isna(self.low):
            return value
        return f"{value} [{number(self.low, digits, sign)}, {number(self.high, digits, sign)}]"


def estimate(line: Line, column: str) -> IntervalEstimate:
    """Returns a measured column with its interval."""
    return IntervalEstimate(*(line.value(name) for name in triple(column)))


def split(line: Line, metric: str) -> tuple[IntervalEstimate, IntervalEstimate, IntervalEstimate]:
    """Returns the total, the part of grader and count, and the rest; the parts are NaN where records lack them."""
    published = line.published(metric)
    theirs = estimate(line, THEIRS[metric])
    part = estimate(line, MINUS_THEIRS[metric])
    return estimate(line, metric).minus(published), part, theirs.minus(published)


def difference(lines: Sequence[Line]) -> Table:
    """Returns the table with a row for each metric of each measured line for which the paper has a number."""
    header = ("Benchmark", "Row", "Policy here", "Metric", "Published", "Measured", "Measured − published")
    header = (*header, "of it grader and count", "left")
    rows = []
    for line, metric in _pairs(lines):
        digits = DIGITS[metric]
        ends = (number(line.published(metric), digits), number(line.value(metric), digits))
        parts = tuple(each.text(digits, sign=True) for each in split(line, metric))
        rows.append((line.title, line.label, line.policy, METRICS[metric], *ends, *parts))
    notes = NOTES if rows else ("Nothing was measured yet.",)
    return Table("difference", "Measured minus published", notes, header, tuple(rows), pd.DataFrame(), 4)


def entries(lines: Sequence[Line]) -> Iterator[dict]:
    """Yields the same numbers for the long table."""
    for line, metric in _pairs(lines):
        for part, found in zip(PARTS, split(line, metric), strict=True):
            yield line.entry(part, metric, *found)


def _pairs(lines: Sequence[Line]) -> Iterator[tuple[Line, str]]:
    for line in lines:
        for metric in METRICS:
            if line.measured is not None and not pd.isna(line.published(metric)):
                yield line, metric
