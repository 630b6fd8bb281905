"""Tables 1 to 7 of the paper, each in three parts: as published, as measured here, and the difference.

Rows are the paper's; `published` in the experiment's config names the row that a policy stands for. A row without a
measurement has dashes. The difference is split into what is due to the grader and the counting, and the rest:

    measured - published = (ours - theirs, on the same answers) + (theirs, on our answers, - published)

The first bracket is paired by problem and has its own interval (`report.compat`). The published number is a constant,
because the paper gives neither intervals nor several runs; so the other intervals are the measurement's, shifted by it.

Table 2 also has systems that are not run here: they are shown as published, with a dagger. Its AUPs are computed again
with one y_max for each benchmark, the best accuracy in the table: among the measured sweeps, the d3LLM leaderboard's
points of the systems that are not run here, and what the paper prints for them.

Table 7 is of tokens per second. A speed means nothing without batch, device and whether prefill counts, so these are
columns; the interval is over repetitions of the same measurement and says nothing about other machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from lightningrl.evaluation.aup import Point, aup
from lightningrl.evaluation.intervals import Estimate
from lightningrl.report.paper.lines import CONSTANT, DAGGER, NAN, Line, Part, lines, published, sections
from lightningrl.report.paper.printed import BENCHMARKS, PrintedRow, points_of
from lightningrl.report.reported import from_one_token
from lightningrl.report.tables import MISSING, Sections, Table, estimate_text, headline_notes, number, word_notes
from lightningrl.utils.numbers import shortest

CAPTIONS = {
    "table1": "Table 1: reinforcement learning methods on SDAR-8B, block 32",
    "table2": "Table 2: against other systems",
    "table3": "Table 3: without one component, GSM8K",
    "table4": "Table 4: reductions of the loss (policy-KL-NLL), GSM8K",
    "table5": "Table 5: with a value model, GSM8K",
    "table6": "Table 6: sizes and blocks",
}


class Metric(NamedTuple):
    """How a number of the headline is shown, and its columns by the published grader and count."""

    title: str
    digits: int
    theirs: str
    minus_theirs: str
    beside: str


METRICS = {
    "accuracy_pct": Metric(
        "Accuracy (%)", 1, "compat_accuracy_pct", "accuracy_pct_minus_compat", "by published grader (%)"
    ),
    "tpf": Metric("TPF", 2, "tpf_paper", "tpf_minus_paper", "by published count"),
    "aup": Metric("AUP", 1, "aup_compat", "aup_minus_compat", "by both"),
}
WORK = {"TPF with commits": "tpf_true", "Positions per token": "positions_per_token"}
"""Columns of a table whose systems are of different families, because their forwards are not the same work."""
SPEED_METRICS = {"tps_h100": ("Tokens/s, H100", 2), "tpf": ("TPF", 2), "accuracy_pct": ("Accuracy (%)", 1)}
SPEED = "tokens_per_second"
DIFFERENCE_NOTES = (
    f"{CONSTANT}: the paper has one run and no intervals. Brackets are 95 % intervals over problems of what was "
    "measured here.",
    "Grader and count: our judge minus the published grader on the same answers, our TPF minus the published "
    "count (visible tokens over forwards that revealed something), our AUP minus that of both, each with its own "
    "y_max. Left: the published grader and count on our answers, minus the published number.",
)


class OneYMax:
    """The AUPs of a table that mixes measured policies with systems of the leaderboard, under one y_max a benchmark."""

    def __init__(self, found: Sequence[Line], frontier: pd.DataFrame) -> None:
        """frontier: the measured sweeps. A system without points keeps its published AUP."""
        self.y_max: dict[str, float] = {}
        """Percent, by benchmark."""
        self._points: dict[tuple[str, str], list[Point]] = {}
        for line in found:
            if line.as_published:
                points = points_of(line.row.identity, BENCHMARKS[line.benchmark])
                best = line.published("accuracy_pct")
            else:
                mine = (frontier["benchmark"] == line.benchmark) & (frontier["policy"] == line.names[-1])
                points, best = curve_of(frontier[mine]), max(frontier.loc[mine, "accuracy_pct"], default=0.0)
            self._points[line.key] = points
            known = (best, self.y_max.get(line.benchmark, 0.0), *(accuracy for _, accuracy in points))
            self.y_max[line.benchmark] = max(known)

    def aup(self, line: Line) -> float:
        """Returns the AUP with the table's y_max, or NaN where there are no points."""
        points = self._points[line.key]
        return aup(points, self.y_max[line.benchmark]) if points else NAN


