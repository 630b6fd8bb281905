"""The judge of boxed answers."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightningrl.judges.boxed_answer import BoxedJudge, extract_boxed, extract_boxes, normalise
from lightningrl.types import Example


def judge_one(answer, response):
    (verdict,) = BoxedJudge().judge([Example("gsm/test/1", (), {"answer": answer})], [response])
    return verdict


RIGHT = [
    ("36", r"\boxed{36}"), ("36", r"so 35, no: \boxed{35} \boxed{36}."), ("1234567", r"\boxed{1,234,567}"),
    ("36", r"\boxed{ +36 }"), ("36", r"\boxed{36.00}"), ("36.5", r"\boxed{036.50}"), ("0", r"\boxed{-0.0}"),
    (".5", r"\boxed{0.5}"), ("-1,000", r"\boxed{-1000}"), (r"\frac{1}{2}", r"\boxed{\frac{1}{2}}"),
    (r"\{1\}", r"\boxed{\{1\}}"), ("x = 2", "\\boxed{x  =\n2}"), ("36.", r"\boxed {36}"),
    ("36", r"so \boxed{36}. The answer must stand in \boxed{}."), ("36", r"\boxed 36$."), ("x", r"$\boxed x$"),
    ("1" * 10_000, rf"\boxed{{{'1' * 10_000}.0}}"),
]  # fmt: skip
WRONG = [
    ("36", r"\boxed{37}"), ("36", r"\boxed{36} \boxed{1}"), ("36", r"\boxed{-36}"), ("3600", r"\boxed{36}"),
    ("0.5", r"\boxed{\frac{1}{2}}"), ("1234", r"\boxed{12,34}"), ("36", r"\boxed{36 apples}"), ("36", r"\boxed{$36}"),
    ("36", r"\boxed{.}"), ("36", r"\boxed{+}"), ("36", "\\boxed{\u0663\u0666}"), ("a", r"\boxed{A}"),
    ("36", r"\boxed{36.001}"), ("36", r"\boxed{30 6}"),
]  # fmt: skip
UNPARSABLE = [
    "", "36", "the answer is 36", r"\boxed{36", r"\boxed{\frac{1}{2}", r"\boxed{}", r"\boxed{ }", "boxed{36}",
    r"\boxed", r"\boxed \frac12", r"\boxed{36\}",
]  # fmt: skip


@pytest.mark.parametrize(("answer", "response"), RIGHT)
def test_right(answer, response):
    verdict = judge_one(answer, response)
    assert (verdict.correct, verdict.value, verdict.status) == (True, 1.0, "ok") and verdict.seconds > 0


@pytest.mark.parametrize(("answer", "response"), WRONG)
def test_wrong(answer, response):
    verdict = judge_one(answer, response)
    assert (verdict.correct, verdict.value, verdict.status) == (False, 0.0, "wrong")


@pytest.mark.parametrize("response", UNPARSABLE)
def test_unparsable(response):
    verdict = judge_one("36", response)
    assert (verdict.correct, verdict.value, verdict.status, verdict.extracted) == (False, 0.0, "unparsable", None)


@pytest.mark.parametrize("gold", [{}, {"answer": 36}, {"answer": None}, {"answer": " "}])
def test_bad_gold_is_no_score(gold):
    (verdict,) = BoxedJudge().judge([Example("gsm/test/1", (), gold)], [r"\boxed{36}"])
    assert (verdict.correct, verdict.value, verdict.status) == (False, None, "gold_error")


def test_order_is_kept_and_equal_pairs_are_judged_once():
    examples = [Example(f"gsm/test/{number}", (), {"answer": str(number % 2)}) for number in range(6)]
    verdicts = BoxedJudge().judge(examples, [r"\boxed{1}"] * 6)
    assert [verdict.correct for verdict in verdicts] == [False, True] * 3 and verdicts[0] is verdicts[2]


def test_uneven_batches_are_refused():
    with pytest.raises(ValueError, match="0 examples and 1 responses"):
        BoxedJudge().judge([], [""])


def test_extraction_takes_the_last_box_that_closes():
    assert extract_boxed(r"\boxed{1} \boxed{2} \boxed{3") == "2"
    assert extract_boxed(r"\boxed{\boxed{5}}") == "5"
    assert extract_boxed(r"} } \boxed{a{b}c} }") == "a{b}c"
    assert extract_boxed(r"\boxed{5} \boxed{ } \boxed{}") == "5"


@pytest.mark.parametrize(("text", "found"), [
    (r"\boxed{1} or \boxed{x=\boxed{2}} \boxed{} \boxed{3", ["1", "2"]), ("none", []),
    (r"so $\boxed2$.", ["2"]), (r"\boxed 5.", ["5"]), (r"\boxedx", []), (r"\boxed{4} and \boxed{\,}", ["4"]),
    (r"\boxed{4} \boxed{\quad ~ \ }", ["4"]), (r"\boxed{\,3}", [r"\,3"]),
])  # fmt: skip
def test_all_boxes_are_extracted_of_nested_ones_the_inner_and_none_of_blanks(text, found):
    assert extract_boxes(text) == found


@given(st.integers(-(10**20), 10**20), st.integers(0, 3))
def test_an_integer_is_equal_however_it_is_written(number, zeros):
    written = [f"{number}", f"{number:,}", f"{number}." + "0" * zeros, f" {number:+} ", f"{number:030}"]
    assert {normalise(text) for text in written} == {str(number)}


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=4),
    st.decimals(allow_nan=False, allow_infinity=False, places=4),
)
def test_decimals_are_equal_as_numbers(one, other):
    assert (normalise(f"{one:f}") == normalise(f"{other:f}")) == (one == other)


@given(st.text(r"\boxed{}$1 ,."))
def test_any_text_is_judged(text):
    assert judge_one("36", text).status in ("ok", "wrong", "unparsable")


@pytest.mark.parametrize(
    "text", [r"\boxed{" * 200_000, r"\boxed{" * 100_000 + "}" * 100_000, "{" * 10**6, "1," * 10**6]
)
def test_extraction_and_normalisation_are_linear(text):
    start = time.process_time()
    extract_boxed(text)
    normalise(text)
    assert time.process_time() - start < 5
