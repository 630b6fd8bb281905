"""One cell of a table in a results folder: its file, its row, and the collected results behind it.

Tables with a row for each number (`metric`, `value`, `low`, `high`, as the paper's) are read as if they had a column
for each metric: measured ones by their name, others with their part in front (`published.tpf`).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from lightningrl.errors import StageError
from lightningrl.pipeline.graph import LATEST, Made, find_release, read_made
from lightningrl.pipeline.stage import MANIFEST


@dataclass(frozen=True, eq=False)
class TableFile:
    """A table's CSV file and what its manifests say about it."""

    file: Path
    owner: Made
    """The owner of the manifest that lists the file: the table's stage, or a release, which has a copy."""
    stage: Made | None
    """The table's stage, or None where its folder is missing."""
    reader: Made
    """The one of these two whose manifest names the collected results behind the table."""
    role: str
    """The role of the collected results in that manifest."""
    rows: list[dict[str, str]]

    @property
    def collect(self) -> Path:
        """The collect stage's folder, which may be missing."""
        return self.reader.inputs[self.role]

    @property
    def sha256(self) -> str:
        """The hash of the file in its owner's manifest."""
        return self.owner.manifest["outputs"][self.file.relative_to(self.owner.folder).as_posix()]["sha256"]


@dataclass(frozen=True, eq=False)
class Cell:
    """A number in a table."""

    table: TableFile
    row: dict[str, str]
    column: str

    @property
    def policy(self) -> str:
        """The row's policy, or its series of runs."""
        return _who(self.row)

    @property
    def benchmark(self) -> str:
        return self.row["benchmark"]

    @property
    def threshold(self) -> float | None:
        text = self.row.get("threshold", "")
        return float(text) if text else None

    @property
    def text(self) -> str:
        """The text in the file; empty where the number does not apply."""
        return self.row[self.column]


def find_stage(asked: str) -> Made | None:
    """Returns the stage whose folder, or a file in whose folder, a path is; None where it shows collected results, or
    the path leads to no stage."""
    folder = Path(asked) if Path(asked).is_dir() else Path(asked).parent
    made = read_made(folder) if (folder / MANIFEST).is_file() else None
    return None if made is None or any(role.split("/")[0] == "collect" for role in made.inputs) else made


def find_table(name: str, results: Path, release: str = LATEST) -> TableFile:
    """Returns a table by its name in a release, or by the path of its CSV file or its stage's folder.

    Raises StageError, listing the known tables, when it does not exist.
    """
    path = Path(name)
    if path.suffix == ".csv" and path.is_file():
        return _of_file(path)
    if (path / MANIFEST).is_file():
        return _of_file(path / f"{read_made(path).name}.csv")
    made = find_release(results, release)
    if (folder := made.inputs.get(f"table/{name}")) is not None and (folder / f"{name}.csv").is_file():
        return _of_file(folder / f"{name}.csv")
    if (copy := made.folder / "tables" / f"{name}.csv").is_file():
        return _of_file(copy)
    known = ", ".join(role.removeprefix("table/") for role in made.inputs if role.startswith("table/"))
    raise StageError(
        f"{name}: neither a file nor a table of release {made.key} in {made.root}. It has: {known or 'none'}."
    )


def find_cell(table: TableFile, name: str) -> Cell:
    """Returns the cell `<policy>/<benchmark>:<column>`.

    Where rows differ by threshold its name is `<policy>/<benchmark>@<threshold>:<column>`. Raises StageError, listing
    the rows or the columns, when there is no such cell.
    """
    if not table.rows or not is_of_policies(table.rows[0]):
        raise StageError(
            f"{table.file}: its rows are not of a policy and a benchmark, so they cannot be followed back to records. "
            f"Its columns: {', '.join(table.rows[0]) if table.rows else 'none'}."
        )
    labels = [label_of(row, table.rows) for row in table.rows]
    label, colon, column = name.rpartition(":")
    if not colon:
        raise StageError(f"{name!r}: expected ROW:COLUMN, like {labels[0]}:tpf. Rows: {', '.join(labels)}.")
    rows = [row for row, known in zip(table.rows, labels, strict=True) if label in (known, _at(row))]
    if len(rows) != 1:
        what = "several rows are" if len(rows) > 1 else "there is no row"
        raise StageError(f"{table.file}: {what} {label!r}. Rows: {', '.join(labels)}.")
    if column not in rows[0]:
        raise StageError(f"{table.file} has no column {column!r}. Columns: {', '.join(numbers(table))}.")
    if not _is_number(rows[0][column]):
        found = f"{column} of {label} is {rows[0][column]!r}, no number"
        raise StageError(f"{table.file}: {found}. Columns of numbers: {', '.join(numbers(table))}.")
    return Cell(table, rows[0], column)


