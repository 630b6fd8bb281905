"""Numbers as text by which they are told apart."""

from __future__ import annotations


def shortest(number: float) -> str:
    """Returns a number in the fewest digits that no other number has.

    >>> [shortest(number) for number in (0.9, 0.9000001, 1.0, 1e-05)]
    ['0.9', '0.9000001', '1', '1e-05']
    """
    return text if float(text := f"{number:g}") == number else repr(float(number))
