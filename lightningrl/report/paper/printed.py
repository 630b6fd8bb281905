"""The numbers that the paper's tables print, by row and benchmark.

A row has one identity in all tables, which `published` in an experiment's config names: `SDAR-1.7B-b32` is
Table 6's (SDAR, 1.7B, 32), `LightningRL-8B-b32` is also the row `LightningRL` of Tables 3, 5 and 7 and `Seq-Tok-Tok` of
Table 4. Nothing here was measured by us.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from lightningrl.report.published.files import NOTES, RESULTS, rows
from lightningrl.report.published.leaderboard import METHODS

BENCHMARKS = {"gsm8k": "GSM8K", "math500": "MATH500", "mbpp": "MBPP", "humaneval": "HumanEval"}
"""An experiment's benchmark -> its name in the paper, in the paper's order."""
SAME = {"LightningRL": "LightningRL-8B-b32", "Seq-Tok-Tok": "LightningRL-8B-b32", "SDAR": "SDAR-8B-b32"}
"""Names that single tables print -> the identity."""
CITATION = "Hu et al., LightningRL, arXiv 2603.13319, version 1"


@dataclass(frozen=True, slots=True)
class PrintedRow:
    """One row of one table.

    >>> row = printed("table4")[2]
    >>> row.label, row.identity, row.numbers["gsm8k", "tpf"]
    ('Seq-Tok-Tok', 'LightningRL-8B-b32', 5.58)
    """

    label: str
    """The printed name; in Table 6 with size and block."""
    identity: str
    numbers: dict[tuple[str, str], float] = field(default_factory=dict)
    """(benchmark of an experiment, metric of the file) -> value."""

    @property
    def other_system(self) -> bool:
        """Whether it is a system of the d3LLM leaderboard, which is not run here."""
        return self.identity in METHODS


@cache
def identities() -> frozenset[str]:
    """Returns the identities of all rows of all tables."""
    return frozenset(row.identity for number in range(1, 8) for row in printed(f"table{number}"))


def printed(table: str) -> list[PrintedRow]:
    """Returns the rows of a table (`table1` to `table7`) in its order."""
    keys = {name: key for key, name in BENCHMARKS.items()}
    found: dict[str, PrintedRow] = {}
    for row in rows(RESULTS):
        if row["table"] == table:
            model = row["model"]
            sized = f"{model}-{row['scale']}-b{row['block_size']}"
            identity, label = (sized, sized) if table == "table6" else (SAME.get(model, model), model)
            numbers = found.setdefault(identity, PrintedRow(label, identity)).numbers
            numbers[keys[row["benchmark"]], row["metric"]] = float(row["value"])
    return list(found.values())


def notes_of(table: str) -> tuple[str, ...]:
    """Returns what does not fit together in the published numbers of a table; more in `published/README.md`.

    >>> len(notes_of("table7")), notes_of("table5")
    (1, ())
    """
    return tuple(row["note"] for row in rows(NOTES) if table in row["tables"].split())
