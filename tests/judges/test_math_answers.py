r"""Answers whose verdict is known: every one of these tables, and what holds of each whatever its layout.

| file | what it has |
|---|---|
| `reported_answers.jsonl` | what people reported judges to misjudge, each from the tracker that it names |
| `written_answers.jsonl` | made-up questions and golds: the same, worked out, copied, a detour, a way to write it |
| `rewritten_answers.jsonl` | golds of every shape, rewritten at random: the meaning is known by construction |
| `rewritten_MATH500.jsonl`, `rewritten_MATH_train.jsonl` | MATH's golds likewise; their questions are the mirror's |

A row has a gold answer, its question if it has one, and its right and its wrong answers by the kind of their writing;
the answers of a kind `response: ...` are whole responses. The rewritings come from mathematics and from how people and
models write, not from the judge's rules, and were drawn once from a program that parses golds without the judge's code.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter, defaultdict
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pytest
from math_layouts import INSIDE, OUTSIDE, RESPONSES, WRONG_RESPONSES

from lightningrl.judges.math.text import clean
from lightningrl.types import Example

HERE = Path(__file__).parent


class Case(NamedTuple):
    kind: str
    question: str | None
    gold: str
    answer: str
    right: bool


def table(name, questions=()):
    """The cases of a file; `questions` are those to which its rows refer."""
    for line in (HERE / f"{name}.jsonl").read_text().splitlines():
        row = json.loads(line)
        question = questions[row["row"]] if "row" in row else row.get("question")
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


@pytest.mark.parametrize(("name", "at_least"), [("written_answers", 1_100), ("rewritten_answers", 4_600)])
def test_answers_are_judged_as_the_table_says(judge, name, at_least):
    cases = list(table(name))
    assert len(cases) >= at_least
    check(judge, cases)


def laid_out(cases, count):
    """At most `count` cases in each layout, half of them in two, but none that the question has as it stands."""
    for name, layout in (INSIDE | OUTSIDE).items():
        draw = random.Random(name)
        second = OUTSIDE[draw.choice(list(OUTSIDE))]
        found = []
        for case in draw.sample(cases, len(cases)):
            text = layout(case.answer)
            text = second(text) if len(found) % 2 and name in INSIDE else text
            is_copy = "".join(text.split()) in "".join((case.question or "").split())
            if text != case.answer and not is_copy and len(found) < count:
                found.append(case._replace(kind=name, answer=text))
        yield from found


def test_no_layout_changes_a_verdict(judge):
    cases = list(laid_out(list(table("rewritten_answers")), 16))
    kinds = Counter(case.kind for case in cases)
    assert min(kinds[name] for name in INSIDE | OUTSIDE) > 1, "a layout applies to no answer and tests nothing"
    check(judge, cases)


def test_the_last_box_that_is_not_empty_decides_whatever_surrounds_it(judge):
    golds = random.Random(0).sample(sorted({(case.question, case.gold) for case in table("rewritten_answers")}), 200)
    texts = [(f"response: {kind}", text, right) for kinds, right in ((RESPONSES, True), (WRONG_RESPONSES, False))
             for kind, text in kinds.items()]  # fmt: skip
    cases = []
    for number, (question, gold) in enumerate(golds):
        kind, text, right = texts[number % len(texts)]
        response = text.replace("RIGHT", gold).replace("WRONG", "778" if gold == "777" else "777")
        cases.append(Case(kind, question, gold, response, right))
    check(judge, cases)


@pytest.mark.mirror
@pytest.mark.parametrize(("name", "at_least"), [("MATH500", 3_600), ("MATH_train", 8_600)])
def test_golds_of_math_rewritten_are_judged_as_the_table_says(judge, name, at_least):
    rows = mirrored(name)
    cases = list(table(f"rewritten_{name}", [row["question"] for row in rows]))
    assert len(cases) >= at_least
    check(judge, cases)
    golds = [(row["question"], row["ground_truth_answer"]) for row in rows if row["ground_truth_answer"].strip()]
    check(judge, list(laid_out([Case("gold", question, gold, gold, True) for question, gold in golds], 60)))


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
