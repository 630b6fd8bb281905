"""code-mini's problems as data: what a function computes, how it is described, and which inputs distinguish it.

A specification is a source (a value computed from the arguments) and up to two operations on it. `evaluate` computes
its meaning directly from this data and never sees program text; `code_mini` writes the programs.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightningrl.benchmarks.generated import KeyedRandom

MAX_TERM = 99
"""The largest constant that is added or subtracted; the smallest is 1."""
MAX_LIMIT = 20
"""The largest constant in a comparison; the smallest is 1."""
MAX_FACTOR = 9
"""The largest factor; doubling and tripling have words of their own."""


@dataclass(frozen=True, slots=True)
class Op:
    """An operation on an integer: its meaning and its words.

    >>> OPS["add"].apply(4, 3), OPS["add"].words.format(k=3, it="x")
    (7, 'add 3 to x')
    """

    kind: str
    """A specification has at most one operation of each kind."""
    apply: Callable[[int, int], int]
    words: str
    """A template with `{it}` for the operand and, where there is a constant, `{k}`."""
    constants: tuple[int, int]
    """The range of k, both ends included; (0, 0) where there is no constant."""


OPS: dict[str, Op] = {
    "add": Op("term", operator.add, "add {k} to {it}", (1, MAX_TERM)),
    "subtract": Op("term", operator.sub, "subtract {k} from {it}", (1, MAX_TERM)),
    "multiply": Op("factor", operator.mul, "multiply {it} by {k}", (4, MAX_FACTOR)),
    "double": Op("factor", lambda v, _: 2 * v, "double {it}", (0, 0)),
    "triple": Op("factor", lambda v, _: 3 * v, "triple {it}", (0, 0)),
    "square": Op("square", lambda v, _: v * v, "square {it}", (0, 0)),
    "negate": Op("sign", lambda v, _: -v, "negate {it}", (0, 0)),
}
DRAWN_OPS = (*OPS, "add", "add", "subtract", "subtract", "multiply", "multiply")
"""The operations with a constant are drawn three times as often: most of the distinct problems have one."""


def op_words(op: str, k: int | str, it: str) -> str:
    """Returns the operation in words, applied to "x", "each" or "it"; "add 3 to it" becomes "add 3"."""
    return OPS[op].words.format(k=k, it=it).removesuffix(" to it").removesuffix(" from it")


PREDICATES: dict[str, tuple[str, Callable[[int, int], bool]]] = {
    "gt": ("greater than {k}", operator.gt),
    "lt": ("less than {k}", operator.lt),
    "ge": ("at least {k}", operator.ge),
    "le": ("at most {k}", operator.le),
    "eq": ("equal to {k}", operator.eq),
    "even": ("that are even", lambda v, _: v % 2 == 0),
    "odd": ("that are odd", lambda v, _: v % 2 == 1),
}

SOURCES: dict[str, tuple[str, str, Callable[..., int]]] = {
    "x": ("x", "x", lambda x: x),
    "larger": ("a, b", "the larger of a and b", lambda a, b: max(a, b)),
    "smaller": ("a, b", "the smaller of a and b", lambda a, b: min(a, b)),
    "plus": ("a, b", "the sum of a and b", lambda a, b: a + b),
    "minus": ("a, b", "a minus b", lambda a, b: a - b),
    "times": ("a, b", "the product of a and b", lambda a, b: a * b),
    "distance": ("a, b", "the distance of a and b", lambda a, b: abs(a - b)),
    "sum": ("items", "the sum of the items", lambda items: sum(items)),
    "length": ("items", "the number of items", lambda items: len(items)),
    "largest": ("items", "the largest item", lambda items: sorted(items)[-1]),
    "smallest": ("items", "the smallest item", lambda items: sorted(items)[0]),
    "first": ("items", "the first item", lambda items: items[0]),
    "last": ("items", "the last item", lambda items: items[-1]),
    "ends": ("items", "the first item plus the last", lambda items: items[0] + items[-1]),
}
"""Maps a name to (parameters, words, meaning). Filtered sources ("count gt", "keep even") are built by `draw_spec`."""

FILTERED = {
    "count": "the number of items {p}",
    "total": "the sum of the items {p}",
    "keep": "the items {p}",
}
NEEDS_AN_ITEM = frozenset({"largest", "smallest", "first", "last", "ends"})


@dataclass(frozen=True, slots=True)
class Spec:
    """The specification of a function f.

    >>> Spec("x", 0, (("double", 0), ("add", 3))).description
    'Write f(x): double x, then add 3.'
    >>> evaluate(Spec("keep gt", 5, (("negate", 0),)), [[4, 6, 9]])
    [-6, -9]
    """

    source: str
    """A key of SOURCES, or a key of FILTERED and a key of PREDICATES separated by a blank."""
    k: int
    """The constant of the predicate; 0 where it has none."""
    ops: tuple[tuple[str, int], ...] = ()
    """Pairs (operation, its constant or 0), applied in this order; to each item under "keep"."""

    @property
    def parameters(self) -> str:
        return SOURCES[self.source][0] if self.source in SOURCES else "items"

    @property
    def description(self) -> str:
        """The problem in words."""
        it = "each" if self.source.startswith("keep") else "it"
        steps = [op_words(op, k, it) for op, k in self.ops]
        if self.source == "x":
            head, steps = op_words(*self.ops[0], "x"), steps[1:]
        elif self.source in SOURCES:
            head = SOURCES[self.source][1]
        else:
            reducer, predicate = self.source.split()
            head = FILTERED[reducer].format(p=PREDICATES[predicate][0].format(k=self.k))
        steps[-1:] = [f"then {step}" for step in steps[-1:]]
        return f"Write f({self.parameters}): {', '.join([head, *steps])}."


def evaluate(spec: Spec, args: list[Any]) -> Any:
    """Returns f(*args) from the specification alone: this oracle computes the hidden tests."""

    def finish(value: int) -> int:
        for op, k in spec.ops:
            value = OPS[op].apply(value, k)
        return value

    if spec.source in SOURCES:
        return finish(SOURCES[spec.source][2](*args))
    reducer, predicate = spec.source.split()
    kept = [item for item in args[0] if PREDICATES[predicate][1](item, spec.k)]
    if reducer == "keep":
        return [finish(item) for item in kept]
    return finish(len(kept) if reducer == "count" else sum(kept))


def draw_spec(rng: KeyedRandom) -> Spec:
    """Returns a random specification: a chain on x, two arguments, a list value or a filter, equally likely."""
    family = rng.choice(("x", "a, b", "items", "filtered"))
    if family == "x":
        return Spec("x", 0, _draw_ops(rng, 2))
    if family == "filtered":
        reducer, predicate = rng.choice(tuple(FILTERED)), rng.choice(tuple(PREDICATES))
        k = 0 if predicate in ("even", "odd") else rng.integer(1, MAX_LIMIT)
        n_ops = 1 if reducer == "keep" else rng.integer(0, 1)
        return Spec(f"{reducer} {predicate}", k, _draw_ops(rng, n_ops))
    source = rng.choice([name for name, (parameters, *_) in SOURCES.items() if parameters == family])
    return Spec(source, 0, _draw_ops(rng, 1))


def _draw_ops(rng: KeyedRandom, n_ops: int) -> tuple[tuple[str, int], ...]:
    ops: list[tuple[str, int]] = []
    while len(ops) < n_ops:
        name = rng.choice(DRAWN_OPS)
        if OPS[name].kind not in {OPS[other].kind for other, _ in ops}:
            ops.append((name, rng.integer(*OPS[name].constants)))
    return tuple(ops)


_PROBES: dict[str, list[list[Any]]] = {
    "x": [[v] for v in (-17, -3, 0, 1, 2, 8, 25)],
    "a, b": [[a, b] for a, b in ((0, 0), (3, 8), (8, 3), (-4, 6), (5, -9), (-7, -2), (11, 30))],
    "items": [
        # v appears v % 5 times in one list and v // 5 times in the other, so that no two thresholds give equal counts
        [[v for v in range(26) for _ in range(v % 5)]],
        [[v for v in range(26) for _ in range(v // 5)]],
        *([[21, 2, 2, 30, -8, 7]], [[4]], [[-5]], [[9, 9, 1]], [[*range(12, -7, -3)]]),
    ],
}


def behaviour(spec: Spec) -> str:
    """Returns a hash of the values on fixed inputs: equal for specifications of the same function.

    "double x, then add 6" and "add 3 to x, then double it" are one problem and may not be in two splits.
    """
    values = [evaluate(spec, args) for args in _PROBES[spec.parameters]]
    return hashlib.sha256(f"{spec.parameters}|{values}".encode()).hexdigest()[:16]


def draw_inputs(spec: Spec, rng: KeyedRandom) -> list[list[Any]]:
    """Returns five or six argument lists of varying sign, size, order and length, with the predicate's boundary."""
    small, large = rng.integer(2, 9), rng.integer(11, 30)
    if spec.parameters == "x":
        return [[v] for v in rng.shuffled((0, small, large, -rng.integer(1, 9), -rng.integer(11, 30)))]
    if spec.parameters == "a, b":
        mixed = [[-small, small + 1], [-large, -small], [rng.integer(1, 9), -large]]
        return rng.shuffled([[small, large], [large + 1, small], *mixed])
    k = spec.k or rng.integer(3, 12)
    boundary = [k - 1, k - 1, k - 1, k, k, k + 1, *([k + 1] * 3), 0 - k]
    middle = [rng.integer(-9, 19) for _ in range(3)]
    lists = [
        rng.shuffled(boundary),
        [small, large + 1, *middle, -large, small + 3],
        [large, *middle],
        [-small, -large, -1],
        [k],
    ]
    if spec.source not in NEEDS_AN_ITEM:
        lists.append([])
    return [[items] for items in rng.shuffled(lists)]
