"""Equality of two plain values as answers.

It is Python's `==` with two exceptions, at any depth: a bool never equals a number, and NaN equals NaN. So numbers of
any kind are equal when their values are exactly equal (1, 1.0 and Decimal("1.0"); there is no tolerance), sets and the
keys and items of dicts are compared as sets, and a list never equals a tuple, a range, or a dict's values. The values
come from `lightningrl.sandbox.codec`: exact types only, bounded in depth and size.
"""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

_NUMBERS = (int, float, complex, Decimal, Fraction)
_ITEMS = type({}.items())
_SETS = (set, frozenset, type({}.keys()), _ITEMS)


def same(expected: Any, found: Any) -> bool:
    """Whether two plain values are the same answer.

    >>> same(1, 1.0), same(1, True), same([1], (1,)), same({"a": {2}}, {"a": {2}}), same({1}, {1: 0}.keys())
    (True, False, False, True, True)
    """
    if type(expected) in _NUMBERS and type(found) in _NUMBERS:
        return bool(expected == found) or (expected != expected and found != found)
    if type(expected) is _ITEMS and type(found) is _ITEMS:
        return same(dict(expected), dict(found))
    if type(expected) in _SETS and type(found) in _SETS:
        return len(expected) == len(found) and _members(expected) == _members(found)
    if type(expected) is not type(found):
        return False
    if type(expected) in (list, tuple, deque):
        return len(expected) == len(found) and all(map(same, expected, found))
    if type(expected) is dict:
        by_key = {_typed(key): value for key, value in found.items()}
        return len(expected) == len(found) and all(
            _typed(key) in by_key and same(value, by_key[_typed(key)]) for key, value in expected.items()
        )
    return bool(expected == found)


def _members(values: Any) -> set[tuple[Any, ...]] | None:
    """Returns the set of the values' stand-ins; None if one of them (a value of a dict's items) is unhashable."""
    try:
        return {_typed(value) for value in values}
    except TypeError:
        return None


def _typed(key: Any) -> tuple[Any, ...]:
    """Returns a hashable stand-in with our equality: (True,) and (1,) differ, NaN equals itself."""
    if type(key) in _NUMBERS:
        return ("number", key) if key == key else ("nan",)
    if type(key) is tuple:
        return ("tuple", *map(_typed, key))
    if type(key) is frozenset:
        return ("frozenset", frozenset(map(_typed, key)))
    return (type(key).__name__, key)
