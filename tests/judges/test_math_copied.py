r"""An answer is worked out and not copied: made-up questions with what may and may not be boxed, then those of MATH.

The last test takes every formula of every question of MATH, its sides and everything between brackets, boxes it, and
looks at what is paid: only what the gold answer is as it is written.
"""

from __future__ import annotations

import json
import os
import re
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.judges.math.finished import unfinished
from lightningrl.judges.math.question import read_question
from lightningrl.judges.math.text import clean
from lightningrl.judges.math.tree import read
from lightningrl.types import Example

ASKED = [
    ("Evaluate $(1+2i)6-3i$.", "6+9i", ["9i+6", "(1+2i)6-3i=6+9i", "z=6+9i", "3(2+3i)"],
     ["(1+2i)6-3i", "6(1+2i)-3i", r"6\cdot(1+2i)-3i", "-3i+(1+2i)6", "6+12i-3i", "6+9i+0", r"(6+9i)\cdot1"]),
    (r"Compute $6\cdot 7+2^3$.", "50", ["50", "50.0", "x=50", r"\frac{100}{2}", r"5\times 10^1"],
     [r"6\cdot7+8", "42+8", "50+0", r"1\cdot50", r"\sqrt{2500}", r"5^2\cdot2", "|-50|", r"\lfloor 50.5\rfloor",
      "50^1", r"\log_2 2^{50}", r"\binom{50}{1}", r"\max(50,1)", r"\sum_{k=1}^{50}1", "50/1", r"100\div 2", "x=42+8"]),
    ("How many subsets are there?", "1024", ["1024", "1{,}024", r"1.024\times 10^3"], ["2^{10}", "4^5"]),
    ("How many such sets are there?", "2^{98}", ["2^{98}", "4^{49}", r"2\cdot 2^{97}"], ["2^{99}"]),
    ("In how many ways?", r"\binom{10}{3}", ["120", r"\frac{10!}{3!7!}", r"\binom{10}{7}"], ["121"]),
    (r"Simplify $\sqrt{72}$.", r"6\sqrt2", [r"6\sqrt{2}", r"\sqrt2\cdot 6"],
     [r"\sqrt{72}", "72^{1/2}", r"2\sqrt{18}", r"3\sqrt8", r"\sqrt{36}\sqrt2"]),
    ("How long is it?", r"6\sqrt2", [r"6\sqrt{2}", r"\sqrt{72}", r"3\sqrt8", r"\frac{12}{\sqrt2}"], ["6*1.414"]),
    (r"Rationalize the denominator of $\frac{2}{1+\sqrt3}$.", r"\sqrt3-1", [r"-1+\sqrt3"],
     [r"\frac{2}{1+\sqrt3}", r"\frac{2}{\sqrt3+1}", r"\frac{4}{2+2\sqrt3}"]),
    ("Find the positive root.", r"\frac{-1+\sqrt5}{2}", [r"-\frac12+\frac{\sqrt5}{2}", r"\frac{\sqrt5-1}{2}"],
     [r"\frac{-2+1+\sqrt5}{2}", r"\frac{\sqrt5}{2}-1+\frac12"]),
    ("Expand $(x+1)(x+2)$.", "x^2+3x+2", ["2+3x+x^2"], ["(x+2)(x+1)", "x^2+x+2x+2", "x(x+3)+2"]),
    ("Factor $x^2-9x+14$.", "(x-2)(x-7)", ["(x-7)(x-2)", "(7-x)(2-x)"], ["x^2-9x+14", "x(x-9)+14", "x(x-2)-7(x-2)"]),
    (r"Simplify $\frac{\sin 2x}{1+\cos 2x}$.", r"\tan x", [r"\frac{\sin x}{\cos x}"],
     [r"\frac{\sin 2x}{1+\cos 2x}", r"\frac{2\sin 2x}{2+2\cos 2x}", r"\frac{\sin 2x}{\cos 2x + 1}"]),
    (r"Express $\frac{3}{20}$ as a decimal.", "0.15", [".15", "0.150"], [r"\frac{3}{20}", "3/20", r"\frac{6}{40}"]),
    ("Write $0.15$ as a fraction.", r"\frac{3}{20}", ["3/20", r"\frac{6}{40}"], ["0.15", ".150"]),
    ("What is the probability?", r"\frac{3}{20}", ["0.15", r"\frac{6}{40}"], [r"\frac12\cdot\frac{3}{10}", "0.1+0.05"]),
    (r"Reduce $\frac{24}{36}$.", r"\frac23", ["2/3"], [r"\frac{24}{36}", r"\frac{12}{18}"]),
    ("Solve $3x+2=14$.", "x=4", ["4", "x=4", "4=x"], ["3x+2=14", "3x=12", "x-4=0", "x=2+2", r"x=\frac{14-2}{3}"]),
    ("Solve $2x+1<7$.", "x<3", ["3>x", r"(-\infty,3)"], ["2x+1<7", "2x<6", "4x+2<14", "x<2+1"]),
    ("Write $y-3=2x$ in slope-intercept form.", "y=2x+3", ["2x+3", "y=3+2x"], ["y-3=2x", "y-2x=3", "2y=4x+6"]),
    ("Find the equation of the line.", "y=2x+3", ["y-2x=3", "2x-y+3=0"], ["y=2x+2+1"]),
    ("If $AB=3$ and $AC=6$, find $AD$.", "3", ["3", "AD=3"], ["AB=3"]),
    ("Write $1358$ in base $8$.", "2516_8", ["2516", "2516_8"], ["1358", "2516_9"]),
    ("Write it in base $8$.", "2516", ["2516_8"], ["2516_9"]),
    ("How large is the sum?", "2516", ["2516"], ["2516_8"]),
    ("What percent of 50 is 10?", "20", [r"20\%", "20 percent"], ["0.2"]),
    ("What is the ratio?", "20", ["20"], [r"20\%"]),
    ("How many daps are equal to 42 baps?", "40", ["40 daps", r"40\text{ baps}"], ["40 wugs", "40 dozen", "40 tenths"]),
    ("How many eggs are in 2 dozen?", "24", ["24 eggs"], ["2 dozen", "2 dozen eggs"]),
    ("Find the point we mean.", "(4,6)", [r"(\frac82, 6)", r"\begin{pmatrix}4\\6\end{pmatrix}"],
     ["(1+3,2+4)", "(4,6+0)"]),
]  # fmt: skip


