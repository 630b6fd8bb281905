"""The judge of mathematics against thousands of rewritings whose meaning is known: kept, or changed.

The oracle is how the rewritings are made (the package math_rewritings beside this file), not a second judge. Without
outside data they rewrite made-up golds of every shape; asked for with -m mirror, the golds of MATH as well. Every test
prints how many rewritings of each kind it judged (`pytest -s`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from math_rewritings.cases import (
    LAYOUTS,
    Case,
    boxed,
    changing_cases,
    copied_cases,
    difference_cases,
    formulas_of_the_question,
    identity_cases,
    keeping_cases,
    report,
)
from math_rewritings.gold_generators import generated_golds
from math_rewritings.golds import Gold, read
from math_rewritings.registry import CHANGING, KEEPING

from lightningrl.benchmarks.fetch import Origins, obtain
from lightningrl.benchmarks.registry import get_benchmark
from lightningrl.judges.math.judge import MathJudge
from lightningrl.types import Example


def judged(cases: Sequence[Case]) -> list[bool]:
    """Whether the judge says right, all in one batch."""
    examples = [
        Example(
            f"math500/test/{at:06d}", ({"role": "user", "content": case.gold.question},), {"answer": case.gold.text}
        )
        for at, case in enumerate(cases)
    ]
    judge = MathJudge(workers=2)
    verdicts = judge.judge(examples, [case.response for case in cases])
    judge.close()
    unread = [case.gold.text for case, verdict in zip(cases, verdicts, strict=True) if verdict.value is None]
    assert not unread, f"golds that the judge cannot read: {sorted(set(unread))[:5]}"
    return [verdict.correct for verdict in verdicts]


def check(cases: Sequence[Case], expected: bool, at_least: int) -> None:
    """All have the verdict that is expected, and there are at least so many."""
    right = judged(cases)
    text = report(cases, right, expected)
    print(text)
    assert len(cases) >= at_least
    if not all(verdict == expected for verdict in right):
        pytest.fail(text, pytrace=False)


def test_rewritings_that_keep_the_meaning_are_right():
    cases = keeping_cases(generated_golds(), seed=0, most=2, layouts=60, combined=3) + identity_cases(seed=0, count=4)
    kinds = Counter(case.kind for case in cases)
    unused = [name for name in [*KEEPING, *(f"layout: {name}" for name in LAYOUTS)] if kinds[name] < 2]
    assert not unused, f"these apply to no gold and test nothing: {unused}"
    check(cases, True, at_least=12_000)


def test_rewritings_that_change_the_meaning_are_wrong():
    cases = changing_cases(generated_golds(), seed=0, most=2) + copied_cases(seed=0, count=12)
    cases += difference_cases(seed=0, count=4)
    kinds = Counter(case.kind for case in cases)
    unused = [name for name in CHANGING if kinds[name] < 4]
    assert not unused, f"these apply to no gold and test nothing: {unused}"
    check(cases, False, at_least=2_400)


@pytest.mark.parametrize("answer", ["66 m^2", "66 m²", "66m^{2}"])
def test_a_bare_metre_is_a_unit_where_the_gold_or_the_question_has_metres_and_else_a_letter(answer):
    metres, letters = "What is the area of the field, in square metres?", "What is $m^2$ when $3m^2 = 198$?"
    golds = [(r"66\text{ m}^2", metres, True), ("66", metres, True), ("66", letters, False), ("66m^2", letters, True)]
    golds.append((r"66\text{ m}^3", metres, False))
    assert judged([boxed("bare", read(gold, asked), answer) for gold, asked, _ in golds]) == [
        right for *_, right in golds
    ]


def golds_of_math(split: str) -> list[Gold]:
    """The distinct golds of the split, each with the first question that has it."""
    benchmark = get_benchmark("math500")
    origins = Origins(Path(os.environ["LIGHTNINGRL_DATA_MIRROR"]), Path("none"))
    rows = next(obtain(source, origins).rows for source in benchmark.sources if source.key == split)
    questions = {}
    for row in rows:
        questions.setdefault(str(row["ground_truth_answer"]), str(row["question"]))
    return [read(text, question) for text, question in questions.items() if text.strip()]


@pytest.mark.mirror
@pytest.mark.parametrize(("split", "count"), [("test", 3_000), ("train", 30_000)])
def test_golds_of_math_rewritten_are_right(split, count):
    check(keeping_cases(golds_of_math(split), seed=0, most=1, layouts=200, combined=2), True, at_least=count)


@pytest.mark.mirror
@pytest.mark.parametrize(("split", "count"), [("test", 2_400), ("train", 20_000)])
def test_golds_of_math_changed_are_wrong(split, count):
    golds = golds_of_math(split)
    check(changing_cases(golds, seed=0, most=1) + formulas_of_the_question(golds), False, at_least=count)
