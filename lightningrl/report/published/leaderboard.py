"""The AUPs of the paper's Table 2, recomputed from the points of the d3LLM leaderboard.

Each cell of the table is (model, benchmark); its y_max is the best accuracy of any method of the same family and task
on the leaderboard. The README beside this file describes the data and their contradictions. Nothing here was measured
by us, and the points enter no result of ours.
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
class PublishedCell:
    """One model on one benchmark of Table 2, as printed and by the leaderboard's points."""

    model: str
    benchmark: str
    accuracy_pct: float
    tpf: float
    aup: float
    """The printed AUP, with one decimal."""
    points: tuple[Point, ...]
    """The leaderboard's points by rising TPF; empty where it has none."""
    y_max: float | None

    @property
    def recomputed(self) -> float | None:
        """The AUP of the points, or None where there are none."""
        return aup(self.points, self.y_max) if self.points and self.y_max is not None else None

    @property
    def reproduced(self) -> bool:
        """Whether the printed AUP is that of the points, to its decimal (a half may have been rounded either way)."""
        return self.recomputed is not None and abs(self.recomputed - self.aup) <= 0.05 + 1e-9

    @property
    def prints_other_point(self) -> bool:
        """Whether the printed accuracy or TPF differs from the leaderboard's fastest point in the printed digits."""
        tpf, accuracy = self.points[-1]
        return abs(accuracy - self.accuracy_pct) > 0.05 + 1e-9 or abs(tpf - self.tpf) > 0.005 + 1e-9


def leaderboard() -> dict[tuple[str, str], dict[str, tuple[Point, ...]]]:
    """Returns (family, task) -> method -> its points by rising TPF."""
    found: dict[tuple[str, str], dict[str, list[Point]]] = {}
    for row in rows(POINTS):
        methods = found.setdefault((row["family"], row["task"]), {})
        methods.setdefault(row["method"], []).append((float(row["tpf"]), float(row["accuracy_pct"])))
    return {task: {name: tuple(sorted(points)) for name, points in methods.items()} for task, methods in found.items()}


def table_2() -> list[PublishedCell]:
    """Returns all 56 cells of Table 2 in its order."""
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
        cells.append(PublishedCell(model, benchmark, **numbers, points=points, y_max=y_max))
    return cells
