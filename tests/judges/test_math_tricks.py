r"""Answers made to look right: approximations of many digits, a choice with words behind it, the question rewritten.

Every table has its counterpart of natural right answers, since a judge that refuses everything passes the rest.
"""

from __future__ import annotations

import mpmath
import pytest

from lightningrl.judges.math import MathJudge
from lightningrl.types import Example


@pytest.fixture(scope="module")
def judge():
    judge = MathJudge(workers=2)
    yield judge
    judge.close()


def paid(judge, cases):
    """Those of the cases (question or None, gold, answer) that are judged right."""
    turns = [() if question is None else ({"role": "user", "content": question},) for question, *_ in cases]
    examples = [Example("m/test/0", turn, {"answer": gold}) for turn, (_, gold, _) in zip(turns, cases, strict=True)]
    verdicts = judge.judge(examples, [f"so \\boxed{{{answer}}}" for *_, answer in cases])
    assert all(verdict.value is not None for verdict in verdicts)
    return [case for case, verdict in zip(cases, verdicts, strict=True) if verdict.correct]


def digits(value, count):
    with mpmath.workdps(count + 10):
        return mpmath.nstr(value(), count + 1, strip_zeros=False)


@pytest.mark.parametrize("count", [15, 39, 41, 60, 95, 150])
def test_no_approximation_is_paid_however_many_digits_it_has(judge, count):
    root, pi = digits(lambda: mpmath.sqrt(2), count), digits(lambda: +mpmath.pi, count)
    tiny = f"0.{'0' * count}1"
    cases = [
        (r"\sqrt2", root), (r"\sqrt2", rf"\sqrt{{2.{'0' * count}1}}"), (r"\sqrt2+x", rf"{root}+x"), (r"\pi", pi),
        (r"\pi", rf"\pi+{tiny}"), (r"\pi", rf"\pi+\frac{{1}}{{1{'0' * count}}}"), (r"\pi", rf"\pi+10^{{-{count}}}"),
        (r"2\pi x", rf"2\pi x+{tiny}x"), (r"\pi", rf"\pi\cdot 1.{'0' * count}1"), ("2", rf"\sqrt{{4.{'0' * count}1}}"),
        (r"\pi", rf"\pi+e^{{-{3 * count}}}"), (r"y=\sqrt2 x", f"y={root}x"),
        (r"\sqrt2+\sqrt3", digits(lambda: mpmath.sqrt(2) + mpmath.sqrt(3), count)),
        (r"\sqrt2 x", rf"\sqrt2 x+e^{{-{3 * count}-x^2}}"),
    ]  # fmt: skip
    asked = [(question, *case) for case in cases for question in (None, "How long is the side of the square?")]
    assert not paid(judge, asked)


def test_numbers_of_many_digits_are_right_where_they_are_exact_or_the_gold_has_them(judge):
    many = [
        ("2^{150}", str(2**150)), (r"\frac{1}{2^{150}}", rf"\frac{{1}}{{{2**150}}}"),
        (r"\frac{\pi}{2^{150}}", r"2^{-150}\pi"),
        ("10^{40}", "1" + "0" * 40), (r"\sqrt{2}+10^{40}", r"10^{40}+\sqrt2"),
        (r"2\cos 15^\circ", r"\frac{\sqrt6+\sqrt2}{2}"),
        (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"), (r"\frac{100!}{98!}", "9900"),
    ]  # fmt: skip
    cases = [(None, *pair) for pair in many]
    assert paid(judge, cases) == cases


CHOICES = (
    r"Which is true of the lines? $\textbf{(A)}\ \text{they meet} \qquad \textbf{(B)}\ \text{they are parallel} \qquad "
    r"\textbf{(C)}\ y = 2x+1 \qquad \textbf{(D)}\ \text{none}$"
)


@pytest.mark.parametrize("question", [None, CHOICES])
def test_a_choice_is_its_letter_with_nothing_behind_it_but_the_options_text(judge, question):
    wrong = ["(A) B C D", r"\text{(A) } B", r"\text{(A) is wrong}", "(A) not", "(A) none", "(B)", "(A) isn't right"]
    wrong += [r"\text{(A) they meet, no}", "(A) (B)", "(A)(B)", "(A) or (B)", "(A) they meet and not B"]
    wrong += ["(A) they are parallel", "(A) the", "(A) y = 2x+1"] if question else []
    assert not paid(judge, [(question, r"\text{(A)}", answer) for answer in wrong])
    right = ["(A)", "A", r"\textbf{(A)}", r"\text{A}", "(A) they meet", r"\text{(A) they meet}"]
    right += [r"\text{(A)}\ \text{they meet}", r"\textbf{(A)}\ they meet."]
    if question:
        assert paid(judge, [(question, r"\text{(C)}", r"\text{(C)}\ y = 2x+1")])
    cases = [(question, r"\text{(A)}", answer) for answer in right]
    assert paid(judge, cases) == cases
