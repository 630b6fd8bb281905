"""Collected tables computed again from records and metrics by a collect stage's manifest, and single numbers.

Today's code of the stage computes them, without checkpoints, data, or torch.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lightningrl.config.registries import member
from lightningrl.errors import StageError
from lightningrl.pipeline.graph import Made, read_made
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.registries import collected
from lightningrl.results.cell import Cell, TableFile, label_of, read_rows
from lightningrl.utils.files import read_jsonl, sha256_file
from lightningrl.utils.registry import resolve


@dataclass(frozen=True, slots=True)
class Recomputed:
    """A cell's number, computed from the records."""

    value: float
    how: str
    """The formula with its counts, or what was collected again."""

    def is_cells(self, text: str) -> bool:
        """Returns whether it is the number in the table, up to the rounding of another machine's sums."""
        number = float(text or "nan")
        both_blank = math.isnan(number) and math.isnan(self.value)
        return both_blank or math.isclose(number, self.value, rel_tol=1e-9, abs_tol=1e-9)


COUNTS = {
    "accuracy_pct": (100, "correct", "n", "{0} right of {1}"),
    "tpf": (1, "response_tokens", "denoise_forwards", "{0} response tokens in {1} denoise forwards"),
    "forwards_per_problem": (1, "denoise_forwards", "n", "{0} denoise forwards for {1} answers"),
    "response_tokens_mean": (1, "response_tokens", "n", "{0} response tokens in {1} answers"),
}
"""Column -> factor, the sums above and below the line, and the sentence: no code of the package in between."""


def recollect(collect: Made, out: Path) -> Path:
    """Computes a collect stage's files again in `out`. Raises StageError where its inputs are missing or damaged."""
    from lightningrl.pipeline.stages.collect import run

    for role, folder in collect.inputs.items():
        for name in (kind.collected for kind in KINDS.values()):
            if name in collect.manifest["inputs"][role]["outputs"]:
                check_recorded(collect, role, name, folder / name)
    config: dict[str, Any] = dict(collect.science) | {"members": dict(collect.manifest["preimage"]["members"])}
    out.mkdir(parents=True, exist_ok=True)
    with of_today(collect):
        run(SimpleNamespace(config=config, inputs=collect.inputs, folder=out, report=lambda line: None))  # type: ignore[arg-type]
    return out


@contextmanager
def of_today(made: Made) -> Iterator[None]:
    """Turns the errors that another version's records or settings cause into a StageError that names its commit."""
    try:
        yield
    except (KeyError, TypeError) as error:
        raise StageError(
            f"{made.folder} was made by a version whose records or settings this one does not read ({error!r}). Check "
            f"out the one that made it: commit {made.commit}."
        ) from error


def check_recorded(made: Made, role: str, name: str, file: Path) -> None:
    """Raises StageError unless an input's file exists and has the hash that it had when it was read."""
    recorded = made.manifest["inputs"][role]["outputs"][name]["sha256"]
    if not file.is_file():
        raise StageError(f"{file} is not here; copy it from where the results were made (its sha256 is {recorded}).")
    if (found := sha256_file(file)) != recorded:
        raise StageError(f"{file} is damaged: its sha256 is {found}, but {recorded} was read by {made.folder}.")


def runs_of(cell: Cell, collect: Made) -> list[str]:
    """Returns the policies behind a row: its own, or those of its series that were evaluated on its benchmark."""
    if "policy" in cell.row:
        return [cell.policy]
    names = [p["name"] for p in collect.science["policies"] if (p.get("series") or p["name"]) == cell.policy]
    return [name for name in names if f"evaluate/{name}/{cell.benchmark}" in collect.inputs]


