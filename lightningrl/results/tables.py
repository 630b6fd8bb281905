"""A table in a results folder: its file, its rows and cells, and the stages that each row was made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lightningrl.config.registries import member
from lightningrl.errors import DamagedError, StageError
from lightningrl.pipeline.graph import StageRecord, read_record
from lightningrl.pipeline.kinds import measured_in
from lightningrl.pipeline.requested import tables_behind
from lightningrl.pipeline.stage import MANIFEST
from lightningrl.pipeline.stages.sources import Row, label_at, labels_of, read_rows, row_sources, who
from lightningrl.report.registry import NEEDS
from lightningrl.results.folders import LATEST, find_release
from lightningrl.utils.files import read_json, sha256_file


@dataclass(frozen=True, eq=False)
class TableFile:
    """A table's CSV file and what manifests say about it."""

    file: Path
    owner: StageRecord
    """The owner of the manifest that lists the file: the table's stage, or a release, which has a copy."""
    stage: StageRecord | None
    """The table's stage, or None where its folder is missing."""

    @property
    def reader(self) -> StageRecord:
        """The stage whose manifest names the collected results behind the table."""
        return self.stage or self.owner

    @property
    def collect_folder(self) -> Path:
        """The folder of the collected results, which may be missing."""
        return self.reader.inputs[collect_role(self.reader)]

    @property
    def config(self) -> dict[str, Any]:
        """The config of the table's stage. Raises as `config_of` does."""
        return config_of(self.stage, "table", self.file.stem)

    @cached_property
    def rows(self) -> list[Row]:
        return read_rows(self.file)

    @cached_property
    def labels(self) -> list[str]:
        """The names of the rows, where they are of a policy and a benchmark."""
        return labels_of(self.rows)

    @property
    def numbers(self) -> list[str]:
        """The columns that have a number in every row that is not empty there."""
        columns = list(self.rows[0]) if self.rows else []
        return [c for c in columns if any(r[c] for r in self.rows) and all(_is_number(r[c]) for r in self.rows)]

    def check(self, file: Path) -> None:
        """Raises DamagedError where a file is not what the owner's manifest says."""
        if sha256_file(file) != self.owner.outputs[file.relative_to(self.owner.folder).as_posix()]:
            raise DamagedError(f"{file} is damaged: its sha256 is not the one in its manifest.")

    def sources(self, label: str) -> list[dict[str, Any]]:
        """Returns the stages behind a row, as the table's stage has written them down.

        Of a table that was made before such files were written, they are found out now.
        """
        file = self.file.with_suffix(".sources.json")
        if file.relative_to(self.owner.folder).as_posix() in self.owner.outputs and file.is_file():
            self.check(file)
            return read_json(file).get(label, [])
        collect = collect_in(self.collect_folder)
        return row_sources(self.rows, collect.manifest, collect.folder, self.config["measured"]).get(label, [])

    def cell(self, name: str) -> Cell:
        """Returns the cell `<policy>/<benchmark>:<column>`.

        Where rows differ by threshold its name is `<policy>/<benchmark>@<threshold>:<column>`. Raises StageError,
        listing the rows or the columns, when there is no such cell.
        """
        if not self.labels:
            raise StageError(
                f"{self.file}: its rows are not of a policy and a benchmark, so they cannot be followed back to "
                f"records. Its columns: {', '.join(self.rows[0]) if self.rows else 'none'}."
            )
        known, (label, colon, column) = ", ".join(self.labels), name.rpartition(":")
        if not colon:
            raise StageError(f"{name!r}: expected ROW:COLUMN, like {self.labels[0]}:tpf. Rows: {known}.")
        named = zip(self.labels, self.rows, strict=True)
        cells = [Cell(self, own, row, column) for own, row in named if label in (own, label_at(row))]
        if len(cells) != 1:
            what = "several rows are" if cells else "there is no row"
            raise StageError(f"{self.file}: {what} {label!r}. Rows: {known}.")
        text, columns = cells[0].row.get(column), ", ".join(self.numbers)
        if text is None:
            raise StageError(f"{self.file} has no column {column!r}. Columns: {columns}.")
        if not _is_number(text):
            found = f"{column} of {label} is {text!r}, no number"
            raise StageError(f"{self.file}: {found}. Columns of numbers: {columns}.")
        return cells[0]


@dataclass(frozen=True, eq=False)
class Cell:
    """A number in a table."""

    table: TableFile
    label: str
    """The name of its row."""
    row: Row
    column: str

    @property
    def policy(self) -> str:
        """The row's policy, or its series of runs."""
        return who(self.row)

    @property
    def text(self) -> str:
        """The text in the file; empty where the number does not apply."""
        return self.row[self.column]

    def sources(self) -> list[dict[str, Any]]:
        return self.table.sources(self.label)


