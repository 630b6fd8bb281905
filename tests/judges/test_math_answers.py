"""Answers whose verdict is known one by one; test_math_rewritings.py has those whose meaning is known by construction.

| file | what it has |
|---|---|
| `reported_answers.jsonl` | what people reported judges to misjudge, each from the tracker that it names |
| `written_answers.jsonl` | made-up questions and golds: the same, worked out, copied, a detour, a way to write it |

A row has a gold answer, its question if it has one, and its right and its wrong answers by the kind of their writing;
the answers of a kind `response: ...` are whole responses.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pytest

from lightningrl.judges.math.text import clean
from lightningrl.types import Example

HERE = Path(__file__).parent


class Case(NamedTuple):
    kind: str
    question: str | None
    gold: str
    answer: str
    right: bool


def table(name):
    """The cases of a file."""
    for line in (HERE / f"{name}.jsonl").read_text().splitlines():
        row = json.loads(line)
        question = row.get("question")
        for verdict in ("right", "wrong"):
            for kind, answers in row.get(verdict, {}).items():
                yield from (Case(kind, question, row["gold"], answer, verdict == "right") for answer in answers)


def reported(questions=None):
    """The reported cases; those with a `uid` copy an expression of that problem of MATH500 and need its question."""
    for line in (HERE / "reported_answers.jsonl").read_text().splitlines():
        row = json.loads(line)
        if ("uid" in row) == (questions is not None):
            asked = questions[int(row["uid"][-5:])] if questions else row.get("question")
            is_whole = "response" in row
            kind = f"response: {row['kind']}" if is_whole else row["kind"]
            yield Case(kind, asked, row["gold"], row["response" if is_whole else "boxed"], row["right"])


def mirrored(name):
    return json.loads((Path(os.environ["LIGHTNINGRL_DATA_MIRROR"]) / "protocol" / f"{name}.json").read_text())


def verdicts(judge, cases):
    turns = [({"role": "user", "content": case.question},) if case.question else () for case in cases]
    examples = [Example("m/test/0", turn, {"answer": case.gold}) for turn, case in zip(turns, cases, strict=True)]
    return judge.judge(examples, [response(case) for case in cases])


def response(case):
    return case.answer if case.kind.startswith("response: ") else f"so \\boxed{{{case.answer}}}"


def check(judge, cases):
    """Fails with the shortest misjudged answers of each kind."""
    misjudged = defaultdict(list)
    for case, verdict in zip(cases, verdicts(judge, cases), strict=True):
        if verdict.correct != case.right or (verdict.status == "gold_error" and case.right):
            misjudged[case.kind].append((case.gold, case.answer, case.question and case.question[:70], verdict.status))
    lines = [f"{kind}: {sorted(found, key=str)[:3]} and others, {len(found)}" for kind, found in misjudged.items()]
    assert not lines, "\n".join(lines)


def test_reported_answers_are_judged_as_they_should_be(judge):
    cases = list(reported())
    rights = Counter(case.right for case in cases)
    assert rights[True] > 500 and rights[False] > 200 and len({case.kind for case in cases}) > 80
    check(judge, cases)


def test_answers_are_judged_as_the_table_says(judge):
    cases = list(table("written_answers"))
    assert len(cases) >= 1_100
    check(judge, cases)


@pytest.mark.mirror
def test_expressions_copied_from_math500_are_not_right(judge):
    cases = list(reported([row["question"] for row in mirrored("MATH500")]))
    assert len(cases) == 25
    check(judge, cases)


SPAN = re.compile(r"\$\$?([^$]+)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|\\begin\{align\*?\}(.+?)\\end", re.DOTALL)
PIECE = re.compile(r"\\d?frac\{[^{}]*\}\{[^{}]*\}|\\sqrt\{[^{}]*\}|[0-9.]+\^\{?[0-9]+\}?|[0-9]+!|[0-9./]+")


def pieces(question):
    """Every formula of the question, its sides, its fractions and roots, what is between brackets, and its numbers."""
    question = re.sub(r"\[asy\].*?\[/asy\]", " ", question, flags=re.DOTALL)
    found = re.findall(r"[0-9][0-9,./]*[0-9]|[0-9]+(?: [a-z]+)?", SPAN.sub(" ", question))
    for match in SPAN.finditer(question):
        formula = next(group for group in match.groups() if group)
        found += re.split(r"\\\\|&", formula)
        found += re.split(r"=|\\le|\\ge|<|>|,|\\quad|\\text\{[^}]*\}|\\\\|&", formula) + PIECE.findall(formula)
        opened = []
        for place, sign in enumerate(formula):
            if sign in "({[":
                opened.append(place)
            elif sign in ")]}" and opened:
                found.append(formula[opened.pop() + 1 : place])
    return [piece for piece in dict.fromkeys(each.strip(" .,;?~\n") for each in found) if is_boxable(piece)]


def is_boxable(piece):
    """Whether it fits into one box: not too long, its braces closed and none closed that it does not open."""
    depths = list(accumulate((sign == "{") - (sign == "}") for sign in piece))
    return 0 < len(piece) < 300 and depths[-1] == 0 and min(depths) >= 0


def is_the_gold(gold, piece):
    """Whether the piece is the gold answer as it is written, but for a label, a unit, a base, or a bracket."""

    def bare(text):
        text = clean(re.split(r"\\in(?![a-z])|=", text)[-1])
        text = re.sub(r"\\text\{[^{}]*\}|\\(?:q?quad|degree)(?![A-Za-z])|_\{?\d+\}?\Z|(?<=[0-9]) [a-z]+\Z", "", text)
        text = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text)
        return re.sub(r"[\s()\[\]{}%.$]", "", text.replace("0.", ".")).lstrip("0")

    return gold == f"\\text{{({piece.strip('()')})}}" or bare(gold) == bare(piece)


@pytest.mark.mirror
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "at_least"), [("MATH500", 4_000), ("MATH_train", 70_000)])
def test_no_formula_of_a_question_of_math_is_paid_where_the_gold_is_written_otherwise(judge, name, at_least):
    cases = [
        Case("", row["question"], row["ground_truth_answer"], piece, False)
        for row in mirrored(name) if row["ground_truth_answer"].strip() for piece in pieces(row["question"])
    ]  # fmt: skip
    assert len(cases) >= at_least
    paid = [case for case, verdict in zip(cases, verdicts(judge, cases), strict=True) if verdict.correct]
    copied = [(case.gold, case.answer, case.question[:60]) for case in paid if not is_the_gold(case.gold, case.answer)]
    assert not copied, "\n".join(map(str, copied))
