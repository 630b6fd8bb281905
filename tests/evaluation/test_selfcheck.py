"""No score of a benchmark whose judge is unsound: a hole and an unsolvable problem are both found."""

from __future__ import annotations

import pytest

from lightningrl.benchmarks.gsm_mini import GSM_MINI
from lightningrl.errors import StageError
from lightningrl.evaluation.selfcheck import ANSWERS, self_check
from lightningrl.judges.boxed_answer import BoxedJudge
from lightningrl.types import Example, Verdict

PROBLEMS = GSM_MINI.load({"test": 20}, 0)["test"]


class Scripted:
    """Judges by a rule of the test's; real judges are in `tests/judges`."""

    def __init__(self, rule):
        self.rule = rule

    def judge(self, examples, responses):
        found = [self.rule(example, response) for example, response in zip(examples, responses, strict=True)]
        return [Verdict(right, float(right), "ok" if right else "wrong") for right in found]


def test_a_sound_judge_passes_and_without_official_answers_the_rest_is_checked():
    found = self_check("gsm-mini", PROBLEMS, BoxedJudge())
    wrong = {"judged": 20, "correct": 0, "pct": 0.0}
    assert found == {"official": {"judged": 20, "correct": 20, "pct": 100.0}, "empty": wrong, "exit": wrong}
    unsolved = [Example(e.uid, e.messages, e.gold) for e in PROBLEMS]
    found = self_check("gsm-mini", unsolved, BoxedJudge())
    assert found["official"] == {"judged": 0, "correct": 0, "pct": None} and found["empty"] == wrong


HOLES = {
    "everything is right": (lambda example, response: True, "empty answers: 20 of 20"),
    "nothing is right": (lambda example, response: False, "official answers: 20 of 20"),
    "exit is right": (lambda example, response: "exit" in response or "boxed" in response, "exit answers: 20 of 20"),
    "one problem has no right answer": (
        lambda example, response: "boxed" in response and not example.uid.endswith("7"),
        "official answers: 2 of 20 .*gsm-mini/test/00007",
    ),
}


@pytest.mark.parametrize("hole", HOLES)
def test_an_unsound_judge_is_stopped(hole):
    rule, message = HOLES[hole]
    with pytest.raises(StageError, match=message):
        self_check("gsm-mini", PROBLEMS, Scripted(rule))


def test_after_a_prefill_exit_is_in_the_open_block():
    user = {"role": "user", "content": "?"}
    prefilled = Example("b/test/0", (user, {"role": "assistant", "content": "```python"}), {})
    assert ANSWERS["exit"](prefilled) == "\nimport sys\nsys.exit(0)\n```"
    assert ANSWERS["exit"](Example("b/test/0", (user,), {})).startswith("```python\n")
