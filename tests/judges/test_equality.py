"""When two plain values are the same answer."""

from collections import deque
from datetime import date, time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightningrl.judges.equality import same

nan = float("nan")
SAME = [
    (1, 1.0), (0.0, -0.0), (nan, nan), ([nan], [nan]), ({nan}, {float("nan")}), (2**53, float(2**53)), ({1}, {1.0}),
    ({1: "a"}, {1.0: "a"}), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ((1, (2,)), (1.0, (2,))), (None, None), ("é", "é"),
    (1, Decimal("1.0")), (0.5, Fraction(1, 2)), (1, 1 + 0j), ({Decimal(1)}, {1}), ({1}, frozenset([1])),
    ({1, 2}, {2: 0, 1: 0}.keys()), ({(0, 1)}, {0: 1}.items()), ({0: [1]}.items(), {0: [1]}.items()),
    (set(), {}.keys()), (date(2024, 2, 29), date(2024, 2, 29)), (range(0, 3, 2), range(0, 4, 2)),
]  # fmt: skip
DIFFERENT = [
    (True, 1), (1, True), (False, 0.0), ([1], [True]), ((1,), [1]), ({1}, {True}), ({(1,)}, {(True,)}),
    ({1: 2}, {True: 2}), ({1: True}, {1: 1}), ("1", 1), (None, 0),
    (frozenset([True]), frozenset([1])), (deque([True]), deque([1])),
    ({frozenset([True])}, {frozenset([1])}), (None, False), ([], ()), (set(), {}), ([1], [1, 2]),
    ([1], {1: 0}.keys()), ({(0, 1)}, {0: True}.items()), ({0: 1}, {0: 1}.items()), ({(0, 1)}, {0: [1]}.items()),
    ([0, 1, 2], range(3)), (True, Decimal(1)), (False, Fraction(0)), (date(2024, 1, 1), time(1)),
    (0.1, Decimal("0.1")), ({1}, {True: 0}.keys()),
    ({"a": 1}, {"b": 1}), ({"a": 1}, {"a": 1, "b": 1}), (nan, 0.0), (0.1 + 0.2, 0.3), (2**53 + 1, float(2**53)),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "found"), SAME)
def test_same(expected, found):
    assert same(expected, found) and same(found, expected)


@pytest.mark.parametrize(("expected", "found"), DIFFERENT)
def test_different(expected, found):
    assert not same(expected, found) and not same(found, expected)


def test_integers_of_any_length_are_compared():
    assert same(10**5000, 10**5000) and not same(10**5000, 10**5000 + 1)


SCALARS = st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text("ab", max_size=2)
VALUES = st.recursive(
    SCALARS,
    lambda i: st.lists(i, max_size=3) | st.lists(i, max_size=3).map(tuple) | st.sets(SCALARS, max_size=3)
    | st.dictionaries(SCALARS, i, max_size=3),
)  # fmt: skip


@given(VALUES, VALUES)
def test_symmetric_and_never_looser_than_python_but_for_nan(one, other):
    assert same(one, one) and same(one, other) == same(other, one)
    if same(one, other) and "nan" not in repr(one):
        assert one == other
