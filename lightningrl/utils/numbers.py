"""Numbers that are keys, as thresholds are: text by which they are told apart, and whether two are the same."""

from __future__ import annotations

import math


def shortest(number: float) -> str:
    """Returns a number in the fewest digits that no other number has.

    >>> [shortest(number) for number in (0.9, 0.9000001, 1.0, 1e-05)]
    ['0.9', '0.9000001', '1', '1e-05']
    """
    return text if float(text := f"{number:g}") == number else repr(float(number))


def is_same(number: float, other: float) -> bool:
    """Returns whether two numbers differ by rounding alone, of their last bits, as after arithmetic or in a file.

    >>> is_same(0.1 + 0.2, 0.3), is_same(0.9, 0.900000001)
    (True, False)
    """
    return math.isclose(number, other, rel_tol=1e-12)
