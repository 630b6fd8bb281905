"""One check of `lightningrl doctor`, with its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One check."""

    name: str
    grade: Literal["ok", "note", "missing"]
    """`missing`: something that the experiment needs; `note`: what will not work, or must be known."""
    what: str
    remedy: str = ""