def read_rows(file: Path) -> list[dict[str, str]]:
    """Reads the rows of a table's CSV file, made `wide`."""
    with open(file, newline="", encoding="utf-8") as text:
        return wide(list(csv.DictReader(text)))


def wide(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Turns the rows of a long table, which has one number in each, into one for each (policy, benchmark).

    Rows without a policy (nothing was measured) are left out; the rows of other tables stay as they are.

    >>> wide([{"part": "measured", "policy": "a", "benchmark": "b", "metric": "tpf", "value": "2.0", "low": "1.5"}])
    [{'policy': 'a', 'benchmark': 'b', 'tpf': '2.0', 'tpf_low': '1.5'}]
    """
    if not rows or not {"policy", "benchmark", "metric", "value"} <= set(rows[0]):
        return rows
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    columns: dict[str, None] = {}
    for row in rows:
        if not row["policy"]:
            continue
        names = {name: row[name] for name in ("policy", "benchmark", "threshold") if row.get(name)}
        entry = found.setdefault((row["policy"], row["benchmark"], row.get("threshold", "")), names)
        part = row.get("part", "measured")
        metric = row["metric"] if part == "measured" else f"{part}.{row['metric']}"
        named = {metric: row["value"]} | {f"{metric}_{end}": row[end] for end in ("low", "high") if row.get(end)}
        entry |= named
        columns |= dict.fromkeys((*names, *named))
    return [{column: entry.get(column, "") for column in columns} for entry in found.values()]


def label_of(row: dict[str, str], rows: list[dict[str, str]]) -> str:
    """Returns the name of a row, with its threshold only where other rows differ from it in nothing else."""
    plain = f"{_who(row)}/{row['benchmark']}"
    twins = [other for other in rows if (_who(other), other["benchmark"]) == (_who(row), row["benchmark"])]
    return _at(row) if len(twins) > 1 else plain


def is_of_policies(row: dict[str, str]) -> bool:
    """Returns whether a row belongs to a policy, or a series of runs, on a benchmark."""
    return "benchmark" in row and bool({"policy", "series"} & set(row))


def numbers(table: TableFile) -> list[str]:
    """Returns the columns that have a number in every row that is not empty there."""
    return [c for c in table.rows[0] if any(r[c] for r in table.rows) and all(_is_number(r[c]) for r in table.rows)]


def _who(row: dict[str, str]) -> str:
    return row["policy"] if "policy" in row else row["series"]


def _at(row: dict[str, str]) -> str:
    return f"{_who(row)}/{row['benchmark']}" + (f"@{float(row['threshold']):g}" if row.get("threshold") else "")


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _of_file(file: Path) -> TableFile:
    """Returns the table in a CSV file, whose manifest is beside it or one folder up."""
    folder = next((f for f in (file.parent, file.parent.parent) if (f / MANIFEST).is_file()), None)
    if folder is None:
        raise StageError(f"{file} has no {MANIFEST} beside it: expected a file in a table's or a release's folder.")
    owner = read_made(folder)
    file = owner.folder / file.relative_to(folder)
    if file.relative_to(owner.folder).as_posix() not in owner.manifest["outputs"]:
        raise StageError(f"{owner.folder / MANIFEST} does not list {file.name}: it was not made by this stage.")
    stage: Made | None = owner
    if owner.kind == "release":
        there = owner.inputs.get(f"table/{file.stem}")
        stage = read_made(there) if there is not None and (there / MANIFEST).is_file() else None
    for reader in filter(None, (stage, owner)):
        roles = [role for role in reader.inputs if role.split("/")[0] == "collect"]
        if roles:
            return TableFile(file, owner, stage, reader, roles[0], read_rows(file))
    raise StageError(f"{owner.folder / MANIFEST} names no collected results that {file.name} was made from.")