def recompute(cell: Cell, collect: Made) -> Recomputed:
    """Computes a cell's number from the records. Raises StageError where they are missing or have no such number.

    Counts are added up by the formula; for any other number the records are collected and the table is built again.
    """
    runs = runs_of(cell, collect)
    if not runs:
        of_systems = {kind.name for kind in KINDS.values() if kind.per_system}
        known = ", ".join(role for role in collect.inputs if role.split("/")[0] in of_systems)
        raise StageError(f"{collect.folder} collected nothing of {cell.policy}; it has: {known or 'nothing'}.")
    if cell.column in COUNTS and all(f"evaluate/{run}/{cell.benchmark}" in collect.inputs for run in runs):
        found = [_counted(cell, collect, run) for run in runs]
        if len(found) == 1:
            return found[0]
        how = f"mean of {len(found)} runs: {'; '.join(each.how for each in found)}"
        return Recomputed(math.fsum(each.value for each in found) / len(found), how)
    with tempfile.TemporaryDirectory() as name:
        rows = _table(cell.table, recollect(collect, Path(name) / "collected"), Path(name))
    label = label_of(cell.row, cell.table.rows)
    again = [row for row in rows if label_of(row, rows) == label and cell.column in row]
    if len(again) != 1:
        raise StageError(f"{cell.column} of {label} is not among the numbers that are collected from records.")
    return Recomputed(float(again[0][cell.column] or "nan"), "all records collected anew, and the table made of them")


def _counted(cell: Cell, collect: Made, policy: str) -> Recomputed:
    role = f"evaluate/{policy}/{cell.benchmark}"
    file = collect.inputs[role] / "records.jsonl"
    check_recorded(collect, role, file.name, file)
    row = next((each for each in collect.science["policies"] if each["name"] == policy), {})
    primary = row.get("primary_threshold", collect.science["primary_threshold"])
    threshold = primary if cell.threshold is None else cell.threshold
    rows = _at(list(read_jsonl(file)), threshold)
    if not rows:
        raise StageError(f"{file} has no record at the threshold of this cell.")
    factor, above, below, sentence = COUNTS[cell.column]
    totals = [len(rows) if what == "n" else sum(row[what] for row in rows) for what in (above, below)]
    return Recomputed(factor * totals[0] / totals[1], sentence.format(*totals))


def _at(rows: list[dict[str, Any]], threshold: float) -> list[dict[str, Any]]:
    """Returns the records at a threshold, or all if there is only one threshold."""
    if len({row["threshold"] for row in rows}) == 1:
        return rows
    return [row for row in rows if math.isclose(row["threshold"], threshold, abs_tol=1e-9)]


def _table(table: TableFile, collect: Path, out: Path) -> list[dict[str, str]]:
    """Returns the rows of a table that is built again in `out`."""
    from lightningrl.pipeline.stages.table import run

    with of_today(table.owner):
        config = settings(table.stage, "table", table.file.stem)
        run(SimpleNamespace(config=config, inputs={"collect": collect}, folder=out, report=lambda line: None))  # type: ignore[arg-type]
    return read_rows(out / f"{config['name']}.csv")


def settings(made: Made | None, kind: str, name: str) -> dict[str, Any]:
    """Returns the config of a table's or figure's stage, by its manifest or else by today's registry.

    Raises StageError where only the missing manifest knows what was collected for it, ConfigError for an unknown name.
    """
    if made is not None:
        return dict(made.science) | {"members": dict(made.manifest["preimage"]["members"])}
    if name in resolve("lightningrl.report.registry:NEEDS"):
        raise StageError(
            f"{name} is made of results collected for it alone, and its stage's folder is not here: copy "
            f"{kind}/{name}-<key> and its collect/{name}-<key> from where they were made (the manifests are enough)."
        )
    members = {kind: member(kind, name, f"--{kind}")}
    return {"name": name, "collected": collected(f"{kind}s", name), "members": members}


def collect_of(folder: Path) -> Made:
    """Returns a collect stage's manifest. Raises StageError, saying what to copy, where it is missing."""
    try:
        return read_made(folder)
    except StageError as error:
        raise StageError(
            f"{error} It says which records belong together; copy {folder / 'manifest.json'} from where the results "
            "were made."
        ) from None
