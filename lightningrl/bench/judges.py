"""Judgements per second: gold answers of a mathematical benchmark, official solutions of a programming one.

Mathematics is judged in three ways: the gold answers, most of which rules decide; all of them in helper processes; and
rewritten, so that only algebra can show that they are equal.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lightningrl.judges.code.judge import CodeJudge
from lightningrl.judges.math.judge import MathJudge
from lightningrl.judges.math.rules import number
from lightningrl.judges.math.text import clean
from lightningrl.judges.protocol import Judge
from lightningrl.types import Example

ROUNDS = 3


def mathematics(examples: Sequence[Example], workers: int) -> list[dict[str, Any]]:
    """Returns one row for each way: what, judged, correct, seconds, per_s. Helpers are started before the clock.

    Rewritten answers are judged without their questions, to which `1+x-1` would be an answer that is not worked out.
    """
    golds = [example.gold["answer"] for example in examples]
    alone = [replace(example, messages=()) for example in examples]
    warm = [Example("warm/up/0", (), {"answer": str(n)}) for n in range(2 * workers)]
    rows = []
    for what, by_rules, judged, answers in (
        ("gold answers", True, examples, golds),
        ("gold answers, all in helpers", False, examples, golds),
        ("rewritten expressions", True, alone, [rewritten(gold) for gold in golds]),
    ):
        judge = MathJudge(workers=workers, by_rules=by_rules)
        judge.judge(warm, [f"\\boxed{{{n}+1-1}}" for n in range(2 * workers)])
        start = time.monotonic()
        verdicts = judge.judge(judged, [f"\\boxed{{{answer}}}" for answer in answers])
        rows.append(_row(what, [verdict.correct for verdict in verdicts], time.monotonic() - start))
        judge.close()
    return rows


def rewritten(gold: str) -> str:
    """Returns another spelling of the same value: plain expressions get `1+...-1`, the rest stays."""
    text = clean(gold)
    structured = (",", "=", "_", "\\text", "\\begin", "\\degree", "\\pm", "\\$", "\\cup", "\\in")
    plain = not any(sign in text for sign in structured)
    is_expression = plain and (number(text) is not None or any(c.isdigit() or c == "\\" for c in text))
    return f"1+{text}-1" if is_expression else gold


def solutions(
    examples: Sequence[Example], make_judge: Callable[..., Judge], workers: int, rounds: int = ROUNDS
) -> list[dict[str, Any]]:
    """Returns one row for each way of judging the official solutions `rounds` times, each time with a new judge.

    Programs are judged in two ways: in jails that stay up, and in a jail for each. `cpu_ms` is the processor time of a
    judgement, of this process and of all that it started and that has ended, which says more than seconds on a busy
    machine.
    """
    what = f"official solutions, {rounds} times over"
    ways: dict[str, dict[str, Any]] = {what: {}}
    if make_judge is CodeJudge:
        ways = {f"{what}, in jails that stay up": {}, f"{what}, in a jail each": {"shares_jails": False}}
    rows = []
    for way, options in ways.items():
        start, start_cpu_s, correct = time.monotonic(), sum(os.times()[:4]), []
        for _ in range(rounds):
            judge = make_judge(workers=workers, **options)
            correct += [v.correct for v in judge.judge(examples, [str(example.solution) for example in examples])]
            judge.close()
        seconds, cpu_s = time.monotonic() - start, sum(os.times()[:4]) - start_cpu_s
        rows.append(_row(way, correct, seconds) | {"cpu_ms": 1000 * cpu_s / len(correct)})
    return rows


def _row(what: str, correct: Sequence[bool], seconds: float) -> dict[str, Any]:
    judged = len(correct)
    return {"what": what, "judged": judged, "correct": sum(correct), "seconds": seconds, "per_s": judged / seconds}
