r"""What an expression is but for trivial detours, and how it is written: two views of its tree.

`reduced_form` is a text without parts that cancel: `\frac{2A}{2}`, `(-1)(-1)A`, `\frac{A^2}{A}` are `A`. The judge
looks an answer up in the question by it, so that a detour does not turn a copy into an answer. Beyond `work.canonical`
it removes numeric factors that multiply to 1, equal factors above and below, and powers and roots that cancel, and
writes `-(b-a)` as `a-b` and `A^{-1}` as a quotient. An expression and the gold answer may have the same reduced form.

`notation` names the features that questions ask for ("write 3/20 as a decimal", "rationalise", "factor"): a fraction, a
root in a denominator, brackets. Such a question states the value, so that only the notation makes an answer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from lightningrl.judges.math.tree import Node
from lightningrl.judges.math.work import canonical, factors, has_letters, holding, rational, terms, walk, whole

OF_ONE_NUMBER = frozenset({"a fraction not in lowest terms", "a root that can be simplified"})
"""Features that a question asks to remove only if it states one number: a sum of roots may result in one."""


def reduced_form(node: Node) -> str:
    """Returns the form; expressions of one form have one value wherever all their parts have positive values."""
    sign, text = _signed(node)
    return f"-{text}" if sign < 0 else text


@lru_cache(maxsize=4096)
def _signed(node: Node) -> tuple[int, str]:
    """Returns the sign of the form and the text after the sign."""
    if node.kind == "sum":
        return _sum_form(node)
    if node.kind == "function":
        return 1, f"{node.name}[{','.join(map(reduced_form, node.parts))}]"
    if node.kind in ("number", "name"):
        return 1, canonical(node)
    return _product_form(node)


def _sum_form(node: Node) -> tuple[int, str]:
    """Returns the terms in the order of their texts; the sign of the first one is the sum's."""
    parts = sorted((text, sign) for sign, text in map(_signed, terms(node)) if text != "0")
    if len(parts) < 2:
        return (parts[0][1], parts[0][0]) if parts else (1, "0")
    first = parts[0][1]
    return first, f"({''.join(('+' if sign == first else '-') + text for text, sign in parts)})"


def _product_form(node: Node) -> tuple[int, str]:
    sign, is_zero = 1, False
    numbers, powers = Counter[Fraction](), Counter[str]()  # how often each divides or, if positive, multiplies
    for base, exponent, inverted in _flat(node, False):
        if base.kind == "number" and exponent == 1 and base.name != "mixed":
            sign = -sign if base.number < 0 else sign
            is_zero |= base.number == 0 and not inverted
            numbers[abs(base.number)] += -1 if inverted else 1
            continue
        own, text = _signed(base)
        text = f"({text})" if base.kind in ("product", "quotient", "negative") else text
        if own < 0 and exponent.denominator == 1:
            sign = -sign if exponent.numerator % 2 else sign
        elif own < 0:
            text = f"-{text}"
        powers[text] += -exponent if inverted else exponent  # pyright: ignore[reportArgumentType]
    if math.prod((+numbers).elements()) == math.prod((-numbers).elements()):
        numbers.clear()
    texts = []
    for before, values, counts in (("", +numbers, +powers), ("/", -numbers, -powers)):
        texts += [f"{before}{value}" for value in values.elements() if value != 1]
        texts += [f"{before}{text}" if n == 1 else f"{before}{text}^{n}" for text, n in counts.items()]
    return sign, "0" if is_zero else "*".join(sorted(texts)) or "1"


def _flat(node: Node, inverted: bool) -> Iterator[tuple[Node, Fraction, bool]]:
    """Yields base, exponent and whether they divide for all factors, those of products to the power 1 or -1 too."""
    for factor, divides in factors(node, inverted):
        base, exponent = _as_power(factor)
        if abs(exponent) == 1 and base.kind in ("product", "quotient", "negative"):
            yield from _flat(base, divides != (exponent < 0))
        else:
            yield base, exponent, divides


def _as_power(node: Node) -> tuple[Node, Fraction]:
    """Returns the base and its rational exponent, with nested powers and roots combined."""
    exponent = Fraction(1)
    while node.kind in ("power", "root"):
        by = rational(node.parts[1]) if node.kind == "power" else Fraction(1, whole(node.parts[1]) or 1)
        if not by or (node.kind == "root" and by == 1):
            break
        node, exponent = node.parts[0], exponent * by
    if node.kind in ("power", "root"):
        inside = ",".join(map(reduced_form, node.parts))
        return Node("name", name=f"{node.kind}[{inside}]"), exponent
    return node, exponent


