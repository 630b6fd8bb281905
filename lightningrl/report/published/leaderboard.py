"""The AUPs of the paper's Table 2, recomputed from the points on the d3LLM leaderboard.

Each cell of the table is (model, benchmark); its y_max is the best accuracy of any method of the same family and task
of the leaderboard. What the data are, and where they contradict each other, is in the README beside this file. Nothing
here was measured by us, and the points enter no result of ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightningrl.evaluation.aup import aup
from lightningrl.report.published.files import POINTS, RESULTS, rows

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

Point = tuple[float, float]
"""(TPF, accuracy in percent)."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One model on one benchmark of Table 2, as printed and as the leaderboard's points give it."""

    model: str
    benchmark: str
    accuracy_pct: float
    tpf: float
    aup: float
    """As printed, with one decimal."""
    points: tuple[Point, ...]
    """Of the leaderboard, by rising TPF; empty where it has none."""
    y_max: float | None

    @property
    def recomputed(self) -> float | None:
        """AUP of the points; None where there are none."""
        return aup(self.points, self.y_max) if self.points and self.y_max is not None else None

    @property
    def reproduced(self) -> bool:
        """Whether the printed AUP is the points', to the printed decimal (a half may have been rounded either way)."""
        return self.recomputed is not None and abs(self.recomputed - self.aup) <= 0.05 + 1e-9

    @property
    def prints_other_point(self) -> bool:
        """Whether the printed accuracy or TPF is not the leaderboard's fastest point's, to the last digit printed."""
        tpf, accuracy = self.points[-1]
        return abs(accuracy - self.accuracy_pct) > 0.05 + 1e-9 or abs(tpf - self.tpf) > 0.005 + 1e-9


def leaderboard() -> dict[tuple[str, str], dict[str, tuple[Point, ...]]]:
    """(family, task) -> method -> its points by rising TPF."""
    found: dict[tuple[str, str], dict[str, list[Point]]] = {}
    for row in rows(POINTS):
        methods = found.setdefault((row["family"], row["task"]), {})
        methods.setdefault(row["method"], []).append((float(row["tpf"]), float(row["accuracy_pct"])))
    return {task: {name: tuple(sorted(points)) for name, points in methods.items()} for task, methods in found.items()}


def table_2() -> list[Cell]:
    """All 56 cells of Table 2, in the table's order."""
    board = leaderboard()
    printed: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows(RESULTS):
        if row["table"] == "table2":
            printed.setdefault((row["model"], row["benchmark"]), {})[row["metric"]] = float(row["value"])
    cells = []
    for (model, benchmark), numbers in printed.items():
        points, y_max = (), None
        if model in METHODS:
            family, method = METHODS[model]
            methods = board[family, TASKS[family][benchmark]]
            points = methods[method]
            y_max = max(accuracy for curve in methods.values() for _, accuracy in curve)
        cells.append(Cell(model, benchmark, **numbers, points=points, y_max=y_max))
    return cells
