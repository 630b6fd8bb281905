"""The published grader's string rules, as they were measured to behave: their false accepts and false rejects."""

import pytest
from fixtures.limits import processor_time
from hypothesis import given
from hypothesis import strategies as st

from lightningrl.judges.compat import published_equal

ACCEPTED = [
    ("(1,2)", "(12)"), ("5,6", "56"), (r"10\%", "10"), (r"3\text{ cm}", r"3\text{ m}"), ("x=5", "5"),
    ("inf", "Infinity"), ("1_0", "10"), ("\u0663", "3"), ("Can not extract the answer!", "Can not extract the answer!"),
    (r"\text{Evelyn}", "Evelyn"), ("0.5", "1/2"), (r"\frac12", r"\frac{1}{2}"), (r"\dfrac{1}{2}", r"\tfrac12"),
    (r"\sqrt3", r"\sqrt{3}"), ("1,234", "1234"), (r"90^\circ", "90"), (r"\$5", "5"), (".5", "0.5"), ("2 k", "2k"),
    (r"\left(1,2\right)", "(1,2)"), ("3.0", "3"),
]  # fmt: skip
REJECTED = [
    (r"\frac{2}{4}", r"\frac12"), (r"2\sqrt2", r"\sqrt8"), ("p-q", "-q+p"), (r"-\frac13", r"\frac{-1}{3}"),
    ("a+b", "b+a"), ("36 apples", "36"), ("4", "5"), ("(1,2)", "(2,1)"), ("", "4"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), ACCEPTED)
def test_what_it_takes_for_equal(one, other):
    assert published_equal(one, other) and published_equal(other, one)


@pytest.mark.parametrize(("one", "other"), REJECTED)
def test_what_it_takes_for_different(one, other):
    assert not published_equal(one, other) and not published_equal(other, one)


@given(st.text(r"\{}[]()$%,.=_^ \textfracsqrt0123456789x"), st.text(r"\{}$%,.=\text{frac}012"))
def test_it_never_raises_and_is_symmetric(one, other):
    assert published_equal(one, other) == published_equal(other, one)
    assert published_equal(one, one)


@pytest.mark.parametrize("text", ["{" * 10**6, r"\frac" * 20_000, "$" * 90_000, "1" * 90_000, r"\text{ " * 10_000])
def test_it_is_quick_on_anything(text):
    with processor_time(3):
        published_equal(text, text[:-1])
