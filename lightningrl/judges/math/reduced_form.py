r"""The reduced form of an expression, without parts that cancel: `\frac{2A}{2}`, `(-1)(-1)A`, `\frac{A^2}{A}` are `A`.

The judge looks an answer up in the question by this text, so that a trivial detour does not turn a copy into an answer.
Beyond `work.canonical` it removes numeric factors that multiply to 1, equal factors above and below, and powers and
roots that cancel, and writes `-(b-a)` as `a-b` and `A^{-1}` as a quotient. It does not decide what is right: an
expression and the gold answer may have the same reduced form.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from lightningrl.judges.math.tree import Node
from lightningrl.judges.math.work import canonical, factors, rational, terms, whole


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
    sign = 1
    numbers: tuple[list[Fraction], list[Fraction]] = [], []
    powers: tuple[dict[str, Fraction], dict[str, Fraction]] = {}, {}
    for base, exponent, inverted in _flat(node, False):
        if base.kind == "number" and exponent == 1 and base.name != "mixed":
            sign = -sign if base.number < 0 else sign
            numbers[inverted].append(abs(base.number))
            continue
        own, text = _signed(base)
        text = f"({text})" if base.kind in ("product", "quotient", "negative") else text
        if own < 0 and exponent.denominator == 1:
            sign = -sign if exponent.numerator % 2 else sign
        elif own < 0:
            text = f"-{text}"
        side = powers[inverted != (exponent < 0)]
        side[text] = side.get(text, Fraction(0)) + abs(exponent)
    above, below = powers
    texts = [*_written(above, below, ""), *_written(below, above, "/"), *_coefficient(*numbers)]
    return sign, "0" if 0 in numbers[0] else "*".join(sorted(texts)) or "1"


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


def _written(powers: dict[str, Fraction], others: dict[str, Fraction], before: str) -> list[str]:
    """Returns the remaining powers on one side of a fraction bar, each with a prefix for its side."""
    left = {text: exponent - others.get(text, 0) for text, exponent in powers.items()}
    return [before + (text if n == 1 else f"{text}^{n}") for text, n in left.items() if n > 0]


def _coefficient(above: list[Fraction], below: list[Fraction]) -> list[str]:
    """Returns the numeric factors that are not both above and below, and none if they multiply to 1."""
    if math.prod(above) == math.prod(below):
        return []
    left = Counter(above) - Counter(below), Counter(below) - Counter(above)
    found = [(str(n), before) for numbers, before in zip(left, ("", "/"), strict=True) for n in numbers.elements()]
    return [before + text for text, before in found if text != "1"]
