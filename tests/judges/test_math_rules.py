"""Which answers are the same where nothing is known of the question: a table, both ways, and what holds of any text."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.judges.math.rules import equal, number
from lightningrl.judges.math.text import Unreadable, clean
from lightningrl.types import Example

MIRROR = Path(__file__).parents[1] / "fixtures" / "mirror" / "protocol"

SAME = [
    ("(-4, 27);(2, 15)", "(2,15), (-4,27)"), ("3:4", "3 : 4"), ("2", "5+-3"),
    (r"(2,12)\cup(12,102)", r"(2, 12)\cup(12, 102)"), ("(4,112)", "(4, 112)"), ("[-36,104]", "[-36, 104]"),
    (r"(6,235^\circ)", r"(6, 235^\circ)"), (r"12\pi", r"12\pi\text{ square inches}"),
    (r"\frac34\pi\text{ inches}", r"\frac{3\pi}{4}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\left[\begin{matrix}1\\2\end{matrix}\right]"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\left(\begin{array}{c}1\\[4pt]2\end{array}\right)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{psmallmatrix}1\cr 2\end{psmallmatrix}"),
    (r"\left(3,4\right)", r"\bigl(3,4\bigr)"), (r"2\cos 15^\circ", r"\frac{\sqrt6+\sqrt2}{2}"),
    (r"y=-\frac52 x-\frac{29}{4}", "y = -5/2 x - 29/4"), (r"\frac{\pi}{2}", r"1/2\pi"), ("1,2,3", "1, 2, and 3"),
    ("2516_8", "(2516)_8"), ("1+2i", r"1+2\mathrm{i}"), ("0.0000672", "6.72e-5"), ("12", r"12\text{.}"),
    ("52_8", "{52_8}"), ("3:30", "3{:}30"), (r"111, \! 111, \! 111", "111111111"), (r"\text{(E)},", "E"),
    (r"\$\dfrac23 \approx \$0.67", r"\frac23"), ("8.24", r"\approx 8.24"), ("10{,}080", "10080"), ("1,000", "1000"),
    (r"\{1,2,3\}", "1,2 and 3"), (r"\frac{1}{2^{150}}", "2^{-150}"), ("0", r"\sqrt2-\sqrt{2}"), ("0", r"\sin \pi"),
    ("x+1", r"\frac{x^2-1}{x-1}"),
    # numbers, exactly
    ("3", "3.0"), ("0.5", "1/2"), ("0.5", r"\frac12"), (r"\frac{2}{4}", r"\frac12"), (".35625", "0.35625"),
    ("1,234", "1234"), (r"10,\!080", "10080"), (r"11,\! 111,\! 111,\! 100", "11111111100"), ("1{,}000", "1000"),
    (r"1\frac{4}{5}", r"\frac95"), (r"1\frac{4}{5}", "1.8"), (r"-\frac13", r"\frac{-1}{3}"), ("+7", "7"),
    (r"\frac59", r"\dfrac 59"), (r"\frac9{19}", r"\tfrac{9}{19}"), ("-0", "0"), ("$5$", "5"), ("5.", "5"),
    # algebra
    (r"2\sqrt2", r"\sqrt8"), (r"11\sqrt2", r"11 \sqrt{2}"), ("p-q", "-q+p"), ("a+b", "b+a"), ("4", "2+2"),
    ("(a+5)(b+2)", "ab+2a+5b+10"), (r"\frac{\sqrt3}{3}", r"\frac{1}{\sqrt{3}}"), ("6-5i", "-5i+6"),
    ("6+9i", "3(2+3i)"), (r"\cot x", r"\frac{\cos x}{\sin x}"), (r"\frac{20000}{\pi}", r"20000/\pi"),
    ("x^2", r"x\cdot x"), ("10!", "3628800"), (r"\frac{11+9a}{20}", r"0.55+0.45a"), (r"e^{i\pi}", "-1"),
    # units, money, degrees, bases
    ("36", "36 apples"), ("36", r"36\text{ apples}"), (r"90^\circ", "90"), (r"90^\circ", r"90^{\circ}"),
    (r"90^\circ", "90 degrees"), (r"\$32,\!348", "32348"), (r"\$36", "36 dollars"), (r"5.4 \text{ cents}", "5.4"),
    (r"864 \mbox{ inches}^2", "864"), (r"864 \mbox{ inches}^2", "864 square inches"),
    (r"15\mbox{ cm}^2", r"15\text{ cm}^2"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"), (r"3\text{ m}", "3 meters"),
    ("2516_8", "2516_{8}"),
    (r"10\%", r"10 \%"), (r"10\%", "10 percent"), (r"12.5\%", r"\frac{25}{2}\%"),
    ("10 cm", "10"), ("10cm", r"10\text{ cm}"), (r"5\text{ lb}", "5 pounds"), (r"-5^\circ", r"-5^\circ\text{C}"),
    ("50 mph", r"50\text{ miles/hour}"), ("2000000", "2 million"), (r"\$2000000", r"\$2\text{ million}"),
    ("24", "2 dozen eggs"), ("2xyz", "2 xyz"), ("7.5", "7 1/2"), (r"0.\overline{6}", r"\frac23"),
    (r"0.1\overline{6}", r"\frac16"), (r"\dbinom52", "10"), (r"\sin 30^\circ", r"\frac12"),
    ("9\\text{ a.m.}", "9 a.m."), (r"\text{4:30 p.m.}", r"4:30\text{ p.m.}"),
    (r"\frac34\pi\text{ inches}", r"\frac{3\pi}4"),
    (r"\approx 8.24 \text{ mph}", "8.24"), ("18", r"18\text{ }"), ("5", r"\(5\)"),
    # words and choices
    (r"\text{A,C,F}", "A, C, F"), (r"\text{October 30}", "October 30"),
    (r"\text{Evelyn}", "Evelyn"), (r"\text{even}", "Even"), (r"\text{(C)}", "C"), (r"\text{(C)}", "(C)"),
    (r"\text{no solution}", "no solution"), (r"\text{ellipse}", r"\mathrm{ellipse}"),
    # tuples, intervals, sets, lists, matrices
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac\pi2)"), ("(1,2)", "(1, 2)"), (r"(2,\infty)", r"(2,+\infty)"),
    (r"\{1,2\}", r"\{2,1\}"), (r"\{1\pm\sqrt{5},-2\}", r"\left\{-2,1+\sqrt5,1-\sqrt5\right\}"),
    ("3, 5, 7", "7,3,5"), ("1,-2", r"-2\text{ and }1"), (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"), (r"x \in [-2,7]", "[-2,7]"),
    (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{bmatrix} \frac15 \\ -3.6 \end{bmatrix}"),
    (r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}", r"\begin{pmatrix}-1&0\\0&-1\\\end{pmatrix}"),
    (r"\{1\pm\sqrt{5},-2\}", r"-2, 1+\sqrt{5}, 1-\sqrt{5}"), (r"\emptyset", r"\varnothing"),
    (r"\emptyset", r"\{ \}"),
    ("5", r"\text{5}"), ("3", r"\mathbf{3}"), (r"10\,080", "10080"), (r"\log_2 3", r"\frac{\log 3}{\log 2}"),
    (".0000672", r"6.72 \times 10^{-5}"), (r"\sqrt[3]{4}", "4^{1/3}"), (r"\frac{1}{x^2}", "x^{-2}"),
    (r"(6,235^\circ)", "(6, 235)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\left(\begin{array}{c}1\\[6pt]2\end{array}\right)"),
    # equations, names, columns
    ("x=5", "5"), (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1,2)"),
    ("x=5", "x = 5"), ("x=5", "5=x"), ("y = 2x + 3", "y-2x=3"), ("5x - 7y + 11z + 4 = 0", "10x-14y+22z+8=0"),
    ("x<3", "3>x"), (r"1 \le x < 2", r"1\leq x<2"),
]  # fmt: skip
DIFFERENT = [
    ("3:30", "6:60"), ("3:1", "3"), ("3:1", r"3\text{ cm}"), (r"0.56 = 56\%", r"x=\sqrt{7}"),
    ("(-4, 27);(2, 15)", "(-4,27)"),
    ("(4,112)", "(4112)"), ("4112", "(4,112)"), ("2^{2008}-2", "2^{2008}"), (r"\frac{1}{2004!}", "0"),
    (r"\frac{1}{2004!}", r"\frac{1}{5004!}"), ("100!", "100!+1"), ("10^{-50}", "0"),
    (r"\frac{1}{2^{150}}", r"\frac{1}{2^{151}}"), ("3", r"3\text{ million}"), ("3", "3xyz"), ("x'", "x"),
    ("3", r"10 \mod 7"), ("0.333", "0.333..."), ("1,2,3", "1,2,3,..."), (r"0.56 = 56\%", r"0.56=3\%"), ("3", "--3"),
    ("1", "[1,1]"), (r"\$\dfrac23 \approx \$0.67", r"\$3.67"), ("306", "30 6"), ("10^{80}", "10^{80}+x"),
    ("10^{-41}x", "0"), ("(1,000)", "1000"),
    ("(1,2)", "(12)"), ("5,6", "56"), ("306", "30 6"), ("5", r"\{5\}"), (r"\log_2 3", r"\log_{23}"),
    (r"10\%", "10"), (r"10\%", "0.1"), (r"3\text{ cm}", r"3\text{ m}"),
    ("inf", "Infinity"), ("1_0", "10"), ("1_0", "1"), ("\u0663", "3"), ("\uff13", "3"), ("12,34", "1234"),
    ("(1,2)", "[1,2]"), ("(1,2)", "(2,1)"), ("(1,2)", "1,2"), (r"\{1,2\}", "(1,2)"), (r"\{1,2\}", r"\{1,2,2\}"),
    ("(3,4]", "(3,4)"), ("1,2", "1,2,3"), ("1", "1,1"), ("0.333", "1/3"), ("0.3333333333333", r"\frac13"),
    (r"\pi", "3.14159265358979"), ("3.14", r"\pi"), (r"\sqrt2", "1.41421356237"), ("1+2i", "1-2i"), ("p-q", "q-p"),
    ("3R^2", "3r^2"), ("x", "y"), ("2k", "2k+1"), ("2k", "2"), (r"\frac12", r"\frac13"), ("36", "3600"), ("36", "-36"),
    (r"\text{Evelyn}", r"\text{Angela}"), (r"\text{even}", r"\text{odd}"), (r"\text{(C)}", "D"), ("36", r"\text{six}"),
    ("2516_8", "2516_9"), ("2516_8", "2517"), ("3 cm", r"3\text{ cm}^2"), (r"\$36", "36 cents"), (r"90^\circ", "91"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"),
    ("y=2x", "y=3x"), ("y=2x", "y>2x"), ("x<3", "x>3"),
    ("x=5", "x=6"), (r"\infty", "5"), (r"(2,\infty)", r"(2,-\infty)"), (r"1 \pm \sqrt{19}", r"1+\sqrt{19}"),
    ("(6,235)", "6235"), ("9 a.m.", "9 p.m."), (r"\text{A,C,F}", "A,C"), (r"\text{A,C}", "AC"),
    # a text or a word behind a number that is no unit, signs that a parser drops
    *(("5", f"5 {words}") for words in (
        "million", "dozen", "squared", "cubed", "factorial", "half", "times ten", "plus one", "or more", "mod 7",
    )),
    *(("5", rf"5\text{{{words}}}") for words in (
        "x", "!", "(approx)", "k", "i", "pi", " does not exist", " but not 6", "6", "-6", "hours }5\\text{minutes",
    )),
    ("5", "5abc"), ("5", "5am"), ("5", "5 wait it is six"), ("5", r"5\text{ hundred}"),
    ("5", "5'"), ("5", "5%+0"), ("x+5", 'x"+5'),
    ("90", r"90\text{ radians}"),
    (r"\sin 30^\circ", r"\sin 30"), (r"1^\circ\text{C}", r"1^\circ\text{F}"), ("71/2", "7 1/2"),
    (r"0.\overline{3}", "0.3"), ("0=1", "0=2"),
    (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    ("4", "Can not extract the answer!"), ("1/2", "0"), ("0", "5-5.1"),
]  # fmt: skip


def verdicts(judge, pairs):
    examples = [Example("m/test/0", (), {"answer": gold}) for gold, _ in pairs]
    return judge.judge(examples, [f"so \\boxed{{{found}}}" for _, found in pairs])


@pytest.mark.parametrize("way", ["gold first", "answer first"])
def test_the_same(judge, way):
    pairs = [pair if way == "gold first" else pair[::-1] for pair in SAME]
    wrong = [(pair, v.status, v.detail) for pair, v in zip(pairs, verdicts(judge, pairs), strict=True) if not v.correct]
    assert not wrong


@pytest.mark.parametrize("way", ["gold first", "answer first"])
def test_different(judge, way):
    pairs = [pair if way == "gold first" else pair[::-1] for pair in DIFFERENT]
    found = verdicts(judge, pairs)
    assert not [(pair, v.detail) for pair, v in zip(pairs, found, strict=True) if v.correct]
    assert {v.status for v in found} <= {"wrong", "unparsable", "gold_error"}


def test_every_gold_answer_is_itself(judge):
    golds = [row["ground_truth_answer"] for name in ("MATH500", "GSM8K", "MATH_train")
             for row in json.loads((MIRROR / f"{name}.json").read_text())]  # fmt: skip
    assert all(v.correct and v.compat for v in verdicts(judge, [(gold, gold) for gold in golds]))


PIECES = st.sampled_from([
    *"0123456789+-*/=.,()[]{}^_ %$xyi", "\\frac", "\\sqrt", "\\text{", "\\pm", "\\{", "\\}", "\\infty", "\\cup",
    "\\circ", "\\\\", "&", "\\begin{pmatrix}", "\\end{pmatrix}", "apples", "\\left(", "\\right]",
    "\\pi",
])  # fmt: skip


def no_algebra(one, other):
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
    for pair in (*SAME, *DIFFERENT):
        for text in pair:
            assert clean(clean(text)) == clean(text), text
