"""Tables, figures and single numbers made again from a results folder alone: from the collected files, or else from
records and metrics.

The manifest of a table or figure names its member, options and collected files; for one that the release lacks, today's
registry does. Today's code computes them. It takes no config, GPU, data, checkpoint or torch.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightningrl.config.report import Plot
from lightningrl.errors import DamagedError, StageError
from lightningrl.pipeline.graph import StageRecord, read_record
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.stage import MANIFEST
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.sources import labels_of, read_rows
from lightningrl.results.tables import Cell, check_recorded, collect_in, collect_role, config_of, members_of
from lightningrl.utils.files import read_jsonl
from lightningrl.utils.numbers import is_same


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


def recompute(cell: Cell) -> Recomputed:
    """Computes a cell's number from the records. Raises StageError where they are missing or have no such number.

    Counts are added up by the formula; for any other number, and for a row whose benchmark was not evaluated itself (an
    average), the records are collected and the table is built again.
    """
    sources = cell.sources()
    if not sources:
        collect = collect_in(cell.table.collect_folder)
        if cell.policy not in {each.get(key) for each in collect.science["policies"] for key in ("name", "series")}:
            of_systems = {kind.name for kind in KINDS.values() if kind.per_system}
            known = ", ".join(role for role in collect.inputs if role.split("/")[0] in of_systems)
            raise StageError(f"{collect.folder} collected nothing of {cell.policy}; it has: {known or 'nothing'}.")
    if sources and cell.column in COUNTS and all("records.jsonl" in source["files"] for source in sources):
        found = [_counted(cell, source) for source in sources]
        if len(found) == 1:
            return found[0]
        how = f"mean of {len(found)} runs: {'; '.join(each.how for each in found)}"
        return Recomputed(math.fsum(each.value for each in found) / len(found), how)
    config = cell.table.config
    with tempfile.TemporaryDirectory() as name, _of_today(cell.table.owner):
        from lightningrl.pipeline.stages.table import write_table

        collected = recollect(collect_in(cell.table.collect_folder), Path(name) / "collected")
        write_table(config, collected, Path(name))
        rows = read_rows(Path(name) / f"{config['name']}.csv")
    named = zip(labels_of(rows), rows, strict=False)
    again = [row[cell.column] for label, row in named if label == cell.label and cell.column in row]
    if len(again) != 1:
        raise StageError(f"{cell.column} of {cell.label} is not among the numbers that are collected from records.")
    return Recomputed(float(again[0] or "nan"), "all records collected anew, and the table made of them")


def _counted(cell: Cell, source: dict[str, Any]) -> Recomputed:
    file = cell.table.owner.root.joinpath(*Path(source["folder"]).parts[1:], "records.jsonl")
    for reader, sha256 in _recorded(cell, source, file):
        check_recorded(file, sha256, reader)
    rows = list(read_jsonl(file))
    thresholds = {row["threshold"] for row in rows}
    if len(thresholds) > 1:
        nearest = min(thresholds, key=lambda threshold: abs(threshold - source["threshold"]))
        is_there = is_same(nearest, source["threshold"])
        rows = [row for row in rows if is_there and row["threshold"] == nearest]
    if not rows:
        raise StageError(f"{file} has no record at the threshold of this cell.")
    factor, above, below, sentence = COUNTS[cell.column]
    totals = [len(rows) if what == "n" else sum(row[what] for row in rows) for what in (above, below)]
    return Recomputed(factor * totals[0] / totals[1], sentence.format(*totals))


def _recorded(cell: Cell, source: dict[str, Any], file: Path) -> Iterator[tuple[Path, str]]:
    """Yields who says what hash a file of records has: the table, what collected them, and the stage that wrote them.

    Raises DamagedError where the table's list names a stage or a key that was not collected."""
    listed, label = cell.table.file.with_suffix(".sources.json"), source["stage"]
    yield listed, source["files"][file.name]
    if (cell.table.collect_folder / MANIFEST).is_file():
        collect = _readable(cell.table.collect_folder)
        read = collect and collect.manifest["inputs"].get(label)
        if collect and (not read or read["key"] != source["key"] or collect.inputs[label] != file.parent):
            found = f"{read['key']} in {collect.inputs[label]}" if read else "nothing of it"
            raise DamagedError(
                f"{listed} says that {cell.label} was made from {label} with key {source['key']} in {file.parent}, but "
                f"{collect.folder / MANIFEST} lists {found}. Make the table again, or copy it anew from where the "
                "results were made."
            )
        if collect and read:
            yield collect.folder / MANIFEST, read["outputs"][file.name]["sha256"]
    if (file.parent / MANIFEST).is_file():
        yield file.parent / MANIFEST, read_record(file.parent).outputs[file.name]


