r"""The notation of an expression, which is all that some questions ask for.

"Write 3/20 as a decimal", "reduce", "rationalise", "factor": such a question states the value, so that only its
notation makes an answer. `notation` names the features of an expression's notation: a fraction, a root in a
denominator, brackets. An answer must not have features of the question's expression that the gold answer does not have.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

from lightningrl.judges.math.tree import Node
from lightningrl.judges.math.work import factors, has_letters, rational, terms, walk, whole

OF_ONE_NUMBER = frozenset({"a fraction not in lowest terms", "a root that can be simplified"})
"""Features that a question asks to remove only if it states one number: a sum of roots may result in one."""
_DIVISORS = range(2, 40)


@lru_cache(maxsize=4096)
def notation(node: Node) -> frozenset[str]:
    """Returns the features of a tree's notation."""
    inner = [part for part, _ in factors(node)] if node.kind in ("product", "quotient", "negative") else node.parts
    exponent = rational(node.parts[1]) if node.kind == "power" else None
    inner = node.parts[:1] if exponent is not None else inner
    found = set().union(*(notation(part) for part in inner))
    if node.kind == "number":
        found |= _number_notation(node)
    elif node.kind in ("product", "quotient"):
        found |= _product_notation(node)
    elif node.kind == "power":
        if exponent is not None and exponent.denominator > 1:
            found |= _root_notation(node.parts[0], exponent.denominator)
            found |= {"a root in a denominator"} if exponent < 0 else set()
        found |= {"brackets"} if node.parts[0].kind == "sum" else set()
    elif node.kind == "root":
        found |= _root_notation(node.parts[0], whole(node.parts[1]) or 2)
    elif node.kind == "sum" and any(_is_in_brackets(f) for term in terms(node) for f, _ in factors(term)):
        found.add("brackets in a sum")
    return frozenset(found)


def _number_notation(node: Node) -> set[str]:
    if node.name == "mixed":
        return {"a fraction"}
    return {"a decimal"} if node.name != "integer" and node.number.denominator > 1 else set()


def _product_notation(node: Node) -> set[str]:
    found = {"a fraction"} if node.kind == "quotient" else set()
    above = [factor for factor, inverted in factors(node) if not inverted]
    below = [factor for factor, inverted in factors(node) if inverted]
    if any(part.kind == "root" for factor in below for part in walk(factor)):
        found.add("a root in a denominator")
    if math.gcd(math.prod(map(_content, above)), math.prod(map(_content, below))) > 1:
        found.add("a fraction not in lowest terms")
    if any(factor.kind == "sum" and has_letters(factor) for factor in (*above, *below)):
        found.add("brackets")
    return found


def _root_notation(under: Node, degree: int) -> set[str]:
    found = {"a fraction under a root"} if under.kind == "quotient" else set()
    for factor, _ in factors(under):
        is_power = factor.kind == "power" and (rational(factor.parts[1]) or 0) >= degree
        if is_power or (factor.kind == "number" and _has_a_power(factor.number, degree)):
            found.add("a root that can be simplified")
    return found


def _is_in_brackets(factor: Node) -> bool:
    return factor.kind == "sum" or (factor.kind == "power" and factor.parts[0].kind == "sum")


def _content(node: Node) -> int:
    """Returns the greatest whole number that divides the expression as written."""
    if node.kind == "sum":
        return math.gcd(*(math.prod(_content(f) for f, _ in factors(term)) for term in node.parts)) or 1
    return abs(whole(node) or 1) if node.kind == "number" else 1


def _has_a_power(number: Fraction, degree: int) -> bool:
    return number.denominator == 1 and number != 0 and any(number % n**degree == 0 for n in _DIVISORS)


def is_plain(node: Node) -> bool:
    r"""Whether it is one number or fraction, possibly factored or under one root: `\frac{21}{2^2 \cdot 5^7}`."""
    inside = [part.kind for part in walk(node)]
    return inside.count("quotient") + inside.count("root") <= 2 and not {"sum", "function", "name"} & set(inside)


def is_one_term(node: Node) -> bool:
    r"""Whether it consists of numbers, letters, powers and roots, without a sum or a function: `\sqrt{5p^2}`."""
    return not {"sum", "function"} & {part.kind for part in walk(node)}


def has_common_number(node: Node) -> bool:
    """Whether a number divides all terms of one of its factors: `(2x-6)(x+3)`."""
    bases = [factor.parts[0] if factor.kind == "power" else factor for factor, _ in factors(node)]
    return any(base.kind == "sum" and _content(base) > 1 for base in bases)


def size(node: Node) -> int:
    """Returns the length of the expression: the number of its numbers, names, functions and roots."""
    return sum(part.kind in ("number", "name", "function", "root") for part in walk(node))


def brackets(node: Node) -> int:
    """Returns how far a product is factored: its number of factors with letters, with multiplicity."""
    count = 0
    for factor, inverted in factors(node):
        base, times = factor, 1
        if factor.kind == "power":
            base, times = factor.parts[0], abs(whole(factor.parts[1]) or 1)
        count += times if has_letters(base) and not inverted else 0
    return count
