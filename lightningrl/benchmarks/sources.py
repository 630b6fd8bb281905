"""One published file of problems: where it is, what is known of it, and how its bytes become rows.

A pin is a fact that somebody has seen: of a mirror's file, the hash of its bytes; of the content, the hash of its rows
in canonical form, equal whatever format carried them. What nobody has seen yet (a hub's commit) is None: the first
fetch writes it to the lock (`fetch`).
"""

from __future__ import annotations

import gzip
import io as memory
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from lightningrl.errors import BenchmarkError
from lightningrl.utils.files import canonical_json, sha256_text

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """One set of rows, as one file in a mirror and one or more in a hub repository.

    >>> Source("test", "SJTU-DENG-Lab/GSM8K", ("test/GSM8K.json",), "protocol/GSM8K.json", 1319, ("question",)).rows
    1319
    """

    key: str
    """Under which the benchmark finds the rows."""
    repo: str
    """Dataset repository on the Hugging Face hub."""
    files: tuple[str, ...]
    """Paths in that repository, concatenated in this order."""
    mirror: str
    """Path below a mirror folder."""
    rows: int | None
    """How many there must be; None: not known."""
    fields: tuple[str, ...]
    """The fields that are read; every row must have them. Others are dropped."""
    mirror_sha256: str | None = None
    """Of the mirror's file."""
    content_sha256: str | None = None
    """Of the rows: see `content_hash`."""
    revision: str | None = None
    """Commit of the hub's repository."""
    order_by: str | None = None
    """Field by which rows are sorted; None: as they come."""

    @property
    def name(self) -> str:
        return f"{self.repo}: {', '.join(self.files)}"


def parse(name: str, data: bytes) -> list[Row]:
    """The rows of a .json (a list), .jsonl, .jsonl.gz or .parquet file. Raises BenchmarkError when it is none."""
    suffixes = PurePosixPath(name).suffixes
    try:
        if suffixes[-1:] == [".gz"]:
            data, suffixes = gzip.decompress(data), suffixes[:-1]
        if suffixes[-1:] == [".parquet"]:
            import pyarrow.parquet as parquet

            # Without threads: those of the library may be in the way of a process that ends at once.
            return parquet.ParquetFile(memory.BytesIO(data), pre_buffer=False).read(use_threads=False).to_pylist()
        if suffixes[-1:] == [".jsonl"]:
            rows = [json.loads(line) for line in data.decode().split("\n") if line.strip()]
        else:
            rows = json.loads(data)
    except (ValueError, OSError, EOFError, RecursionError, zlib.error) as error:  # pyarrow's errors are among them
        raise BenchmarkError(f"{name} cannot be read: {error}. Get it again.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BenchmarkError(f"{name}: expected a list of objects. Get it again.")
    return rows


def read_rows(source: Source, parts: Sequence[tuple[str, bytes]]) -> list[Row]:
    """The source's rows out of its files (name, bytes), checked: fields, count, content.

    Raises BenchmarkError naming what differs.
    """
    rows: list[Row] = []
    for name, data in parts:
        for number, row in enumerate(parse(name, data)):
            missing = [wanted for wanted in source.fields if wanted not in row]
            if missing:
                raise BenchmarkError(f"{name}, row {number}: it lacks {', '.join(missing)}; found {sorted(row)}")
            rows.append({wanted: row[wanted] for wanted in source.fields})
    field = source.order_by
    if field is not None:
        try:
            rows.sort(key=lambda row: row[field])
        except TypeError as error:
            raise BenchmarkError(f"{parts[0][0]}: {field} cannot be put in order: {error}. Get it again.") from error
    where = ", ".join(name for name, _ in parts)
    if source.rows is not None and len(rows) != source.rows:
        raise BenchmarkError(f"{where}: {len(rows)} rows, expected {source.rows}. Get the file again.")
    try:
        found = content_hash(rows)
    except (ValueError, TypeError) as error:
        raise BenchmarkError(f"{where}: a row holds what JSON cannot: {error}. Get the file again.") from error
    if source.content_sha256 is not None and found != source.content_sha256:
        raise BenchmarkError(
            f"{where}: its rows are not those that results here are made of (content sha256 {found}, expected "
            f"{source.content_sha256}). It was changed at its origin; take a mirror, or an older revision."
        )
    return rows


def content_hash(rows: Sequence[Row]) -> str:
    """sha256 of the rows as canonical JSON: the same for JSON, JSON lines and parquet."""
    return sha256_text(canonical_json(rows))