def judged(judge, cases):
    examples = [Example("m/test/0", ({"role": "user", "content": q},), {"answer": gold}) for q, gold, _ in cases]
    return judge.judge(examples, [f"so \\boxed{{{answer}}}" for *_, answer in cases])


def test_answers_that_are_worked_out_are_right(judge):
    cases = [(question, gold, answer) for question, gold, rights, _ in ASKED for answer in [gold, *rights]]
    refused = [case for case, v in zip(cases, judged(judge, cases), strict=True) if not v.correct]
    assert not refused


def test_answers_with_work_to_do_and_copies_are_wrong(judge):
    cases = [(question, gold, answer) for question, gold, _, wrongs in ASKED for answer in wrongs]
    paid = [case for case, v in zip(cases, judged(judge, cases), strict=True) if v.correct]
    assert not paid


def test_without_a_question_every_form_of_a_right_value_is_right(judge):
    pairs = [("1024", "2^{10}"), ("10", r"\binom52"), ("6+9i", "(1+2i)6-3i"), ("2", r"\sqrt4"), ("5", "5+0")]
    examples = [Example("m/test/0", (), {"answer": gold}) for gold, _ in pairs]
    assert all(v.correct for v in judge.judge(examples, [f"\\boxed{{{answer}}}" for _, answer in pairs]))


def test_the_question_is_part_of_what_is_remembered(judge):
    cases = [
        ("What percent is it?", "28", r"28\%"),
        ("How many are there?", "28", r"28\%"),
        ("What percent are there?", "28", r"28\%"),
    ]
    assert [v.correct for v in judged(judge, cases)] == [True, False, True]


def test_several_boxes_are_one_answer_where_the_gold_has_several(judge):
    asked = [
        ("1,-2", r"\boxed{1} and \boxed{-2}", True), (r"\{1,2\}", r"\boxed{9}, \boxed{2}, \boxed{1}", True),
        ("1,-2", r"\boxed{1} and \boxed{2}", False), ("1,-2", r"\boxed{1}", False), ("1", r"\boxed{2} \boxed{1}", True),
        ("1", r"\boxed{1} \boxed{2}", False), ("1,-2", r"\boxed{5} so \boxed{-2, 1}", True),
        (r"1\pm\sqrt2", r"\boxed{1+\sqrt2} or \boxed{1-\sqrt2}", True), ("(1,2)", r"\boxed{1} \boxed{2}", False),
    ]  # fmt: skip
    examples = [Example("m/test/0", (), {"answer": gold}) for gold, *_ in asked]
    assert [v.correct for v in judge.judge(examples, [text for _, text, _ in asked])] == [right for *_, right in asked]


numbers = st.integers(-60, 60).map(lambda n: f"({n})" if n < 0 else str(n))
expressions = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", r"\cdot "]), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
        st.tuples(inner, inner).map(lambda t: rf"\frac{{{t[0]}}}{{{t[1]}}}"),
        inner.map(lambda text: rf"\sqrt{{{text}}}"),
    ),
    max_leaves=6,
)


@given(expressions)
@settings(max_examples=300, deadline=None)
def test_an_expression_of_several_numbers_is_no_way_to_write_a_whole_number(expression):
    """Whatever its value is, and whether it is the question's or not; one fraction may stay unreduced."""
    text = clean(expression)
    assert read(text) is not None
    count = len(re.findall("[0-9]+", text))
    is_a_fraction = re.fullmatch(r"\(*\\frac\{[(-]*[0-9]+\)*\}\{[(-]*[0-9]+\)*\}\)*", text) is not None
    other = unfinished("7", text, read_question("How many are there?")) is None
    copied = unfinished("7", text, read_question(f"Compute ${expression}$.")) is None
    if count > 1:
        assert not copied and (not other or is_a_fraction)


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

    is_choice = gold == f"\\text{{({piece.strip('()')})}}"
    return is_choice or bare(gold) == bare(piece)


@pytest.mark.mirror
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "at_least"), [("MATH500", 4_000), ("MATH_train", 70_000)])
def test_no_formula_of_a_question_of_math_is_paid_where_the_gold_is_written_otherwise(judge, name, at_least):
    rows = json.loads((Path(os.environ["LIGHTNINGRL_DATA_MIRROR"]) / "protocol" / f"{name}.json").read_text())
    golds = [(row["question"], row["ground_truth_answer"]) for row in rows if row["ground_truth_answer"].strip()]
    cases = [(question, gold, piece) for question, gold in golds for piece in pieces(question)]
    assert len(cases) >= at_least
    paid = [case for case, v in zip(cases, judged(judge, cases), strict=True) if v.correct]
    print(f"{len(paid)} of {len(cases)} pieces of questions are their gold answers")
    copied = [(gold, piece, question[:60]) for question, gold, piece in paid if not is_the_gold(gold, piece)]
    assert not copied, "\n".join(map(str, copied))
