r"""Whether an answer with the gold answer's value is finished: as simplified as the gold, and not copied.

The two sides have different roles: the gold answer shows how far the question wants things worked out. An answer is
finished if

- it leaves no kind of work that the gold does not leave too (`work.remaining_work`);
- it is not in the question, unless the gold is written in the same way;
- it is not in the question in another form that trivially cancels to the same (`reduced_form`);
- it is written like the gold (as reduced, as expanded or factored, decimal or fraction) if the question itself states
  the gold's value, and so asks only for another form. If the statement is one term and the gold has a root
  ("rationalise"), the answer must not have any unwanted notation that the gold does not have.

Without a question the task is unknown, and every form of a right value is right.
"""

from __future__ import annotations

import cmath
import math
import operator
import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from lightningrl.judges.math import forms
from lightningrl.judges.math.forms import notation, reduced_form
from lightningrl.judges.math.question import Question
from lightningrl.judges.math.tree import Node, read
from lightningrl.judges.math.work import canonical, names, rational, remaining_work

_MOVED = ("the letter", "a letter in a denominator", "a root", "a power of a product")
"""The kinds of work that rearranging an equation may add."""
_VALUES = frozenset(
    {"a root", "a letter in a denominator", "the letter \\pi", "the letter e", "the letter i", "a root of a root"}
)
"""The kinds of work that the value of a function or a power may contain."""


def unfinished(gold: str, found: str, question: Question) -> str | None:
    """Returns a readable reason why `found` is not an answer even if it has the gold's value; None: it is one.

    Both are expressions as `text.clean` returns them.
    """
    if not question.text or gold == found:
        return None
    tree, answer = read(gold), read(found)
    if answer is None or tree is None:  # an unreadable answer cannot be shown to be worked out
        return None if tree is None else "cannot be seen to be worked out"
    if remaining_work(answer) - _allowed(tree):
        return "is not worked out"
    if canonical(answer) == canonical(tree):
        return None
    reduced = reduced_form(answer)
    if canonical(answer) in question.nodes or (reduced in question.reduced_forms and reduced != reduced_form(tree)):
        return "is copied from the question"
    extra = notation(answer) - notation(tree)
    is_in_form = not (question.expands and extra & {"brackets", "brackets in a sum"})
    is_in_form &= not (question.factors and forms.brackets(answer) < forms.brackets(tree))
    is_in_form &= not (question.factors and forms.has_common_number(answer) and not forms.has_common_number(tree))
    if is_in_form and all(_is_another_way(tree, answer, extra, node) for node in _other_forms(question, tree)):
        return None
    return "is not in the form that the question asks for"


def is_solved(gold: Sequence[str], found: Sequence[str], question: Question) -> bool:
    """Whether an equation that is equivalent to the gold equation is an answer; each is a pair of sides."""
    if not question.text:
        return True
    trees = [tree for side in (*gold, *found) if (tree := read(side)) is not None]
    if len(trees) < 4:
        return True
    left, right, *answer = trees
    undone = frozenset().union(*map(remaining_work, answer)) - remaining_work(left) - remaining_work(right)
    if any(not kind.startswith(_MOVED) for kind in undone):
        return False
    sides, gold_sides = ({*map(canonical, pair)} for pair in (answer, (left, right)))
    if sides != gold_sides and sides in ({*map(canonical, equation)} for equation in question.equations):
        return False
    is_explicit = left.kind == "name" and canonical(left) not in sides
    return not (is_explicit and any(_same_ratio((left, right), equation) for equation in question.equations))


def _allowed(gold: Node) -> frozenset[str]:
    found = remaining_work(gold)
    if gold.kind == "number" and gold.name == "mixed":
        found |= {"like terms"}  # a mixed number is read as `1+\frac45`
    is_a_value = any(kind.startswith(("a function", "a power", "the letter e")) for kind in found)
    return found | _VALUES if is_a_value else found