def curve_of(rows: pd.DataFrame) -> list[Point]:
    """Returns the points (TPF, accuracy) of a sweep; of a server, by its own word, from one token a forward on where it
    is lossless; none where neither is known."""
    column = "tpf" if rows["tpf"].notna().all() else "tpf_reported"
    if column not in rows or rows[column].isna().any():
        return []
    points = list(rows[[column, "accuracy_pct"]].itertuples(index=False, name=None))
    is_lossless = column != "tpf" and bool((rows["reported_lossless"] == 1).any())
    return from_one_token(points) if is_lossless else points


def _sections(name: str, headline: pd.DataFrame, frontier: pd.DataFrame | None = None) -> Sections:
    found = lines(name, headline)
    one_y_max = None if frontier is None else OneYMax(found, frontier)
    used = {line.key for line in found if line.measured is not None}
    pairs = zip(headline["benchmark"], headline["policy"], strict=True)
    shown = headline[np.array([pair in used for pair in pairs], bool)]
    printed = published(name, found, {name: (metric.title, metric.digits) for name, metric in METRICS.items()})
    return sections(name, CAPTIONS[name], (printed, _measured(found, shown, one_y_max), _difference(found)))


table1, table2, table3, table4, table5, table6 = (partial(_sections, name) for name in CAPTIONS)
"""The tables, of the collected headline; `table2` takes the frontier, too."""


def _measured(found: Sequence[Line], headline: pd.DataFrame, one_y_max: OneYMax | None) -> Part:
    header = ["Benchmark", "Row", "Policy here"]
    for metric in METRICS.values():
        header += [metric.title, metric.beside]
    if one_y_max is not None:
        header += [*WORK, "AUP, one y_max", "AUP as published"]
    rows, entries = [], []
    for line in found:
        row = [*line.names]
        for name, metric in METRICS.items():
            for column, y_max in ((name, "y_max"), (metric.theirs, "y_max_compat")):
                column, mark = line.shown(column)
                row.append(f"{estimate_text(*line.estimate(column), metric.digits)}{mark}")
                limit = {"y_max": line.value(y_max)} if name == "aup" else {}
                limit |= {"mark": "server's word"} if mark else {}
                entries.append(line.entry("measured", column, *line.estimate(column), **limit))
            if line.as_published and name != "aup":
                row[-2] = number(line.published(name), metric.digits)
                entries.append(line.entry("as published", name, line.published(name), mark="not run here"))
        if one_y_max is not None:
            aup = one_y_max.aup(line)
            for column in WORK.values():
                row.append(number(line.value(column), 2))
                entries.append(line.entry("measured", column, line.value(column)))
            row += [number(aup, 1), number(line.published("aup"), 1)]
            mark = {"mark": "leaderboard's points, not run here"} if line.as_published else {}
            part, limit = "as published" if line.as_published else "measured", one_y_max.y_max[line.benchmark]
            entries.append(line.entry(part, "aup_one_y_max", aup, y_max=limit, **mark))
        rows.append(tuple(row))
    notes = _notes(headline, one_y_max)
    return Table("measured", "As measured here", notes, tuple(header), tuple(rows), n_text_columns=3), entries


def _notes(headline: pd.DataFrame, one_y_max: OneYMax | None) -> tuple[str, ...]:
    notes = [*headline_notes(headline), *word_notes(headline)]
    for benchmark, rows in headline.groupby("benchmark", sort=False):
        best = rows["y_max_compat"].max()
        if not pd.isna(best):
            unknown = int(rows["compat_unknown"].max())
            more = f"; for up to {unknown} answers of a row it says nothing, there ours stands" if unknown else ""
            notes.append(f"{benchmark}: by the published grader and count y_max = {number(best, 1)} %{more}.")
    if one_y_max is not None:
        limits = ", ".join(f"{name} {number(y_max, 1)} %" for name, y_max in one_y_max.y_max.items())
        notes.append(
            f"{DAGGER} as published, not run here. AUP, one y_max: recomputed, for systems marked {DAGGER} from "
            f"the points of the d3LLM leaderboard, with the best accuracy of all these points and of all measured ones "
            f"in this table as y_max: {limits}."
        )
    if not headline.empty:
        notes.append(f"Brackets: 95 % intervals over problems. {MISSING}: not run, or not told by the records.")
    return tuple(notes or ["Nothing was measured yet."])


