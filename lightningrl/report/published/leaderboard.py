"""The points of the d3LLM leaderboard, by the models of the paper's Table 2, whose AUPs they give.

The README beside this file describes the data and their contradictions; `tests/report/test_published_aup.py` computes
the printed AUPs again. Nothing here was measured by us, and the points enter no result of ours.
"""

from __future__ import annotations

from functools import cache

from lightningrl.evaluation.aup import Point
from lightningrl.report.published.files import POINTS, rows

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
