"""The self-check of a benchmark's judge: its own solutions must be right, an empty answer and `exit()` wrong.

The scores of a judge that fails it would mean nothing: there is a hole that a policy finds and is paid for, or there
are problems that nobody can solve. So no score of a benchmark is shown before the check has passed on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightningrl.errors import StageError
from lightningrl.judges.protocol import Judge
from lightningrl.types import Example

EXIT = "\nimport sys\nsys.exit(0)\n"
"""A program that ends the interpreter in the way that test harnesses mistake for success."""
ANSWERS: Mapping[str, Callable[[Example], str | None]] = {
    "official": lambda example: example.solution,
    "empty": lambda example: "",
    "exit": lambda example: ("" if example.messages[-1]["role"] == "assistant" else "```python") + f"{EXIT}```",
}
"""The responses that a self-check has judged: a function of the example by name; None where a benchmark has none."""
SHOWN = 5


def self_check(benchmark: str, examples: Sequence[Example], judge: Judge) -> dict[str, Any]:
    """Returns `{"official": {"judged": n, "correct": n, "pct": 100.0}, "empty": ..., "exit": ...}`.

    `pct` is None for 0 of 0. Raises StageError, naming the first problems, unless every official answer is right and
    every other one wrong.
    """
    found: dict[str, Any] = {}
    faults = []
    for name, answer in ANSWERS.items():
        pairs = [(example, text) for example in examples if (text := answer(example)) is not None]
        verdicts = judge.judge([example for example, _ in pairs], [text for _, text in pairs])
        correct = sum(verdict.correct for verdict in verdicts)
        pct = 100.0 * correct / len(pairs) if pairs else None
        found[name] = {"judged": len(pairs), "correct": correct, "pct": pct}
        wrong = [
            f"{example.uid}: {verdict.status}, {verdict.detail}"
            for (example, _), verdict in zip(pairs, verdicts, strict=True)
            if verdict.correct != (name == "official")
        ]
        if wrong:
            shown = "; ".join(wrong[:SHOWN])
            faults.append(f"{name} answers: {len(wrong)} of {len(pairs)} are judged wrongly: {shown}")
    if faults:
        raise StageError(
            f"{benchmark}: its judge fails its self-check, so no score of it is shown. {' | '.join(faults)}. Fix the "
            "judge or the data; `lightningrl doctor` says what this machine lacks."
        )
    return found