def _readable(folder: Path) -> StageRecord | None:
    """Returns the stage in a folder, or None where its manifest is damaged: whoever follows the way there says so."""
    try:
        return read_record(folder)
    except DamagedError:
        return None


def recollect(collect: StageRecord, out: Path) -> Path:
    """Computes a collect stage's files again in `out`. Raises StageError where its inputs are missing or damaged."""
    from lightningrl.pipeline.stages.collect import run

    for role, folder in collect.inputs.items():
        read = collect.manifest["inputs"][role]["outputs"]
        for name in {kind.collected for kind in KINDS.values()} & set(read):
            check_recorded(folder / name, read[name]["sha256"], collect.folder / MANIFEST)
    config = {**collect.science, "members": members_of(collect)}
    out.mkdir(parents=True, exist_ok=True)
    with _of_today(collect):
        run(StageContext(config, collect.inputs, out, out))
    return out


@contextmanager
def _of_today(record: StageRecord) -> Iterator[None]:
    """Turns the errors that another version's records or settings cause into a StageError that names its commit."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise StageError(
            f"{record.folder} was made by a version whose records or settings this one does not read ({error!r}). "
            f"Check out the one that made it: commit {record.commit}."
        ) from error


@dataclass
class Redraw:
    """A release, and the folder in which its tables and figures are drawn again."""

    release: StageRecord
    out: Path
    report: Callable[[str], None]
    _collected: dict[Path, Path] = field(default_factory=dict)

    def names(self, kind: str) -> list[str]:
        """Returns the names of the release's tables or figures."""
        return [role.split("/", 1)[1] for role in self.release.inputs if role.split("/")[0] == kind]

    def there(self, kind: str, name: str) -> list[Path]:
        """Returns the files of one `table` or `figure` that `out` has. Raises StageError, ConfigError."""
        return sorted((self.out / f"{kind}s").glob(f"{self._config(kind, name)[0]['name']}.*"))

    def draw(self, kind: str, name: str) -> list[Path]:
        """Draws one `table` or `figure` and returns its files below `out`. Raises StageError, ConfigError."""
        from lightningrl.pipeline.stages import figure, table

        config, collect = self._config(kind, name)
        collected, folder = self._collect(collect), self.out / f"{kind}s"
        folder.mkdir(parents=True, exist_ok=True)
        with _of_today(self.release):
            if kind == "table":
                table.write_table(config, collected, folder, collect)
            else:
                figure.run(StageContext(config, {"collect": collected}, folder, self.out / ".state" / name))
        return sorted(folder.glob(f"{config['name']}.*"))

    def _config(self, kind: str, name: str) -> tuple[dict[str, Any], Path]:
        """Returns the stage's config, and the folder of the collected results that it reads."""
        folder = self.release.inputs.get(f"{kind}/{name}")
        record = read_record(folder) if folder is not None and (folder / MANIFEST).is_file() else None
        reader, config = record or self.release, config_of(record, kind, name)
        role = collect_role(reader)
        collect = reader.inputs[role]
        if (collect / MANIFEST).is_file():
            reader.input_record(role)  # raises where it is another one
        if kind == "figure":
            config["plot"] = Plot.model_validate(config.get("plot", {}))
            if record is None:
                policies = collect_in(collect).science.get("policies", [])
                config["policies"] = [policy["name"] for policy in policies]
        return config, collect

    def _collect(self, folder: Path) -> Path:
        """Returns the folder of the collected files, which may have to be collected again from the records. Raises
        DamagedError for files that are not those that were collected."""
        if folder not in self._collected:
            self._collected[folder] = folder
            if not (folder / MANIFEST).is_file() and any(folder.glob("*.csv")):
                self.report(f"{folder} has no manifest; its files are taken as they are")
            else:
                collect = collect_in(folder)
                names = [name for name in collect.outputs if name.endswith(".csv")]
                for name in (name for name in names if (folder / name).is_file()):
                    check_recorded(folder / name, collect.outputs[name], folder / MANIFEST)
                if not names or any(not (folder / name).is_file() for name in names):
                    self._collected[folder] = recollect(collect, self.out / "collected" / folder.name)
                    self.report(f"collected anew from records: {self._collected[folder]}")
        return self._collected[folder]
