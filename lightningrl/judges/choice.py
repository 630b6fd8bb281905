"""Judge a choice: the response is the text of one, blanks around it aside.

The gold data are `{"choices": [...], "answer": 1}`. Where choices are compared by likelihood, the chosen number counts
and not its text; this judge proves that the data have a right answer, and judges what others have written.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightningrl.judges.protocol import check_lengths
from lightningrl.types import Example, Verdict


class ChoiceJudge:
    """A judge of choices; see `lightningrl.judges.protocol.Judge`."""

    graded = False
    needs_jail = False

    def __init__(self, workers: int = 1) -> None:
        """Ignores `workers`, which is part of every judge's signature: comparing strings needs none."""

    def judge(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Verdict]:
        """Returns verdicts in order: `ok`, `wrong`, or `unparsable` where the response is none of the choices."""
        check_lengths(examples, responses)
        return [_judge_one(example, response.strip()) for example, response in zip(examples, responses, strict=True)]

    def close(self) -> None:
        """Does nothing: the judge has no resources."""


def _judge_one(example: Example, response: str) -> Verdict:
    choices = [choice.strip() for choice in example.gold["choices"]]
    expected = choices[example.gold["answer"]]
    if response not in choices:
        return Verdict(False, 0.0, "unparsable", None, f"expected one of {len(choices)} choices")
    right = response == expected
    detail = f"expected {expected[:80]}, found {response[:80]}"
    return Verdict(right, float(right), "ok" if right else "wrong", response, detail)
