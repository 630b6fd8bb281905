"""A published file of problems: its location, what is known about it, and how its bytes become rows.

A pin records what somebody has seen: for a mirror's file the hash of its bytes, for the content the hash of its rows in
canonical form, which is equal for every file format. What nobody has seen yet (the hub's commit) is None: the first
fetch writes it to the lock (`fetch`).
"""

from __future__ import annotations

import gzip
import io
import json
import operator
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
    """A set of rows, stored as one file in a mirror and as one or more files in a hub repository.

    >>> Source("test", "SJTU-DENG-Lab/GSM8K", ("test/GSM8K.json",), "protocol/GSM8K.json", 1319, ("question",)).rows
    1319
    """

    key: str
    """The key under which the benchmark finds the rows."""
    repo: str
    """The dataset repository on the Hugging Face hub."""
    files: tuple[str, ...]
    """The paths in that repository, concatenated in this order."""
    mirror: str
    """The path below a mirror folder."""
    rows: int | None
    """The expected number of rows; None: unknown."""
    fields: tuple[str, ...]
    """The fields that every row must have; all others are dropped."""
    mirror_sha256: str | None = None
    """The hash of the mirror's file."""
    content_sha256: str | None = None
    """The hash of the rows: see `content_hash`."""
    revision: str | None = None
    """The commit of the hub's repository."""
    order_by: str | None = None
    """The field by which rows are sorted; None: they keep their order."""

    @property
    def name(self) -> str:
        return f"{self.repo}: {', '.join(self.files)}"


def parse(name: str, data: bytes) -> list[Row]:
    """Returns the rows of a .json (a list), .jsonl, .jsonl.gz or .parquet file. Raises BenchmarkError for any other."""
    suffixes = PurePosixPath(name).suffixes
    try:
        if suffixes[-1:] == [".gz"]:
            data, suffixes = gzip.decompress(data), suffixes[:-1]
        if suffixes[-1:] == [".parquet"]:
            import pyarrow.parquet as parquet

            # The library's threads may block a process that ends immediately afterwards: use none.
            return parquet.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False).to_pylist()
        if suffixes[-1:] == [".jsonl"]:
            rows = [json.loads(line) for line in data.decode().split("\n") if line.strip()]
        else:
            rows = json.loads(data)
    except (ValueError, OSError, EOFError, RecursionError, zlib.error) as error:  # pyarrow raises these too
        raise BenchmarkError(f"{name} cannot be read: {error}. Get it again.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BenchmarkError(f"{name}: expected a list of objects. Get it again.")
    return rows


def read_rows(source: Source, parts: Sequence[tuple[str, bytes]]) -> list[Row]:
    """Returns a source's rows from its files (name, bytes). Raises BenchmarkError where they do not match it."""
    rows: list[Row] = []
    for name, data in parts:
        for number, row in enumerate(parse(name, data)):
            missing = [field for field in source.fields if field not in row]
            if missing:
                raise BenchmarkError(
                    f"{name}, row {number}: the fields {', '.join(missing)} are missing; found {sorted(row)}"
                )
            rows.append({field: row[field] for field in source.fields})
    where = ", ".join(name for name, _ in parts)
    if source.rows is not None and len(rows) != source.rows:
        raise BenchmarkError(f"{where}: {len(rows)} rows, expected {source.rows}. Get the file again.")
    try:
        if source.order_by is not None:
            rows.sort(key=operator.itemgetter(source.order_by))
        found = content_hash(rows)
    except (ValueError, TypeError) as error:
        raise BenchmarkError(
            f"{where}: a row has a value that cannot be ordered, or that JSON cannot represent: {error}. Get the file "
            "again."
        ) from error
    if source.content_sha256 is not None and found != source.content_sha256:
        raise BenchmarkError(
            f"{where}: its rows have content sha256 {found}, expected {source.content_sha256}. The file was changed "
            "at its origin; use a mirror or an older revision."
        )
    return rows


def content_hash(rows: Sequence[Row]) -> str:
    """Returns the sha256 of the rows as canonical JSON, which is the same for JSON, JSON lines and parquet."""
    return sha256_text(canonical_json(rows))
