"""What holds of any answer: every text is itself, numbers are exact, no approximation and no unfinished sum is paid."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_math_answers import Case, table, verdicts

from lightningrl.judges.math.finished import unfinished
from lightningrl.judges.math.question import read_question
from lightningrl.judges.math.rules import equal, number
from lightningrl.judges.math.text import Unreadable, clean
from lightningrl.judges.math.tree import read

MIRROR = Path(__file__).parents[1] / "fixtures" / "mirror" / "protocol"


def test_every_gold_answer_is_itself(judge):
    golds = [row["ground_truth_answer"] for name in ("MATH500", "GSM8K", "MATH_train")
             for row in json.loads((MIRROR / f"{name}.json").read_text())]  # fmt: skip
    found = verdicts(judge, [Case("gold", None, gold, gold, True) for gold in golds])
    assert all(verdict.correct and verdict.compat for verdict in found)


PIECES = st.sampled_from([
    *"0123456789+-*/=.,()[]{}^_ %$xyi", "\\frac", "\\sqrt", "\\text{", "\\pm", "\\{", "\\}", "\\infty", "\\cup",
    "\\circ", "\\\\", "&", "\\begin{pmatrix}", "\\end{pmatrix}", "apples", "\\left(", "\\right]",
    "\\pi",
])  # fmt: skip


def no_algebra(one, other, ratio=None):
    return False


@given(st.lists(PIECES, max_size=25).map("".join), st.lists(PIECES, max_size=25).map("".join))
@settings(max_examples=400, deadline=None)
def test_any_two_texts_are_compared_and_every_text_is_itself(one, other):
    """Not the same way round and back: a gold is what it is, and an answer must be worked out."""

    def compare(a, b):
        try:
            return equal(a, b, no_algebra)
        except Unreadable:
            return None

    assert compare(one, other) in (True, False, None)
    assert compare(one, one) in (True, None) or not clean(one)


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
@settings(deadline=None)
def test_fractions_are_equal_as_numbers(one, other):
    def written(value: Fraction) -> list[str]:
        sign = "-" if value < 0 else ""
        plain = f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
        return [plain, f"{value.numerator}/{value.denominator}"]

    for a in written(one):
        assert number(clean(a)) == one
        assert all(equal(a, b, no_algebra) == (one == other) for b in written(other))


@pytest.mark.parametrize("text", ["1" * 1001, "(" * 21 + ")" * 21, "a\x00b", "\ud800", "{" * 500])
def test_what_is_no_answer_is_unreadable(text):
    with pytest.raises(Unreadable):
        clean(text)


def test_cleaning_twice_changes_nothing():
    for case in table("written_answers"):
        if case.kind in ("the same", "different"):
            assert clean(clean(case.answer)) == clean(case.answer), case


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


def digits(value, count):
    with mpmath.workdps(count + 10):
        return mpmath.nstr(value(), count + 1, strip_zeros=False)


@pytest.mark.parametrize("count", [15, 39, 41, 60, 95, 150])
def test_no_approximation_is_paid_however_many_digits_it_has(judge, count):
    root, pi = digits(lambda: mpmath.sqrt(2), count), digits(lambda: +mpmath.pi, count)
    tiny = f"0.{'0' * count}1"
    pairs = [
        (r"\sqrt2", root), (r"\sqrt2", rf"\sqrt{{2.{'0' * count}1}}"), (r"\sqrt2+x", rf"{root}+x"), (r"\pi", pi),
        (r"\pi", rf"\pi+{tiny}"), (r"\pi", rf"\pi+\frac{{1}}{{1{'0' * count}}}"), (r"\pi", rf"\pi+10^{{-{count}}}"),
        (r"2\pi x", rf"2\pi x+{tiny}x"), (r"\pi", rf"\pi\cdot 1.{'0' * count}1"), ("2", rf"\sqrt{{4.{'0' * count}1}}"),
        (r"\pi", rf"\pi+e^{{-{3 * count}}}"), (r"y=\sqrt2 x", f"y={root}x"),
        (r"\sqrt2+\sqrt3", digits(lambda: mpmath.sqrt(2) + mpmath.sqrt(3), count)),
        (r"\sqrt2 x", rf"\sqrt2 x+e^{{-{3 * count}-x^2}}"),
    ]  # fmt: skip
    cases = [Case("", asked, *pair, False) for pair in pairs for asked in (None, "How long is the side of the square?")]
    found = verdicts(judge, cases)
    assert not [case for case, verdict in zip(cases, found, strict=True) if verdict.correct or verdict.value is None]
