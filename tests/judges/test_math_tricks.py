r"""Answers made to look right: approximations of many digits, a choice with words behind it, the question rewritten.

Every table has its counterpart of natural right answers, since a judge that refuses everything passes the rest.
"""

from __future__ import annotations

import mpmath
import pytest

from lightningrl.judges.boxed_answer import extract_boxes
from lightningrl.types import Example


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


PRODUCT = r"Simplify $\sqrt{10p} \cdot \sqrt{5p^2} \cdot \sqrt{6p^4}$. Express your answer in simplest radical form."
ROOT, HALF = r"Simplify $\sqrt{50}$.", r"Rationalize the denominator of $\frac{1}{\sqrt2}$."
QUOTIENT, POWERS = r"Simplify $\frac{1}{x}+\frac{1}{y}$ into one fraction.", r"Simplify $\frac{6x^5}{3x^2}$."
REWRITTEN = [
    (PRODUCT, r"10p^3\sqrt{3p}", [r"10\sqrt{3p}\cdot p^3", r"10p^3(3p)^{1/2}"],
     [r"\sqrt{5p^2}\sqrt{60p^5}", r"\sqrt{300p^7}", r"p^3\sqrt{300p}", r"10\sqrt{3p^7}", r"(5p^2)^{1/2}(60p^5)^{1/2}"]),
    (HALF, r"\frac{\sqrt2}{2}", [r"\frac12\sqrt2", r"\sqrt2/2", r"\frac{2^{1/2}}{2}"],
     [r"\sqrt{\frac12}", r"\sqrt{0.5}", "2^{-1/2}", r"0.5\sqrt2", r"\frac{\sqrt8}{4}",
      r"\frac{2\sqrt2}{4}", r"(\sqrt2)^{-1}"]),
    ("How long is the side of the square?", r"\frac{\sqrt2}{2}", [r"\sqrt{\frac12}", r"\frac{1}{\sqrt2}", "2^{-1/2}"],
     []),
    (r"Compute $\cos 45^\circ$.", r"\frac{\sqrt2}{2}", [r"\sqrt{\frac12}", r"\frac{1}{\sqrt2}"], [r"\cos 45^\circ"]),
    (ROOT, r"5\sqrt2", [r"\sqrt2\cdot 5", r"5\cdot 2^{1/2}"],
     [r"2\sqrt{12.5}", r"\frac{10}{\sqrt2}", r"\frac{10\sqrt2}{2}"]),
    ("Factor $2x^2-18$.", "2(x-3)(x+3)", ["2(x+3)(x-3)", "2(3-x)(-x-3)", "(x-3)(x+3)2"],
     ["(2x-6)(x+3)", "(x-3)(2x+6)", r"\frac12(2x-6)(2x+6)", "2(x^2-9)"]),
    ("Factor $4x^2-2x$.", "2x(2x-1)", ["2(2x-1)x"], ["x(4x-2)", "2(2x^2-x)"]),
    (QUOTIENT, r"\frac{x+y}{xy}", [r"\frac{y+x}{yx}"], [r"\frac{1}{x}+\frac{1}{y}", "x^{-1}+y^{-1}"]),
    (POWERS, "2x^3", [r"x^3\cdot 2"], ["2x^5/x^2", r"\frac{6x^3}{3}", r"2x^2\cdot x", "2x^5x^{-2}", r"2(x^3)^1"]),
    (r"Rationalize the denominator of $\frac{1}{\sqrt{x}-1}$.", r"\frac{\sqrt{x}+1}{x-1}", [r"\frac{1+\sqrt x}{x-1}"],
     [r"\frac{-1}{1-\sqrt{x}}", r"-\frac{1}{1-\sqrt x}", r"(\sqrt{x}-1)^{-1}", r"\frac{2}{2\sqrt{x}-2}"]),
    ("Write it in terms of $x$ and $y$, which are positive.", r"\sqrt{xy}", [r"\sqrt x\sqrt y"], []),
    ("What is the sum of the two numbers?", "5+i", ["5+1i", "5+i"], ["5+2i", r"5+1\cdot1i"]),
]  # fmt: skip


def test_where_the_question_states_the_value_only_what_it_asks_for_is_right(judge):
    right = [(question, gold, answer) for question, gold, answers, _ in REWRITTEN for answer in [gold, *answers]]
    assert paid(judge, right) == right
    assert not paid(judge, [(question, gold, answer) for question, gold, _, wrong in REWRITTEN for answer in wrong])