@lru_cache(maxsize=4096)
def notation(node: Node) -> frozenset[str]:
    """Returns the features of a tree's notation."""
    inner, found = node.parts, set[str]()
    if node.kind == "number":
        is_decimal = node.name not in ("integer", "mixed") and node.number.denominator > 1
        found = holding(a_fraction=node.name == "mixed", a_decimal=is_decimal)
    elif node.kind in ("product", "quotient", "negative"):
        inner = [part for part, _ in factors(node)]
        found = _product_notation(node) if node.kind != "negative" else found
    elif node.kind == "power":
        exponent = rational(node.parts[1])
        inner = node.parts if exponent is None else node.parts[:1]
        found = holding(brackets=node.parts[0].kind == "sum")
        if exponent is not None and exponent.denominator > 1:
            found |= _root_notation(node.parts[0], exponent.denominator) | holding(a_root_in_a_denominator=exponent < 0)
    elif node.kind == "root":
        found = _root_notation(node.parts[0], whole(node.parts[1]) or 2)
    elif node.kind == "sum":
        parts = [factor for term in terms(node) for factor, _ in factors(term)]
        found = holding(brackets_in_a_sum=any(_base(factor).kind == "sum" for factor in parts))
    return frozenset(found.union(*map(notation, inner)))


def _product_notation(node: Node) -> set[str]:
    above, below = ([f for f, inverted in factors(node) if inverted is side] for side in (False, True))
    return holding(
        a_fraction=node.kind == "quotient",
        a_root_in_a_denominator=any(part.kind == "root" for factor in below for part in walk(factor)),
        a_fraction_not_in_lowest_terms=math.gcd(math.prod(map(_content, above)), math.prod(map(_content, below))) > 1,
        brackets=any(factor.kind == "sum" and has_letters(factor) for factor in above + below),
    )


def _root_notation(under: Node, degree: int) -> set[str]:
    def comes_out(factor: Node) -> bool:
        if factor.kind == "power":
            return (rational(factor.parts[1]) or 0) >= degree
        n = factor.number.numerator if factor.kind == "number" and factor.number.denominator == 1 else 0
        return n != 0 and any(n % divisor**degree == 0 for divisor in range(2, 40))

    return holding(
        a_fraction_under_a_root=under.kind == "quotient",
        a_root_that_can_be_simplified=any(comes_out(factor) for factor, _ in factors(under)),
    )


def _content(node: Node) -> int:
    """Returns the greatest whole number that divides the expression as written."""
    if node.kind == "sum":
        return math.gcd(*(math.prod(_content(f) for f, _ in factors(term)) for term in node.parts)) or 1
    return abs(whole(node) or 1) if node.kind == "number" else 1


def _base(factor: Node) -> Node:
    return factor.parts[0] if factor.kind == "power" else factor


def is_plain(node: Node) -> bool:
    r"""Whether it is one number or fraction, possibly factored or under one root: `\frac{21}{2^2 \cdot 5^7}`."""
    inside = [part.kind for part in walk(node)]
    return inside.count("quotient") + inside.count("root") <= 2 and not {"sum", "function", "name"} & set(inside)


def is_one_term(node: Node) -> bool:
    r"""Whether it consists of numbers, letters, powers and roots, without a sum or a function: `\sqrt{5p^2}`."""
    return not {"sum", "function"} & {part.kind for part in walk(node)}


def has_common_number(node: Node) -> bool:
    """Whether a number divides all terms of one of its factors: `(2x-6)(x+3)`."""
    return any(_base(factor).kind == "sum" and _content(_base(factor)) > 1 for factor, _ in factors(node))


def size(node: Node) -> int:
    """Returns the length of the expression: the number of its numbers, names, functions and roots."""
    return sum(part.kind in ("number", "name", "function", "root") for part in walk(node))


def brackets(node: Node) -> int:
    """Returns how far a product is factored: its number of factors with letters, with multiplicity."""
    above = [factor for factor, inverted in factors(node) if not inverted and has_letters(_base(factor))]
    return sum(abs(whole(factor.parts[1]) or 1) if factor.kind == "power" else 1 for factor in above)
