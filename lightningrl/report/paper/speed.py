"""Table 7 of the paper, tokens per second: as published, as measured here, and the difference.

A speed means nothing without batch, device and whether prefill counts, so these are columns. The interval is over
repetitions of the same measurement and says nothing about other machines.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lightningrl.evaluation.intervals import Estimate
from lightningrl.report.paper.lines import CONSTANT, DAGGER, Line, Part, lines, published, sections
from lightningrl.report.paper.printed import PrintedRow
from lightningrl.report.tables import MISSING, Sections, Table, estimate_text, number

PRINTED = {"tps_h100": ("Tokens/s, H100", 2), "tpf": ("TPF", 2), "accuracy_pct": ("Accuracy (%)", 1)}
SPEED = "tokens_per_second"


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
    parts = (published("table7", printed, PRINTED), _measured(found), _difference(found))
    return sections("table7", "Table 7: tokens a second, GSM8K", parts)


def _measured(found: Sequence[Line]) -> Part:
    header = ("Benchmark", "Row", "Policy here", "Device", "Weights", "Prefill", "Tokens/s", "Batch", "Prompts")
    rows, entries = [], []
    for line in found:
        if (one := line.measured) is not None:
            conditions = (one.device, one.dtype, "in" if one.prefill_included else "out")
            counts = (str(int(one.batch)), str(int(one.prompts)))
            rows.append((*line.names, *conditions, estimate_text(*line.estimate(SPEED), 1), *counts))
            entries.append(line.entry("measured", SPEED, *line.estimate(SPEED), mark=_conditions(line)))
        elif line.as_published:
            speed = line.published("tps_h100")
            rows.append((*line.names, "H100", MISSING, MISSING, number(speed, 2), MISSING, MISSING))
            entries.append(line.entry("as published", SPEED, speed, mark="as published, not run here"))
        else:
            rows.append((*line.names, *[MISSING] * 6))
    devices = dict.fromkeys(line.measured.device for line in found if line.measured is not None)
    notes = [f"{DAGGER} as published, not run here. Prefill: whether its time counts. Brackets: 95 % over repeats."]
    others = [device for device in devices if "H100" not in device]
    if others:
        notes.append(f"Measured on {', '.join(others)}; published on an H100: what differs is the device too.")
    if not devices:
        notes.append("Nothing was measured yet.")
    return Table("measured", "As measured here", tuple(notes), header, tuple(rows), n_text_columns=6), entries


def _difference(found: Sequence[Line]) -> Part:
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
    return f"batch {int(one.batch)}, {one.device}, {one.dtype}, {prefill}, threshold {one.threshold:g}"