def _is_another_way(gold: Node, answer: Node, extra: frozenset[str], node: Node) -> bool:
    """Whether the answer avoids the notation that the gold avoids in `node`, the question's form of their value.

    `extra` is the notation of the answer that the gold does not have.
    """
    if extra and forms.is_one_term(node) and "a root" in remaining_work(gold):
        return False
    has_functions = any(kind.startswith("a function") for kind in remaining_work(node))
    is_a_task = forms.is_plain(node) if rational(gold) is not None else not has_functions
    if is_a_task and extra & notation(node) - (frozenset() if forms.is_plain(node) else forms.OF_ONE_NUMBER):
        return False
    if rational(gold) is None and forms.size(answer) > 2 * forms.size(gold) + 2:
        return False
    return not {"brackets", "brackets in a sum"} & notation(gold) or forms.brackets(answer) >= forms.brackets(gold)


@lru_cache(maxsize=4096)
def _other_forms(question: Question, gold: Node) -> list[Node]:
    """Returns the question's expressions that have the gold's value in another form."""
    own = canonical(gold)
    return [node for text, node in question.nodes.items() if text != own and _same_value(gold, node)]


# Values are floating-point numbers at a few points. Only questions and gold answers are evaluated, never a model's
# answer; what cannot be computed has no value. Equal values do not make an answer right: they show that the question
# asks for another form of what it states.


def _root(radicand: complex, index: complex) -> complex:
    is_cube_root_of_negative = abs(index - 3) < 1e-12 and radicand.imag == 0 and radicand.real < 0
    return -((-radicand) ** (1 / 3)) if is_cube_root_of_negative else complex(radicand) ** (1 / index)


def _logarithm(*base_and_argument: complex) -> complex:
    base, argument = base_and_argument if len(base_and_argument) == 2 else (10, base_and_argument[0])
    return cmath.log(argument) / cmath.log(base)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "sum": lambda *terms: sum(terms), "negative": operator.neg, "product": lambda *factors: math.prod(factors),
    "quotient": operator.truediv, "power": operator.pow, "root": _root,
    "\\log": _logarithm, "\\lg": _logarithm, "\\ln": cmath.log, "\\exp": cmath.exp,
    "\\sin": cmath.sin, "\\cos": cmath.cos, "\\tan": cmath.tan, "\\cot": lambda x: 1 / cmath.tan(x),
    "\\sec": lambda x: 1 / cmath.cos(x), "\\csc": lambda x: 1 / cmath.sin(x),
    "\\arcsin": cmath.asin, "\\arccos": cmath.acos, "\\arctan": cmath.atan, "|": abs,
    "\\lfloor": lambda x: math.floor(x.real), "\\lceil": lambda x: math.ceil(x.real),
    "!": lambda x: math.gamma(x.real + 1), "\\binom": lambda n, k: math.comb(min(int(n.real), 300), int(k.real)),
}  # fmt: skip


def _same_value(one: Node, other: Node) -> bool:
    """Whether two trees have the same value at each of a few points; False if they have none."""
    return all(
        cmath.isfinite(a) and cmath.isfinite(b) and abs(a - b) <= 1e-9 * max(abs(a), abs(b), 1e-12)
        for a, b in _values(one, other) or [(math.nan, math.nan)]
    )


def _same_ratio(one: tuple[Node, Node], other: tuple[Node, Node]) -> bool:
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
    draw = random.Random(20260313)
    constants = {"\\pi": math.pi, "e": math.e, "i": 1j, "\\degree": math.pi / 180}
    return [
        constants | {letter: draw.uniform(0.3, 3.0) for letter in sorted(letters - constants.keys())} for _ in range(3)
    ]


def _value(node: Node, point: Mapping[str, complex]) -> complex:
    if node.kind == "number":
        return float(node.number)
    if node.kind == "name":
        return point[node.name]
    parts = [_value(part, point) for part in node.parts]
    return _OPERATIONS[node.name](*map(complex, parts)) if node.kind == "function" else _OPERATIONS[node.kind](*parts)
