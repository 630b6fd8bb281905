"""The floating-point value of an expression's tree at a point, which tells whether a question states the gold's value.

Only questions and gold answers are evaluated here, never a model's answer; what cannot be computed has no value. Equal
values do not make an answer right: they show that the question asks for another form of what it states.
"""

from __future__ import annotations

import cmath
import math
import operator
import random
from collections.abc import Callable, Mapping
from functools import lru_cache

from lightningrl.judges.math.tree import Node
from lightningrl.judges.math.work import names

_SEED = 20260313
_POINTS = 3


def _root(radicand: complex, index: complex) -> complex:
    is_cube_root_of_negative = abs(index - 3) < 1e-12 and radicand.imag == 0 and radicand.real < 0
    return -((-radicand) ** (1 / 3)) if is_cube_root_of_negative else complex(radicand) ** (1 / index)


def _logarithm(*base_and_argument: complex) -> complex:
    base, argument = base_and_argument if len(base_and_argument) == 2 else (10, base_and_argument[0])
    return cmath.log(argument) / cmath.log(base)


_OPERATIONS: dict[str, Callable[..., complex]] = {
    "sum": lambda *terms: sum(terms), "negative": operator.neg, "product": lambda *factors: math.prod(factors),
    "quotient": operator.truediv, "power": operator.pow, "root": _root,
    "\\log": _logarithm, "\\lg": _logarithm, "\\ln": cmath.log, "\\exp": cmath.exp,
    "\\sin": cmath.sin, "\\cos": cmath.cos, "\\tan": cmath.tan, "\\cot": lambda x: 1 / cmath.tan(x),
    "\\sec": lambda x: 1 / cmath.cos(x), "\\csc": lambda x: 1 / cmath.sin(x),
    "\\arcsin": cmath.asin, "\\arccos": cmath.acos, "\\arctan": cmath.atan, "|": abs,
    "\\lfloor": lambda x: math.floor(x.real), "\\lceil": lambda x: math.ceil(x.real),
    "!": lambda x: math.gamma(x.real + 1), "\\binom": lambda n, k: math.comb(min(int(n.real), 300), int(k.real)),
}  # fmt: skip


def same_value(one: Node, other: Node) -> bool:
    """Whether two trees have the same value at each of a few points; False if they have none."""
    return all(
        cmath.isfinite(a) and cmath.isfinite(b) and abs(a - b) <= 1e-9 * max(abs(a), abs(b), 1e-12)
        for a, b in _values(one, other) or [(math.nan, math.nan)]
    )


def same_ratio(one: tuple[Node, Node], other: tuple[Node, Node]) -> bool:
    """Whether the differences of the sides of two equations are equal up to one constant factor."""
    try:
        ratios = [(a - b) / (c - d) for a, b, c, d in _values(*one, *other) or ()]
    except ArithmeticError:
        return False
    return any(ratios[:1]) and all(abs(ratio - ratios[0]) <= 1e-9 * abs(ratios[0]) for ratio in ratios)


def _values(*trees: Node) -> list[tuple[complex, ...]] | None:
    """Returns the trees' values at each point; None if one of them has none."""
    try:
        points = _points(frozenset().union(*map(names, trees)))
        return [tuple(complex(_value(tree, point)) for tree in trees) for point in points]
    except (ArithmeticError, ValueError, TypeError, KeyError):
        return None


@lru_cache(maxsize=256)
def _points(letters: frozenset[str]) -> list[Mapping[str, complex]]:
    """Returns positive points, where roots and logarithms of letters have their usual meaning."""
    draw = random.Random(_SEED)
    constants = {"\\pi": math.pi, "e": math.e, "i": 1j, "\\degree": math.pi / 180}
    return [
        constants | {letter: draw.uniform(0.3, 3.0) for letter in sorted(letters - constants.keys())}
        for _ in range(_POINTS)
    ]


def _value(node: Node, point: Mapping[str, complex]) -> complex:
    if node.kind == "number":
        return float(node.number)
    if node.kind == "name":
        return point[node.name]
    parts = [_value(part, point) for part in node.parts]
    return _OPERATIONS[node.name](*map(complex, parts)) if node.kind == "function" else _OPERATIONS[node.kind](*parts)
