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


def names(node: Node) -> frozenset[str]:
    """Returns the letters and constants of a tree."""
    inside = frozenset().union(*(names(part) for part in node.parts))
    return inside | {node.name} if node.kind == "name" else inside


_MINUS_ONE = Node("number", name="integer", number=Fraction(-1))
_CONSTANTS = frozenset({"\\pi", "e", "i", "\\infty", "\\degree"})


def has_letters(node: Node) -> bool:
    return not names(node) <= _CONSTANTS


def walk(node: Node) -> Iterator[Node]:
    yield node
    for part in node.parts:
        yield from walk(part)


@_CACHED
def remaining_work(node: Node) -> frozenset[str]:
    """Returns the kinds of work that a tree leaves, and its kinds of irrational numbers; empty for a rational."""
    found = set().union(*(remaining_work(part) for part in node.parts))
    if node.kind == "name":
        return frozenset({f"the letter {node.name}"} if node.name not in ("\\degree", "\\infty") else ())
    if node.kind == "sum":
        found |= _sum_work(node)
    elif node.kind in ("product", "quotient", "negative"):
        if _is_scientific(node):
            return frozenset()
        found = set().union(*(remaining_work(part) for part, _ in factors(node))) | _product_work(node)
    elif node.kind == "power":
        found |= _power_work(*node.parts)
    elif node.kind == "root":
        found |= _root_work(*node.parts)
    elif node.kind == "function":
        found.add(f"a function: {_group(node.name)}")
    return frozenset(found)


def _group(name: str) -> str:
    if name in TRIGONOMETRY:
        return "trigonometry"
    if name in LOGARITHMS:
        return "logarithm"
    return "counting" if name in ("!", "\\binom") else name


def _sum_work(node: Node) -> set[str]:
    rests = [rest for term in terms(node) for _, rest in _spread(term)]
    has_zero = any(rational(term) == 0 for term in terms(node))
    return {"like terms"} if has_zero or len(set(rests)) < len(rests) else set()


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


def _product_work(node: Node) -> set[str]:
    found = set()
    parts = [(factor, inverted) for factor, inverted in factors(node) if factor is not _MINUS_ONE]
    above = [factor for factor, inverted in parts if not inverted and factor.kind == "number"]
    below = [factor for factor, inverted in parts if inverted and factor.kind == "number"]
    has_one = node.kind == "product" and any(
        p.kind == "number" and p.name == "integer" and p.number == 1 for p in node.parts
    )
    has_one &= not (len(parts) == 2 and parts[1][0].kind == "name" and parts[1][0].name == "i")  # `5+1i`
    if len(above) > 1 or len(below) > 1 or has_one or any(n.number == 1 for n in below):
        found.add("a product of numbers")
    if below and any(n.name != "integer" for n in (*above, *below)):
        found.add("a division")
    if node.kind == "quotient" and node.name == "\\div":
        found.add("a division")
    bases: dict[str, int] = {}
    for factor, inverted in parts:
        if inverted and has_letters(factor):
            found.add("a letter in a denominator")
        if inverted and "i" in names(factor):
            found.add("a division by a complex number")
        if base := _power_base(factor):
            bases[base] = bases.get(base, 0) + 1
    if any(count > 1 for count in bases.values()):
        found.add("powers of one base")
    constant_sums = [f for f, _ in parts if f.kind == "sum" and not has_letters(f)]
    roots = [f for f, inverted in parts if f.kind == "root" and not inverted and not has_letters(f)]
    if len(constant_sums) > 1 or len(roots) > 1:
        found.add("a product of numbers")
    if _have_roots_in_common([factor for factor, inverted in parts if not inverted and has_letters(factor)]):
        found.add("a product of roots")
    if any("i" in names(f) for f in constant_sums) and sum("i" in names(f) for f, _ in parts) > 1:
        found.add("a product of numbers")
    return found


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
    found = {"a power of a product"} if power in (0, 1) else set()
    if power is not None and power.denominator > 1:
        found.add("a root")
        if number is not None and _is_exact_root(number, power.denominator):
            found.add("a root that comes out")
    elif power is not None and (number is not None or _is_a_number(base)):
        found.add("a power of a number")
    elif power is not None and base.kind in ("product", "quotient", "negative", "power"):
        found.add("a power of a product")
    if power is not None and power < 0 and has_letters(base):
        found.add("a letter in a denominator")
    return found


def _is_a_number(base: Node) -> bool:
    return not has_letters(base) and (base.kind != "name" or base.name == "i")


def _root_work(under: Node, index: Node) -> set[str]:
    number, degree = rational(under), whole(index)
    found = {"a root"}
    if number is not None and degree and _is_exact_root(number, degree):
        found.add("a root that comes out")
    if under.kind == "root":
        found.add("a root of a root")
    if under.kind == "power" and has_letters(under) and rational(under.parts[1]) == degree:
        found.add("a root that comes out")
    return found


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
    parts = [factor for factor, inverted in factors(node) if factor is not _MINUS_ONE or inverted]
    if len(parts) != 2 or any(inverted for _, inverted in factors(node)):
        return False
    number, power = parts
    return (
        number.kind == "number"
        and power.kind == "power"
        and (_is_whole(power.parts[0]) and power.parts[0].number == 10 and whole(power.parts[1]) is not None)
    )


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