DETOURS = [
    r"\frac{3(A)}{3}", "A+c-c", "(A)^1", "(A)^{2/2}", r"\sqrt{(A)^2}", "-(-(A))", "(-1)(-1)(A)", r"2\cdot\frac12(A)",
    r"\frac{c(A)}{c}", "1(A)", "0+(A)", r"\frac{A}{1}", "2(A)-(A)", r"\left|A\right|", r"\frac{1}{\frac{1}{A}}",
    r"0.5\cdot2(A)", "4(A)/4", r"\frac{-(A)}{-1}", r"\frac{2(A)}{\sqrt4}", r"\frac{(A)^2}{A}", r"\sqrt[3]{(A)^3}",
    "((A)^2)^{1/2}", "((A)^{1/2})^2", r"\ln e^{A}", r"\frac12(A)+\frac12(A)", r"\frac{A}{2}\cdot 2", "((A)^{-1})^{-1}",
    r"\frac{-1}{-1}(A)", r"3\cdot\frac{A}{3}", r"\frac{6(A)}{2\cdot3}", r"\frac{2(A)+2(A)}{4}",
]  # fmt: skip


@pytest.mark.parametrize(("asked", "gold", "stated"), [
    (PRODUCT, r"10p^3\sqrt{3p}", r"\sqrt{10p}\sqrt{5p^2}\sqrt{6p^4}"), (POWERS, "2x^3", r"\frac{6x^5}{3x^2}"),
    (QUOTIENT, r"\frac{x+y}{xy}", r"\frac{1}{x}+\frac{1}{y}"), ("Expand $(a-b)(a+d)$.", "a^2+ad-ab-bd", "(a-b)(a+d)"),
    ("Simplify $(3a+2b)-(a-b)$.", "2a+3b", "(3a+2b)-(a-b)"), ("Factor $a^2-b^2$.", "(a-b)(a+b)", "a^2-b^2"),
    (r"Simplify $\frac{x^2-1}{x-1}$.", "x+1", r"\frac{x^2-1}{x-1}"),
    (r"Simplify $\sqrt{50x^3}$.", r"5x\sqrt{2x}", r"\sqrt{50x^3}"),
])  # fmt: skip
def test_no_detour_makes_the_question_an_answer(judge, asked, gold, stated):
    assert not paid(judge, [(asked, gold, detour.replace("A", stated)) for detour in ["A", "(A)", *DETOURS]])


WAYS = [
    ("Where do the two lines meet?", "(2,3)", [r"x=2 \text{ and } y=3", "x=2, y=3"],
     [r"x=2\text{ or }y=3", r"x=2 \text{ and } y=4"]),
    ("Find all the roots of it.", "-1,3", [r"-1\text{, }3", r"-1 \quad 3", r"-1, \quad 3", r"3\qquad -1"],
     [r"-1 3", r"-1\text{, }4"]),
    ("How likely is this event?", r"\frac14", [r"\frac14 = 25\%", r"P = \frac14 = 0.25 = 25\%"],
     [r"\frac14 = 35\%", r"25\% = \frac13", r"\frac13 = 25\%"]),
    ("How large is the area?", r"\frac{35}{2}\pi", [r"(35)/(2) \pi", r"(35)/(2)\pi"],
     [r"(35)/(2\pi)", r"(35)/(3) \pi"]),
    ("How many are there now?", "9", [r"\text{Total} = 9", r"\text{The answer} = 9"],
     [r"\text{Half} = 9", r"\text{Total} = 8"]),
    ("What is the remainder when $10$ is divided by $7$?", "3", [r"3 \pmod 7", r"3 \pmod{7}", r"3\bmod 7"],
     [r"10\pmod 7", r"3 \pmod 5", r"4 \pmod 7"]),
    (r"What is the inverse of $3 \pmod 7$, squared, modulo $11$?", "3", [r"3 \pmod{11}"], [r"3 \pmod 7"]),
    ("How many of the 7 apples are red?", "3", ["3"], [r"3 \pmod 7"]),
]  # fmt: skip


def test_natural_ways_to_write_an_answer_are_right_and_no_others(judge):
    right = [(question, gold, answer) for question, gold, answers, _ in WAYS for answer in [gold, *answers]]
    assert paid(judge, right) == right
    assert not paid(judge, [(question, gold, answer) for question, gold, _, wrong in WAYS for answer in wrong])


@pytest.mark.parametrize(("text", "found"), [
    (r"so $\boxed2$.", ["2"]), (r"\boxed 5.", ["5"]), (r"\boxedx", []), (r"\boxed{4} and \boxed{\,}", ["4"]),
    (r"\boxed{4} \boxed{\quad ~ \ }", ["4"]), (r"\boxed{\,3}", [r"\,3"]),
])  # fmt: skip
def test_a_box_without_braces_is_read_and_one_with_blanks_alone_is_empty(text, found):
    assert extract_boxes(text) == found
