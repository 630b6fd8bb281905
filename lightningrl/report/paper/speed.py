"""Table 7 of the paper, tokens per second: as published, as measured here, and the difference.

A speed means nothing without batch, device and whether prefill counts, so these are columns. The interval is over
repetitions of the same measurement and says nothing about other machines.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lightningrl.report.paper.difference import estimate
from lightningrl.report.paper.lines import DAGGER, Line, lines, long_table
from lightningrl.report.paper.printed import PrintedRow
from lightningrl.report.paper.sections import Sections
from lightningrl.report.paper.tables import published
from lightningrl.report.tables import MISSING, Table, number

PRINTED = {"tps_h100": ("Tokens/s, H100", 2), "tpf": ("TPF", 2), "accuracy_pct": ("Accuracy (%)", 1)}
SPEED = "tokens_per_second"


def table7(speed: pd.DataFrame) -> Sections:
    """Returns Table 7; policies on benchmarks that the paper does not print are shown, but compared with nothing."""
    found = lines("table7", speed)
    shown = {(line.benchmark, line.policy) for line in found}
    found += [
        Line(row.benchmark, PrintedRow(row.published or row.policy, row.published), row)
        for row in speed.itertuples()
        if (row.benchmark, row.policy) not in shown
    ]
    measured = [line for line in found if line.measured is not None]
    compared = [line for line in measured if not pd.isna(line.published("tps_h100"))]
    printed = [line for line in found if line.row.numbers]
    parts = (published("table7", printed, PRINTED), _measured(found), _difference(compared))
    entries = []
    for line in {line.row.identity: Line(line.benchmark, line.row, None) for line in found}.values():
        entries += [line.entry("published", metric, line.published(metric)) for metric in PRINTED]
    for line in found:
        if line.as_published:
            mark = "as published, not run here"
            entries.append(line.entry("as published", SPEED, line.published("tps_h100"), mark=mark))
    for line in measured:
        now, constant = estimate(line, SPEED), line.published("tps_h100")
        entries.append(line.entry("measured", SPEED, *now, mark=_conditions(line)))
        if line not in compared:
            continue
        entries.append(line.entry("difference", SPEED, *now.minus(constant)))
        entries.append(line.entry("ratio", SPEED, *(each / constant for each in now)))
    return Sections("table7", "Table 7: tokens a second, GSM8K", parts, long_table(entries))


def _measured(found: Sequence[Line]) -> Table:
    header = ("Benchmark", "Row", "Policy here", "Device", "Weights", "Prefill", "Tokens/s", "Batch", "Prompts")
    rows = []
    for line in found:
        one = line.measured
        if one is None:
            label = f"{line.label} {DAGGER}" if line.as_published else line.label
            shown = number(line.published("tps_h100"), 2) if line.as_published else MISSING
            device = "H100" if line.as_published else MISSING
            rows.append((line.title, label, MISSING, device, MISSING, MISSING, shown, MISSING, MISSING))
            continue
        prefill = "in" if one.prefill_included else "out"
        names = (line.title, line.label, line.policy, one.device, one.dtype, prefill)
        rows.append((*names, estimate(line, SPEED).text(1), f"{int(one.batch)}", f"{int(one.prompts)}"))
    devices = dict.fromkeys(line.measured.device for line in found if line.measured is not None)
    notes = [f"{DAGGER} as published, not run here. Prefill: whether its time counts. Brackets: 95 % over repeats."]
    others = [device for device in devices if "H100" not in device]
    if others:
        notes.append(f"Measured on {', '.join(others)}; published on an H100: what differs is the device too.")
    if not devices:
        notes.append("Nothing was measured yet.")
    return Table("measured", "As measured here", tuple(notes), header, tuple(rows), pd.DataFrame(), 6)


def _difference(measured: Sequence[Line]) -> Table:
    header = ("Benchmark", "Row", "Policy here", "Published", "Measured", "Measured − published")
    header = (*header, "Measured / published")
    rows = []
    for line in measured:
        now, constant = estimate(line, SPEED), line.published("tps_h100")
        ratio = type(now)(*(each / constant for each in now)).text(2)
        ends = (number(constant, 2), number(now.value, 1), now.minus(constant).text(1, sign=True), ratio)
        rows.append((line.title, line.label, line.policy, *ends))
    notes = ["The published number is taken as a constant. The paper names its device, but neither batch nor prefill."]
    notes += [f"{line.label}: measured with {_conditions(line)}." for line in measured]
    return Table("difference", "Measured minus published", tuple(notes), header, tuple(rows), pd.DataFrame(), 3)


def _conditions(line: Line) -> str:
    one = line.measured
    assert one is not None
    prefill = "prefill in" if one.prefill_included else "prefill out"
    return f"batch {int(one.batch)}, {one.device}, {one.dtype}, {prefill}, threshold {one.threshold:g}"
