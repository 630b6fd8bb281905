"""When two plain values are the same answer.

Stricter than Python's `==`: a bool is never a number and a list is never a tuple, at any depth. Looser in one place:
NaN is the same answer as NaN. An int and a float are the same when their values are exactly equal (1 and 1.0); there
is no tolerance. The values come from `lightningrl.sandbox.codec`: exact types only, bounded in depth and size.
"""

from __future__ import annotations

from collections import deque
from typing import Any

_NUMBERS = (int, float)


def same(expected: Any, found: Any) -> bool:
    """Whether two plain values are the same answer.

    >>> same(1, 1.0), same(1, True), same([1], (1,)), same({"a": {2}}, {"a": {2}})
    (True, False, False, True)
    """
    if type(expected) in _NUMBERS and type(found) in _NUMBERS:
        return expected == found or (expected != expected and found != found)
    if type(expected) is not type(found):
        return False
    if type(expected) in (list, tuple, deque):
        return len(expected) == len(found) and all(map(same, expected, found))
    if type(expected) in (set, frozenset):
        return len(expected) == len(found) and set(map(_typed, expected)) == set(map(_typed, found))
    if type(expected) is dict:
        by_key = {_typed(key): value for key, value in found.items()}
        return len(expected) == len(found) and all(
            _typed(key) in by_key and same(value, by_key[_typed(key)]) for key, value in expected.items()
        )
    return bool(expected == found)


def _typed(key: Any) -> tuple[Any, ...]:
    """A hashable stand-in under which Python's equality is ours: (True,) and (1,) differ, NaN equals itself."""
    if type(key) in _NUMBERS:
        return ("number", key) if key == key else ("nan",)
    if type(key) is tuple:
        return ("tuple", *map(_typed, key))
    if type(key) is frozenset:
        return ("frozenset", frozenset(map(_typed, key)))
    return (type(key).__name__, key)
