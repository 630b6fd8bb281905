"""The numbers that the paper's tables print, by row and benchmark, and the d3LLM leaderboard's behind its Table 2.

A row has one identity in all tables, which `published` in an experiment's config names: `SDAR-1.7B-b32` is
Table 6's (SDAR, 1.7B, 32), `LightningRL-8B-b32` is also the row `LightningRL` of Tables 3, 5 and 7 and `Seq-Tok-Tok` of
Table 4. `tests/report/test_paper_tables.py` computes Table 2's AUPs again from the leaderboard's points. Nothing here
was measured by us.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from lightningrl.report.published.files import NOTES, POINTS, QUANTIZED, RESULTS, rows

if TYPE_CHECKING:  # the plan, which asks for rows, needs no numpy
    from lightningrl.evaluation.aup import Point

BENCHMARKS = {"gsm8k": "GSM8K", "math500": "MATH500", "mbpp": "MBPP", "humaneval": "HumanEval"}
"""An experiment's benchmark -> its name in the paper, in the paper's order."""
SAME = {"LightningRL": "LightningRL-8B-b32", "Seq-Tok-Tok": "LightningRL-8B-b32", "SDAR": "SDAR-8B-b32"}
"""Names that single tables print -> the identity."""
CITATION = "Hu et al., LightningRL, arXiv 2603.13319, version 1"
METHODS: dict[str, tuple[str, str]] = {
    "Qwen-2.5-7B-Instruct": ("llada", "Qwen-2.5-7B-it"),
    "EAGLE-3 (LLaMA-3.1)": ("dream", "EAGLE-3"),
    "Fast-dLLM-v2": ("dream", "Fast-dLLM-v2-7B"),
    "LLaDA": ("llada", "LLaDA"),
    "Fast-dLLM-LLaDA": ("llada", "Fast-dLLM-LLaDA"),
    "D2F-LLaDA": ("llada", "D2F"),
    "dParallel-LLaDA": ("llada", "dParallel-LLaDA"),
    "d3LLM-LLaDA": ("llada", "d3LLM-LLaDA"),
    "Dream": ("dream", "Dream"),
    "Fast-dLLM-Dream": ("dream", "Fast-dLLM-Dream"),
    "dParallel-Dream": ("dream", "dParallel-Dream"),
    "d3LLM-Dream": ("dream", "d3LLM-Dream"),
}
"""Table 2's model -> the leaderboard's family and method. SDAR and LightningRL are not on it."""

TASKS: dict[str, dict[str, str]] = {
    "llada": {"GSM8K": "GSM8K-CoT", "MATH500": "MATH", "MBPP": "MBPP", "HumanEval": "HumanEval"},
    "dream": {"GSM8K": "GSM8K-CoT", "MATH500": "MATH", "MBPP": "MBPP-Instruct", "HumanEval": "HumanEval-Instruct"},
}
"""Family -> Table 2's benchmark -> the leaderboard's task."""


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
    """Returns the identities of all rows of all tables, and of what is published of quantised models."""
    quantized = (row["identity"] for row in rows(QUANTIZED) if row["identity"])
    return frozenset((*(row.identity for number in range(1, 8) for row in printed(f"table{number}")), *quantized))


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


@cache
def leaderboard() -> dict[tuple[str, str], dict[str, list[Point]]]:
    """Returns (family, task) -> method -> its points by rising TPF."""
    found: dict[tuple[str, str], dict[str, list[Point]]] = {}
    for row in rows(POINTS):
        methods = found.setdefault((row["family"], row["task"]), {})
        methods.setdefault(row["method"], []).append((float(row["tpf"]), float(row["accuracy_pct"])))
    return {task: {name: sorted(points) for name, points in methods.items()} for task, methods in found.items()}


def points_of(model: str, benchmark: str) -> list[Point]:
    """Returns the points of a cell of Table 2 by rising TPF; none where the model is not on the leaderboard."""
    family, method = METHODS.get(model, ("", ""))
    return leaderboard()[family, TASKS[family][benchmark]][method] if family else []
