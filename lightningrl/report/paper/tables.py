"""Tables 1 to 6 of the paper, each in three parts: as published, as measured here, and the difference.

Rows are the paper's; `published` in the experiment's config names the row that a policy stands for. A row without a
measurement has dashes. Table 2 also has systems that are not run here: they are shown as published, with a dagger. Its
AUPs have one y_max for each benchmark (`paper.mixed`), with the published ones beside them. Table 7 is `paper.speed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd

from lightningrl.report.paper import difference
from lightningrl.report.paper.difference import DIGITS, THEIRS, estimate
from lightningrl.report.paper.inconsistencies import notes_of
from lightningrl.report.paper.lines import DAGGER, Line, lines, long_table
from lightningrl.report.paper.mixed import Mixed, mix
from lightningrl.report.paper.printed import CITATION, METRICS
from lightningrl.report.paper.sections import Sections
from lightningrl.report.tables import MISSING, Table, headline_notes, number

CAPTIONS = {
    "table1": "Table 1: reinforcement learning methods on SDAR-8B, block 32",
    "table2": "Table 2: against other systems",
    "table3": "Table 3: without one component, GSM8K",
    "table4": "Table 4: reductions of the loss (policy-KL-NLL), GSM8K",
    "table5": "Table 5: with a value model, GSM8K",
    "table6": "Table 6: sizes and blocks",
}
MEASURED = ("accuracy_pct", "tpf", "aup")


def _sections(name: str, headline: pd.DataFrame, frontier: pd.DataFrame | None = None) -> Sections:
    found = lines(name, headline)
    mixed = None if frontier is None else mix(found, frontier)
    used = {(line.benchmark, line.policy) for line in found}
    pairs = zip(headline["benchmark"], headline["policy"], strict=True)
    shown = headline[np.array([pair in used for pair in pairs], bool)]
    parts = (published(name, found), _measured(found, shown, mixed), difference.difference(found))
    data = long_table([*_published_entries(found), *_measured_entries(found, mixed), *difference.entries(found)])
    return Sections(name, CAPTIONS[name], parts, data)


table1, table2, table3, table4, table5, table6 = (partial(_sections, name) for name in CAPTIONS)
"""The tables, of the collected headline; `table2` takes the frontier, too."""


def published(name: str, found: Sequence[Line], metrics: dict[str, tuple[str, int]] | None = None) -> Table:
    """Returns the table as the paper prints it, with its inconsistencies. metrics: name -> title and digits."""
    shown = metrics or {metric: (METRICS[metric], DIGITS[metric]) for metric in METRICS}
    unique = {(line.benchmark, line.row.identity): line for line in found}.values()
    rows = [
        (line.title, line.row.label, *(number(line.published(key), digits) for key, (_, digits) in shown.items()))
        for line in unique
    ]
    header = ("Benchmark", "Row", *(title for title, _ in shown.values()))
    notes = (f"From {CITATION}. None of these numbers was measured here.", *notes_of(name))
    return Table("published", "As published", notes, header, tuple(rows), pd.DataFrame(), 2)


def _measured(found: Sequence[Line], headline: pd.DataFrame, mixed: Mixed | None) -> Table:
    header = ["Benchmark", "Row", "Policy here"]
    beside = ("by published grader (%)", "by published count", "by both")
    for metric, theirs in zip(METRICS.values(), beside, strict=True):
        header += [metric, theirs]
    rows = []
    for line in found:
        row = [line.title, line.label, line.policy]
        for metric in MEASURED:
            row += [estimate(line, column).text(DIGITS[metric]) for column in (metric, THEIRS[metric])]
        if line.as_published:
            row[1:3] = [f"{line.label} {DAGGER}", MISSING]
            row[3], row[5] = (number(line.published(metric), DIGITS[metric]) for metric in ("accuracy_pct", "tpf"))
        if mixed is not None:
            row += [number(mixed.aup(line), 1), number(line.published("aup"), 1)]
        rows.append(tuple(row))
    if mixed is not None:
        header += ["AUP, one y_max", "AUP as published"]
    notes = _notes(headline, mixed)
    return Table("measured", "As measured here", notes, tuple(header), tuple(rows), pd.DataFrame(), 3)


def _notes(headline: pd.DataFrame, mixed: Mixed | None) -> tuple[str, ...]:
    notes = headline_notes(headline)
    for benchmark, rows in headline.groupby("benchmark", sort=False):
        best = rows["y_max_compat"].max()
        if not pd.isna(best):
            unknown = int(rows["compat_unknown"].max())
            more = f"; for up to {unknown} answers of a row it says nothing, there ours stands" if unknown else ""
            notes.append(f"{benchmark}: by the published grader and count y_max = {number(best, 1)} %{more}.")
    if mixed is not None:
        limits = ", ".join(f"{name} {number(y_max, 1)} %" for name, y_max in mixed.y_max.items())
        notes.append(
            f"{DAGGER} as published, not run here. AUP, one y_max: recomputed, for systems marked {DAGGER} from "
            f"the points of the d3LLM leaderboard, with the best accuracy of all these points and of all measured ones "
            f"in this table as y_max: {limits}."
        )
    if not headline.empty:
        notes.append(f"Brackets: 95 % intervals over problems. {MISSING}: not run, or not told by the records.")
    return tuple(notes or ["Nothing was measured yet."])


def _published_entries(found: Sequence[Line]) -> Iterator[dict]:
    for line in {(line.benchmark, line.row.identity): Line(line.benchmark, line.row, None) for line in found}.values():
        for metric in METRICS:
            yield line.entry("published", metric, line.published(metric))


def _measured_entries(found: Sequence[Line], mixed: Mixed | None) -> Iterator[dict]:
    for line in found:
        for metric in MEASURED:
            for column, y_max in ((metric, "y_max"), (THEIRS[metric], "y_max_compat")):
                limit = {"y_max": line.value(y_max)} if metric == "aup" else {}
                yield line.entry("measured", column, *estimate(line, column), **limit)
            if line.as_published and metric != "aup":
                yield line.entry("as published", metric, line.published(metric), mark="not run here")
        if mixed is not None:
            mark = {"mark": "leaderboard's points, not run here"} if line.as_published else {}
            limit = mixed.y_max[line.benchmark]
            part = "as published" if line.as_published else "measured"
            yield line.entry(part, "aup_one_y_max", mixed.aup(line), y_max=limit, **mark)
