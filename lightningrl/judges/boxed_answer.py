"""Judge a final answer in `\\boxed{...}` as a number or as text.

The gold data is `{"answer": "36"}`. The answer is the last complete box of the response that is not empty. Integers and
decimals are equal when they are the same number as written: blanks, a leading +, thousands commas, leading zeros and a
fraction's trailing zeros do not matter. Everything else is compared as text with collapsed blanks: 1/2 is not 0.5.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from lightningrl.judges.compat import published_equal
from lightningrl.judges.protocol import check_lengths
from lightningrl.types import Example, Verdict

NO_GOLD_ANSWER = 'gold data: expected {"answer": "..."} with text in it'
_TOKEN = re.compile(r"\\boxed\s*\{|\\[{}]|[{}]")
_UNBRACED = re.compile(r"\\boxed(?:\s+|(?=[0-9]))([+-]?[0-9][0-9.,]*(?<![.,])|[A-Za-z])(?![0-9A-Za-z])")
_BLANK = re.compile(r"\\[,;:!> ]|\\q?quad(?![A-Za-z])|[\s~]")
_NUMBER = re.compile(r"([+-]?)([0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.([0-9]*))?")


class BoxedJudge:
    """A judge of boxed answers; see `lightningrl.judges.protocol.Judge`."""

    graded = False
    needs_jail = False

    def __init__(self, workers: int = 1) -> None:
        """Ignores `workers`, which is part of every judge's signature: comparing strings needs none."""

    def judge(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Verdict]:
        """Returns verdicts in order: 1.0, 0.0, `unparsable` without a complete box, `gold_error` without gold data."""
        check_lengths(examples, responses)
        pairs = [(gold_answer(example), response) for example, response in zip(examples, responses, strict=True)]
        verdicts = {pair: _judge_one(*pair) for pair in dict.fromkeys(pairs)}
        return [verdicts[pair] for pair in pairs]

    def close(self) -> None:
        """Does nothing: the judge has no resources."""


def gold_answer(example: Example) -> str | None:
    """Returns the answer of the gold data; None if it has no text."""
    answer = example.gold.get("answer")
    return answer if isinstance(answer, str) and answer.strip() else None


def _judge_one(gold: str | None, response: str) -> Verdict:
    start = time.monotonic()
    extracted = extract_boxed(response)
    if gold is None:
        return Verdict(False, None, "gold_error", extracted, NO_GOLD_ANSWER, time.monotonic() - start)
    if extracted is None:
        return Verdict(False, 0.0, "unparsable", None, "no complete \\boxed{...}", time.monotonic() - start, False)
    expected, found = normalise(gold), normalise(extracted)
    correct = expected == found
    detail = f"expected {expected[:80]}, found {found[:80]}"
    status = "ok" if correct else "wrong"
    compat = published_equal(gold, extracted)
    return Verdict(correct, float(correct), status, extracted, detail, time.monotonic() - start, compat)


def extract_boxed(text: str) -> str | None:
    r"""Returns the content of the last complete box that is not empty (the one that opens last), or None.

    Escaped braces (`\{`, `\}`) are text. If no box has braces, `\boxed 5` boxes the number or letter after it. Linear
    in the text.

    >>> extract_boxed(r"so \boxed{3} no, \boxed{\frac{1}{2}} as \boxed{4")
    '\\frac{1}{2}'
    """
    boxes = extract_boxes(text)
    return boxes[-1] if boxes else None


def extract_boxes(text: str) -> list[str]:
    r"""Returns the content of every complete box that is not empty, in the order of opening; see `extract_boxed`.

    Of nested boxes only the inner ones count.

    >>> extract_boxes(r"\boxed{1}, \boxed{} or \boxed{x=\boxed{2}}")
    ['1', '2']
    """
    open_braces: list[tuple[bool, int]] = []
    found: dict[int, str] = {}
    inside = 0
    for token in _TOKEN.finditer(text):
        if token[0] == "{" or token[0].startswith("\\boxed"):
            open_braces.append((token[0] != "{", token.end()))
        elif token[0] == "}" and open_braces:
            is_box, start = open_braces.pop()
            if is_box and start >= inside and _BLANK.sub("", content := text[start : token.start()]):
                found[start] = content
                inside = token.start()
    boxes = [found[start] for start in sorted(found)]
    return boxes or _UNBRACED.findall(text)


def normalise(answer: str) -> str:
    """Returns the form in which two answers are compared; see the module.

    >>> normalise(" +1,036.50 "), normalise("-0"), normalise("x  = 2")
    ('1036.5', '0', 'x = 2')
    """
    text = " ".join(answer.split())
    number = _NUMBER.fullmatch(text)
    if number is None or not (number[2] or number[3]):
        return text
    whole = number[2].replace(",", "").lstrip("0") or "0"
    fraction = (number[3] or "").rstrip("0")
    sign = "-" if number[1] == "-" and (whole != "0" or fraction) else ""
    return f"{sign}{whole}.{fraction}" if fraction else sign + whole
