"""Answers that people reported judges of mathematics to misjudge, from the public trackers that each row names.

`reported_answers.jsonl` has a row a case: what the reports are about (`kind`), the gold answer, what was boxed or the
whole response, and whether it is right. Rows with a `uid` copy an expression of that problem of MATH500 into the box
and need its question, which comes with the mirror.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from lightningrl.judges.math.judge import MathJudge
from lightningrl.types import Example

CASES = [json.loads(line) for line in Path(__file__).with_name("reported_answers.jsonl").read_text().splitlines()]


def misjudged(cases, questions):
    def example(case):
        asked = case.get("question") or questions.get(case.get("uid"))
        messages = ({"role": "user", "content": asked},) if asked else ()
        return Example(case.get("uid", "math500/test/00000"), messages, {"answer": case["gold"]})

    judge = MathJudge(workers=2)
    responses = [case.get("response") or f"so \\boxed{{{case['boxed']}}}" for case in cases]
    verdicts = judge.judge([example(case) for case in cases], responses)
    judge.close()
    return [
        (case["id"], case["gold"], response[-60:], verdict.status)
        for case, response, verdict in zip(cases, responses, verdicts, strict=True)
        if verdict.correct != case["right"]
    ]


def test_reported_answers_are_judged_as_they_should_be():
    cases = [case for case in CASES if "uid" not in case]
    rights = Counter(case["right"] for case in cases)
    assert rights[True] > 500 and rights[False] > 200 and len({case["kind"] for case in cases}) > 80
    assert not misjudged(cases, {})


@pytest.mark.mirror
def test_expressions_copied_from_math500_are_not_right():
    rows = json.loads((Path(os.environ["LIGHTNINGRL_DATA_MIRROR"]) / "protocol" / "MATH500.json").read_text())
    questions = {f"math500/test/{number:05d}": row["question"] for number, row in enumerate(rows)}
    cases = [case for case in CASES if "uid" in case]
    assert len(cases) == 25
    assert not misjudged(cases, questions)
