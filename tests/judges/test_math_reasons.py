"""The verdict's `detail` says why an answer was refused whatever its value, wherever it was judged."""

from __future__ import annotations

import pytest

from lightningrl.judges.math.judge import MathJudge
from lightningrl.types import Example

REFUSED = [
    ("How many maps are there?", "27", "3^3", "3^3 is not worked out"),
    ("How many maps are there?", "27", "28", ""),
    ("How many maps are there?", "27", "27", ""),
    (r"Express $\frac{3}{20}$ as a decimal.", "0.15", r"\frac{3}{20}", r"\frac{3}{20} is copied from the question"),
    ("Expand $(x+1)(x+2)$.", "x^2+3x+2", "(x+1)(x+2)", "is copied from the question"),
    (r"Reduce $\frac{24}{36}$.", r"\frac23", r"\frac{12}{18}", "is not in the form that the question asks for"),
    ("What is the point of it?", "(1,8)", "(1,2^3)", "2^3 is not worked out"),
    ("What are the roots?", "1,4^{49}", "4^{49},2", ""),  # 4^{49} is compared with 1 and is another item's equal
]


@pytest.mark.parametrize("by_rules", [True, False])
@pytest.mark.parametrize(("question", "gold", "found", "reason"), REFUSED)
def test_the_verdict_says_why_an_answer_is_refused_whatever_its_value(question, gold, found, reason, by_rules):
    judge = MathJudge(by_rules=by_rules)  # False: the reason comes from the helper process
    example = Example("math500/test/00000", ({"role": "user", "content": question},), {"answer": gold})
    [verdict] = judge.judge([example], [f"\\boxed{{{found}}}"])
    judge.close()
    shown = f"expected {gold}, found {found}"
    if reason:
        assert not verdict.correct and verdict.detail.startswith(f"{shown}; refused whatever its value: ")
        assert verdict.detail.endswith(reason)
    else:
        assert verdict.detail == shown
