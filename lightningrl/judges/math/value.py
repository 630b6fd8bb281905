"""The floating-point value of an expression's tree at a point, which tells whether a question states the gold's value.

Only questions and gold answers are evaluated here, never a model's answer; what cannot be computed has no value. Equal
values do not make an answer right: they show that the question asks for another form of what it states.
"""

from __future__ import annotations

import cmath
import math
import random
from collections.abc import Callable, Mapping
from functools import lru_cache

from lightningrl.judges.math.tree import Node
from lightningrl.judges.math.work import names

_SEED = 20260313
_POINTS = 3
_FUNCTIONS: dict[str, Callable[..., complex]] = {
    "\\sin": cmath.sin, "\\cos": cmath.cos, "\\tan": cmath.tan, "\\ln": cmath.log, "\\exp": cmath.exp,
    "\\cot": lambda x: 1 / cmath.tan(x), "\\sec": lambda x: 1 / cmath.cos(x), "\\csc": lambda x: 1 / cmath.sin(x),
    "\\arcsin": cmath.asin, "\\arccos": cmath.acos, "\\arctan": cmath.atan, "|": lambda x: abs(x),
    "\\lfloor": lambda x: math.floor(x.real), "\\lceil": lambda x: math.ceil(x.real),
    "!": lambda x: math.gamma(x.real + 1), "\\binom": lambda n, k: math.comb(min(int(n.real), 300), int(k.real)),
}  # fmt: skip


def same_value(one: Node, other: Node) -> bool:
    """Whether two trees have the same value at each of a few points; False if they have none."""
    letters = names(one) | names(other)
    for point in _points(letters):
        try:
            a, b = complex(value(one, point)), complex(value(other, point))
        except (ArithmeticError, ValueError, TypeError, KeyError):
            return False
        if not (cmath.isfinite(a) and cmath.isfinite(b)) or abs(a - b) > 1e-9 * max(abs(a), abs(b), 1e-12):
            return False
    return True


def same_ratio(one: tuple[Node, Node], other: tuple[Node, Node]) -> bool:
    """Whether the differences of the sides of two equations are equal up to one constant factor."""
    ratios = []
    for point in _points(frozenset().union(*map(names, (*one, *other)))):
        try:
            (a, b), (c, d) = (tuple(complex(value(side, point)) for side in sides) for sides in (one, other))
            ratios.append((a - b) / (c - d))
        except (ArithmeticError, ValueError, TypeError, KeyError):
            return False
    return bool(ratios[0]) and all(abs(ratio - ratios[0]) <= 1e-9 * abs(ratios[0]) for ratio in ratios)


@lru_cache(maxsize=256)
def _points(letters: frozenset[str]) -> list[Mapping[str, complex]]:
    """Returns positive points, where roots and logarithms of letters have their usual meaning."""
    draw = random.Random(_SEED)
    constants = {"\\pi": math.pi, "e": math.e, "i": 1j, "\\degree": math.pi / 180}
    return [
        constants | {letter: draw.uniform(0.3, 3.0) for letter in sorted(letters - constants.keys())}
        for _ in range(_POINTS)
    ]


def value(node: Node, point: Mapping[str, complex]) -> complex:
    """Returns the value. Raises ArithmeticError, ValueError, TypeError or KeyError if there is none."""
    if node.kind == "number":
        return float(node.number)
    if node.kind == "name":
        return point[node.name]
    parts = [value(part, point) for part in node.parts]
    if node.kind == "sum":
        return sum(parts)
    if node.kind == "negative":
        return -parts[0]
    if node.kind == "product":
        return math.prod(parts)
    if node.kind == "quotient":
        return parts[0] / parts[1]
    if node.kind == "power":
        return parts[0] ** parts[1]
    if node.kind == "root":
        if abs(parts[1] - 3) < 1e-12 and complex(parts[0]).imag == 0 and complex(parts[0]).real < 0:
            return -((-parts[0]) ** (1 / 3))
        return complex(parts[0]) ** (1 / parts[1])
    if node.name in ("\\log", "\\lg"):
        base, argument = (parts[0], parts[1]) if len(parts) == 2 else (10, parts[0])
        return cmath.log(argument) / cmath.log(base)
    return _FUNCTIONS[node.name](*(complex(part) for part in parts))