def _difference(found: Sequence[Line]) -> Part:
    header = (
        "Benchmark", "Row", "Policy here", "Metric", "Published", "Measured", "Measured − published",
        "of it grader and count", "left",
    )  # fmt: skip
    rows, entries = [], []
    for line, (name, metric) in product(found, METRICS.items()):
        constant, (shown, mark) = line.published(name), line.shown(name)
        if line.measured is None or pd.isna(constant):
            continue
        parts = {
            "difference": line.estimate(shown).minus(constant),
            "of which grader and count": line.estimate(metric.minus_theirs),
            "left": line.estimate(metric.theirs).minus(constant),
        }
        ends = (number(constant, metric.digits), number(line.value(shown), metric.digits) + mark)
        texts = (estimate_text(*part, metric.digits, sign=True) for part in parts.values())
        rows.append((*line.names, metric.title, *ends, *texts))
        entries += [line.entry(part, shown, *estimate) for part, estimate in parts.items()]
    notes = DIFFERENCE_NOTES if rows else ("Nothing was measured yet.",)
    return Table("difference", "Measured minus published", notes, header, tuple(rows), n_text_columns=4), entries


def table7(speed: pd.DataFrame) -> Sections:
    """Returns Table 7; policies on benchmarks that the paper does not print are shown, but compared with nothing."""
    found = lines("table7", speed)
    shown = {line.key for line in found if line.measured is not None}
    found += [
        Line(row.benchmark, PrintedRow(row.published or row.policy, row.published), row)
        for row in speed.itertuples()
        if (row.benchmark, row.policy) not in shown
    ]
    printed = [line for line in found if line.row.numbers]
    parts = (published("table7", printed, SPEED_METRICS), _measured_speed(found), _speed_difference(found))
    return sections("table7", "Table 7: tokens per second, GSM8K", parts)


def _measured_speed(found: Sequence[Line]) -> Part:
    header = ("Benchmark", "Row", "Policy here", "Device", "Weights", "Prefill", "Tokens/s", "Batch", "Prompts")
    header, work = (*header, "TPF", *WORK), ("tpf", *WORK.values())
    rows, entries = [], []
    for line in found:
        if (one := line.measured) is not None:
            conditions = (one.device, one.dtype, "in" if one.prefill_included else "out")
            counts = (str(int(one.batch)), str(int(one.prompts)))
            counts += tuple(number(line.value(column), 2) for column in work)
            rows.append((*line.names, *conditions, estimate_text(*line.estimate(SPEED), 1), *counts))
            entries.append(line.entry("measured", SPEED, *line.estimate(SPEED), mark=_conditions(line)))
            entries += [line.entry("measured", column, line.value(column), mark=_conditions(line)) for column in work]
        elif line.as_published:
            speed = line.published("tps_h100")
            rows.append((*line.names, "H100", MISSING, MISSING, number(speed, 2), *[MISSING] * (2 + len(work))))
            entries.append(line.entry("as published", SPEED, speed, mark="as published, not run here"))
        else:
            rows.append((*line.names, *[MISSING] * (6 + len(work))))
    devices = dict.fromkeys(line.measured.device for line in found if line.measured is not None)
    notes = [f"{DAGGER} as published, not run here. Prefill: whether its time counts. Brackets: 95 % over repeats."]
    others = [device for device in devices if "H100" not in device]
    if others:
        notes.append(f"Measured on {', '.join(others)}; published on an H100: what differs is the device too.")
    if not devices:
        notes.append("Nothing was measured yet.")
    return Table("measured", "As measured here", tuple(notes), header, tuple(rows), n_text_columns=6), entries


def _speed_difference(found: Sequence[Line]) -> Part:
    header = ("Benchmark", "Row", "Policy here", "Published", "Measured")
    header = (*header, "Measured − published", "Measured / published")
    notes = [f"{CONSTANT}. The paper names its device, but neither batch nor prefill."]
    rows, entries = [], []
    for line in found:
        now, constant = line.estimate(SPEED), line.published("tps_h100")
        if line.measured is None or pd.isna(constant):
            continue
        difference, ratio = now.minus(constant), Estimate(*(each / constant for each in now))
        ends = (number(constant, 2), number(now.value, 1))
        rows.append((*line.names, *ends, estimate_text(*difference, 1, sign=True), estimate_text(*ratio, 2)))
        entries += [line.entry("difference", SPEED, *difference), line.entry("ratio", SPEED, *ratio)]
        notes.append(f"{line.names[1]}: measured with {_conditions(line)}.")
    return Table("difference", "Measured minus published", tuple(notes), header, tuple(rows), n_text_columns=3), entries


def _conditions(line: Line) -> str:
    one = line.measured
    assert one is not None
    prefill = "prefill in" if one.prefill_included else "prefill out"
    return f"batch {int(one.batch)}, {one.device}, {one.dtype}, {prefill}, threshold {shortest(one.threshold)}"
