"""Lines of JSON with a hash each: what a kill or a bad disk has torn is told from what is whole."""

from __future__ import annotations

import json
from typing import Any

from lightningrl.utils import files

DIGITS = 16


def hashed_line(row: dict[str, Any]) -> str:
    """The row as canonical JSON behind the first digits of its hash, and a newline.

    >>> hashed_row(hashed_line({"a": 1}).encode())
    {'a': 1}
    """
    text = files.canonical_json(row)
    return f"{files.sha256_text(text)[:DIGITS]} {text}\n"


def hashed_row(line: bytes) -> dict[str, Any] | None:
    """The row of such a line; None when it is not what was written."""
    try:
        digest, _, text = line.decode().rstrip("\n").partition(" ")
        return json.loads(text) if files.sha256_text(text)[:DIGITS] == digest else None
    except ValueError:
        return None