def stage_in(path: Path) -> StageRecord | None:
    """Returns the stage whose folder, or a file in whose folder, a path is; None where it shows collected results, or
    the path leads to no stage."""
    folder = path if path.is_dir() else path.parent
    record = read_record(folder) if (folder / MANIFEST).is_file() else None
    return None if record is None or any(role.split("/")[0] == "collect" for role in record.inputs) else record


def find_table(name: str, results: Path, release: str = LATEST) -> TableFile:
    """Returns a table by its name in a release, or by the path of its CSV file or its stage's folder.

    Raises StageError, listing the known tables, when it does not exist, or when it is not the one that was released.
    """
    path = Path(name)
    if path.suffix == ".csv" and path.is_file():
        return _table_in(path)
    if (path / MANIFEST).is_file():
        return _table_in(path / f"{read_record(path).name}.csv")
    record = find_release(results, release)
    if f"table/{name}" in record.inputs:
        record.input_record(f"table/{name}")
    folder = record.inputs.get(f"table/{name}", record.folder / "tables")
    for file in (folder / f"{name}.csv", record.folder / "tables" / f"{name}.csv"):
        if file.is_file():
            return _table_in(file)
    known = ", ".join(role.removeprefix("table/") for role in record.inputs if role.startswith("table/"))
    raise StageError(
        f"{name}: neither a file nor a table of release {record.key} in {record.root}. It has: {known or 'none'}."
    )


def config_of(record: StageRecord | None, kind: str, name: str) -> dict[str, Any]:
    """Returns the config of a table's or figure's stage, by its manifest or else by today's registry.

    Raises StageError where only the missing manifest knows what was collected for it, ConfigError for an unknown name.
    """
    if record is not None:
        config = {**record.science, "members": members_of(record)}
    elif name in NEEDS:
        raise StageError(
            f"{name} is made of results collected for it alone, and its stage's folder is not here: copy "
            f"{kind}/{name}-<key> and its collect/{name}-<key> from where they were made (the manifests are enough)."
        )
    else:
        members = {kind: member(kind, name, f"--{kind}")}
        config = {"name": name, "collected": tables_behind(kind, name, members[kind]), "members": members}
    named = config.get("collected", [])
    return {"measured": measured_in([named] if isinstance(named, str) else named)} | config


def members_of(record: StageRecord) -> dict[str, str]:
    """Returns the members that a stage was made with. Raises DamagedError where its manifest has none."""
    found = record.manifest["preimage"].get("members")
    if not isinstance(found, dict):
        told = (
            f"its preimage has no mapping of members, found {found!r}. Copy it anew from where the results were made."
        )
        raise DamagedError(f"{record.folder / MANIFEST} is damaged: {told}")
    return dict(found)


def collect_in(folder: Path) -> StageRecord:
    """Returns a collect stage's record. Raises StageError, saying what to copy, where it is missing."""
    try:
        return read_record(folder)
    except StageError as error:
        raise type(error)(
            f"{error} It says which records belong together; copy {folder / MANIFEST} from where the results were made."
        ) from None


def check_recorded(file: Path, sha256: str, source: Path) -> None:
    """Raises StageError unless a file exists, DamagedError unless it has the hash that it has in `source`."""
    if not file.is_file():
        raise StageError(f"{file} is not here; copy it from where the results were made (its sha256 is {sha256}).")
    if (found := sha256_file(file)) != sha256:
        raise DamagedError(
            f"{file} is damaged: its sha256 is {found}, but {source} says {sha256}. Copy it anew from where the "
            "results were made, or delete its folder and make it again."
        )


def collect_role(reader: StageRecord) -> str:
    """Returns the role of the collected results behind a table, a figure or a release."""
    roles = [role for role in reader.inputs if role.split("/")[0] == "collect"]
    if not roles:
        raise StageError(f"{reader.folder / MANIFEST} names no collected results.")
    return roles[0]


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _table_in(file: Path) -> TableFile:
    """Returns the table in a CSV file, whose manifest is beside it or one folder up."""
    folder = next((f for f in (file.parent, file.parent.parent) if (f / MANIFEST).is_file()), None)
    if folder is None:
        raise StageError(f"{file} has no {MANIFEST} beside it: expected a file in a table's or a release's folder.")
    owner = read_record(folder)
    file = owner.folder / file.relative_to(folder)
    if file.relative_to(owner.folder).as_posix() not in owner.outputs:
        raise StageError(f"{owner.folder / MANIFEST} does not list {file.name}: it was not made by this stage.")
    stage: StageRecord | None = owner
    if owner.kind == "release":
        role = f"table/{file.stem}"
        stage = owner.input_record(role) if role in owner.inputs else None
    collect_role(stage or owner)  # raises where there is none
    return TableFile(file, owner, stage)
