r"""An expression's text without what takes itself back: `\frac{2A}{2}`, `(-1)(-1)A`, `\frac{A^2}{A}` are `A`.

An answer is looked up in the question by this text, so that no trivial detour makes a copy an answer. Beyond
`work.canonical` it leaves out numbers among the factors that multiply to 1, equal factors above and below, powers and
roots that undo each other, and writes `-(b-a)` as `a-b` and `A^{-1}` as a quotient. It says nothing of what is right:
an expression and the gold answer may well have the same text.
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
    """The text; expressions of one text have one value, wherever every part of them has a value and is positive."""
    sign, text = _signed(node)
    return f"-{text}" if sign < 0 else text


@lru_cache(maxsize=4096)
def _signed(node: Node) -> tuple[int, str]:
    """The sign before it and the text behind that sign."""
    if node.kind == "sum":
        return _sum_form(node)
    if node.kind == "function":
        return 1, f"{node.name}[{','.join(map(reduced_form, node.parts))}]"
    if node.kind in ("number", "name"):
        return 1, canonical(node)
    return _product_form(node)


def _sum_form(node: Node) -> tuple[int, str]:
    """Terms in the order of their texts; the first one's sign is the sum's."""
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
    """The factors as base and exponent, and whether they divide; products to the power 1 or -1 taken apart."""
    for factor, divides in factors(node, inverted):
        base, exponent = _as_power(factor)
        if abs(exponent) == 1 and base.kind in ("product", "quotient", "negative"):
            yield from _flat(base, divides != (exponent < 0))
        else:
            yield base, exponent, divides


def _as_power(node: Node) -> tuple[Node, Fraction]:
    """What is raised to which rational power, powers and roots of one another put together."""
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
    """The powers that are left of one side of a fraction bar, each with a sign for its side."""
    left = {text: exponent - others.get(text, 0) for text, exponent in powers.items()}
    return [before + (text if n == 1 else f"{text}^{n}") for text, n in left.items() if n > 0]


def _coefficient(above: list[Fraction], below: list[Fraction]) -> list[str]:
    """The numbers among the factors, but those that are above and below, and none where they multiply to 1."""
    if math.prod(above) == math.prod(below):
        return []
    left = Counter(above) - Counter(below), Counter(below) - Counter(above)
    found = [(str(n), before) for numbers, before in zip(left, ("", "/"), strict=True) for n in numbers.elements()]
    return [before + text for text, before in found if text != "1"]
