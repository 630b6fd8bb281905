r"""The work that an expression leaves to do, as its written tree shows (`tree`).

An unevaluated expression equals its value, so a judge that compares only values would reward copies of the question.
Therefore `remaining_work` names what a tree leaves to do, and an answer may leave no more than the gold answer does:
`2^{10}` is not an answer if the gold is `1024`, but it is if the gold is `2^{98}`. Unreduced fractions, `\sqrt8` and a
sum of a number and a root count as worked out here; `notation` names them for the questions that ask for nothing else
("reduce 6/8"). `canonical` is a text of the tree without meaningless differences, which finds copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from lightningrl.judges.math.tree import LOGARITHMS, TRIGONOMETRY, Node

_CACHED = lru_cache(maxsize=4096)
_MINUS_ONE = Node("number", name="integer", number=Fraction(-1))
_GROUPS = dict.fromkeys(TRIGONOMETRY, "trigonometry") | dict.fromkeys(LOGARITHMS, "logarithm")
_GROUPS |= {"!": "counting", "\\binom": "counting"}


def factors(node: Node, inverted: bool = False) -> Iterator[tuple[Node, bool]]:
    """Yields each factor of a product, and whether it divides. A sign is a factor -1."""
    if node.kind == "product":
        for part in node.parts:
            yield from factors(part, inverted)
    elif node.kind == "quotient":
        yield from factors(node.parts[0], inverted)
        yield from factors(node.parts[1], not inverted)
    elif node.kind == "negative":
        yield _MINUS_ONE, False
        yield from factors(node.parts[0], inverted)
    else:
        yield node, inverted


def terms(node: Node) -> Iterator[Node]:
    """Yields the terms of a sum, including those of inner sums; a difference has a negative term."""
    if node.kind == "sum":
        for part in node.parts:
            yield from terms(part)
    elif node.kind == "negative" and node.parts[0].kind == "sum":
        for part in terms(node.parts[0]):
            yield Node("negative", (part,))
    elif node.kind == "negative" and node.parts[0].kind == "negative":
        yield from terms(node.parts[0].parts[0])
    else:
        yield node


def walk(node: Node) -> Iterator[Node]:
    yield node
    for part in node.parts:
        yield from walk(part)


@_CACHED
def names(node: Node) -> frozenset[str]:
    """Returns the letters and constants of a tree."""
    return frozenset(part.name for part in walk(node) if part.kind == "name")


def has_letters(node: Node) -> bool:
    return not names(node) <= {"\\pi", "e", "i", "\\infty", "\\degree"}


@_CACHED
def remaining_work(node: Node) -> frozenset[str]:
    """Returns the kinds of work that a tree leaves, and its kinds of irrational numbers; empty for a rational."""
    found = set().union(*(remaining_work(part) for part in node.parts))
    if node.kind == "name":
        return frozenset({f"the letter {node.name}"} if node.name not in ("\\degree", "\\infty") else ())
    if node.kind == "sum":
        rests = [rest for term in terms(node) for _, rest in _spread(term)]
        if len(set(rests)) < len(rests) or any(rational(term) == 0 for term in terms(node)):
            found.add("like terms")
    elif node.kind in ("product", "quotient", "negative"):
        if _is_scientific(node):
            return frozenset()
        found = set().union(*(remaining_work(part) for part, _ in factors(node))) | _product_work(node)
    elif node.kind == "power":
        found |= _power_work(*node.parts)
    elif node.kind == "root":
        found |= _root_work(*node.parts)
    elif node.kind == "function":
        found.add(f"a function: {_GROUPS.get(node.name, node.name)}")
    return frozenset(found)


def _spread(term: Node) -> list[tuple[Fraction, str]]:
    """Returns a term as pairs (coefficient, rest), with a factor before a sum multiplied in: `2(x+1)` has two."""
    coefficient, above, below, inner = Fraction(1), [], [], None
    for factor, inverted in factors(term):
        value = factor.number if factor.kind == "number" else None
        if value is not None:
            coefficient = coefficient / value if inverted and value else coefficient * value
        elif factor.kind == "sum" and not inverted and inner is None:
            inner = factor
        elif factor.kind == "root" and not inverted and (simple := _root_in_parts(factor)):
            coefficient *= simple[0]
            above.append(simple[1])
        else:
            (below if inverted else above).append(canonical(factor))
    if inner is None or any("(" in factor for factor in (*above, *below)):
        return [(coefficient, _joined(above if inner is None else [*above, canonical(inner)], below))]
    spread = [part for each in terms(inner) for part in _spread(each)]
    return [(coefficient * c, _joined([*above, *rest.split("*")] if rest else above, below)) for c, rest in spread]


def _joined(above: list[str], below: list[str]) -> str:
    return "*".join([*sorted(above), *sorted(f"/{text}" for text in below)])


def _root_in_parts(node: Node) -> tuple[int, str] | None:
    r"""Returns `\sqrt8` as 2 and `\sqrt2`; None unless it is a square root of a whole number of moderate size."""
    under, index = node.parts
    if not (_is_whole(under) and _is_whole(index) and index.number == 2 and 0 < under.number < 10**6):
        return None
    left, outside = int(under.number), 1
    for divisor in range(2, math.isqrt(left) + 1):
        while left % divisor**2 == 0:
            left, outside = left // divisor**2, outside * divisor
    return outside, f"root2[{left}]" if left > 1 else "1"


def holding(**kinds: object) -> set[str]:
    """Returns the kinds of work whose condition holds; `_` stands for a blank."""
    return {kind.replace("_", " ") for kind, holds in kinds.items() if holds}


def _product_work(node: Node) -> set[str]:
    parts = [(factor, inverted) for factor, inverted in factors(node) if factor is not _MINUS_ONE]
    above, below = ([factor for factor, inverted in parts if inverted is side] for side in (False, True))
    numbers_above, numbers_below = ([factor for factor in side if factor.kind == "number"] for side in (above, below))
    has_one = node.kind == "product" and any(part.name == "integer" and part.number == 1 for part in node.parts)
    has_one &= not (len(parts) == 2 and parts[1][0].kind == "name" and parts[1][0].name == "i")  # `5+1i`
    constant_sums = [factor for factor in above + below if factor.kind == "sum" and not has_letters(factor)]
    constant_roots = [factor for factor in above if factor.kind == "root" and not has_letters(factor)]
    complex_factors = [factor for factor in above + below if "i" in names(factor)]
    bases = [base for factor in above + below if (base := _power_base(factor))]
    return holding(
        a_product_of_numbers=(
            max(map(len, (numbers_above, numbers_below, constant_sums, constant_roots))) > 1
            or has_one
            or any(factor.number == 1 for factor in numbers_below)
            or (len(complex_factors) > 1 and any("i" in names(factor) for factor in constant_sums))
        ),
        a_division=(node.kind == "quotient" and node.name == "\\div")
        or (numbers_below and any(factor.name != "integer" for factor in numbers_above + numbers_below)),
        a_letter_in_a_denominator=any(map(has_letters, below)),
        a_division_by_a_complex_number=any("i" in names(factor) for factor in below),
        powers_of_one_base=len(set(bases)) < len(bases),
        a_product_of_roots=_have_roots_in_common(list(filter(has_letters, above))),
    )


def _have_roots_in_common(parts: list[Node]) -> bool:
    r"""Whether two roots of one degree could be combined, by a letter or numbers: `\sqrt{5p}\sqrt{6p}`."""
    seen: set[tuple[int, str]] = set()
    for part in parts:
        exponent = rational(part.parts[1]) if part.kind == "power" else None
        degree = (whole(part.parts[1]) or 1) if part.kind == "root" else exponent.denominator if exponent else 1
        if degree == 1 or any(each.kind == "sum" for each in walk(part)):
            continue
        under = part.parts[0]
        own = {(degree, name) for name in names(under)}
        own |= {(degree, "a number") for factor, _ in factors(under) if rational(factor) is not None}
        if own & seen:
            return True
        seen |= own
    return False


def _power_base(factor: Node) -> str | None:
    """Returns the name that is raised to a whole power, so that its powers could be combined."""
    if factor.kind == "power":
        base, exponent = factor.parts
        return base.name if base.kind == "name" and whole(exponent) is not None and base.name != "e" else None
    return factor.name if factor.kind == "name" and factor.name not in ("e", "\\degree") else None


def whole(node: Node) -> int | None:
    """Returns the value of a written integer; None for anything else."""
    if node.kind == "negative":
        inner = whole(node.parts[0])
        return None if inner is None else -inner
    return int(node.number) if _is_whole(node) else None


def _is_whole(node: Node) -> bool:
    return node.kind == "number" and node.number.denominator == 1


def rational(node: Node) -> Fraction | None:
    """Returns the value of a number, or of one number over another; None for any other notation."""
    if node.kind == "number":
        return node.number
    if node.kind == "negative":
        inner = rational(node.parts[0])
        return None if inner is None else -inner
    if node.kind != "quotient" or any(part.kind == "quotient" for part in node.parts):
        return None
    above, below = map(rational, node.parts)
    return above / below if above is not None and below else None


def _power_work(base: Node, exponent: Node) -> set[str]:
    power, number = rational(exponent), rational(base)
    if power is None:
        return set()
    is_root = power.denominator > 1
    is_number = number is not None or (not has_letters(base) and (base.kind != "name" or base.name == "i"))
    is_product = not is_root and not is_number and base.kind in ("product", "quotient", "negative", "power")
    return holding(
        a_root=is_root,
        a_root_that_comes_out=is_root and number is not None and _is_exact_root(number, power.denominator),
        a_power_of_a_number=not is_root and is_number,
        a_power_of_a_product=is_product or power in (0, 1),
        a_letter_in_a_denominator=power < 0 and has_letters(base),
    )


def _root_work(under: Node, index: Node) -> set[str]:
    number, degree = rational(under), whole(index)
    is_exact = number is not None and degree and _is_exact_root(number, degree)
    is_power = under.kind == "power" and has_letters(under) and rational(under.parts[1]) == degree
    return holding(a_root=True, a_root_that_comes_out=is_exact or is_power, a_root_of_a_root=under.kind == "root")


def _is_exact_root(number: Fraction, degree: int) -> bool:
    def is_power(n: int) -> bool:
        if n < 2:
            return True
        if degree > n.bit_length():
            return False
        low, high = 1, 1 << (n.bit_length() // degree + 1)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if middle**degree < n else (low, middle)
        return low**degree == n

    if degree < 1 or degree > 1000 or (number < 0 and degree % 2 == 0):
        return False
    return is_power(abs(number.numerator)) and is_power(number.denominator)


def _is_scientific(node: Node) -> bool:
    """Whether it is a number times a power of ten: `1.5\\cdot 10^{3}`."""
    parts = [(factor, inverted) for factor, inverted in factors(node) if factor is not _MINUS_ONE]
    if len(parts) != 2 or any(inverted for _, inverted in parts):
        return False
    (number, _), (power, _) = parts
    if number.kind != "number" or power.kind != "power":
        return False
    return whole(power.parts[0]) == 10 and whole(power.parts[1]) is not None


@_CACHED
def canonical(node: Node) -> str:
    """Returns a text that ignores the order of terms and factors, added 0, factors 1 and the notation of products."""
    if node.kind == "number":
        return f"mixed {node.number}" if node.name == "mixed" else str(node.number)
    if node.kind == "name":
        return node.name
    if node.kind == "sum":
        parts = sorted(text for term in terms(node) if (text := canonical(term)) not in ("0", "-0"))
        return f"({'+'.join(parts)})" if len(parts) > 1 else parts[0] if parts else "0"
    if node.kind in ("product", "quotient", "negative"):
        return _product_form(node)
    if node.kind == "power":
        exponent = rational(node.parts[1])
        if exponent is not None and exponent.numerator == 1 < exponent.denominator:
            return f"root{exponent.denominator}[{canonical(node.parts[0])}]"
        return canonical(node.parts[0]) if exponent == 1 else f"{canonical(node.parts[0])}^[{canonical(node.parts[1])}]"
    if node.kind == "root":
        return f"root{canonical(node.parts[1])}[{canonical(node.parts[0])}]"
    return f"{node.name}[{','.join(canonical(part) for part in node.parts)}]"


def _product_form(node: Node) -> str:
    above, below, sign = [], [], 1
    for factor, inverted in factors(node):
        if factor is _MINUS_ONE:
            sign = -sign
        elif (text := canonical(factor)) == "0" and not inverted:
            return "0"
        elif text != "1":
            (below if inverted else above).append(text)
    text = _joined(above, below) or "1"
    return f"-{text}" if sign < 0 else text
