r"""When two mathematical answers are the same: explicit rules, and a question to algebra only where they end.

What an answer is is read off its outside: a matrix, a set `\{...\}`, a union of intervals, a tuple or interval (its
brackets count), an equation or a membership, a list (`5, 7`; `1 \pm 2` is two), a word, a quantity with a unit, a
percentage, a number to a base, or an expression. Different kinds are different answers, with these exceptions:

- a quantity and a bare number are the same where the numbers are: the other side says no unit (`36 apples`, `36`;
  `90^\circ`, `90`; `2516_8`, `2516`). Two different units are different answers (`3 cm`, `3 m`).
- `x \in S` and `S` are the same set; `x = 5` and `5` are not the same answer.
- a list's order does not count (the roots of an equation), a set's neither, and the two may stand for each other; a
  tuple's order does.

Numbers are exact: `0.5` is `1/2`, `0.333` is not `1/3`; `10\%` is not `10`. Only ASCII digits are digits. Whether two
expressions are equal is asked of the `algebra` function that the caller gives (`math_worker` has it). Linear but for
matching lists; raises Unreadable (`math_text`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from lightningrl.judges import math_parts, math_units
from lightningrl.judges.math_text import clean

Algebra = Callable[[str, str], bool]
"""Whether two LaTeX expressions, the gold answer's first, are equal; raises Unreadable where one is none."""
MAX_ITEMS = 40
"""Of a list, tuple, set or matrix that is compared item by item."""

_BARE_WORDS = re.compile(r"[^\W\d_]{4,}(?:[ -][^\W\d_]+)*(?: ?[0-9]+)?|[^\W\d_]+(?: [^\W\d_]+)+|[Nn]o|[Yy]es|[Oo]dd")
_INTEGER = r"[+-]?[0-9]+"
_NUMBER = re.compile(rf"({_INTEGER})(?:\.([0-9]*))?")
_FRACTION = re.compile(rf"([+-]?)\\frac\{{({_INTEGER})\}}\{{({_INTEGER})\}}|({_INTEGER})/([0-9]+)")
_MIXED = re.compile(r"([+-]?)([0-9]+)(?:\\frac\{([0-9]+)\}\{([0-9]+)\}| ([0-9]+)/([0-9]+))")
_REPEATING = re.compile(r"([+-]?)([0-9]+)\.([0-9]*)\\overline\{([0-9]+)\}")
_BASED = re.compile(r"\(?([0-9A-Za-z]+)\)?_\{?([0-9]{1,2})\}?")
_MATRIX = re.compile(
    r"\\begin\{([pbvBV]?(?:small)?matrix\*?|array)\}(?:\{[^{}]*\}|\[[lcr]\])?(.*)\\end\{\1\}", re.DOTALL
)
_POWER_OF_TEN = re.compile(r"([+-]?[0-9]+(?:\.[0-9]+)?)[eE]([+-]?[0-9]+)")
_RELATION = re.compile(r"\\le |\\ge |\\ne(?:q)? |\\le(?![A-Za-z])|\\ge(?![A-Za-z])|\\neq?(?![A-Za-z])|[=<>]")


def equal(gold: str, found: str, algebra: Algebra) -> bool:
    """Whether two answers are the same; symmetric. Raises Unreadable."""
    return _same(clean(gold), clean(found), algebra)


def _same(one: str, other: str, algebra: Algebra) -> bool:
    if one == other:
        return bool(one)
    if not one or not other:
        return False
    one, other = _bare(one), _bare(other)
    for compare in _KINDS:
        verdict = compare(one, other, algebra)
        if verdict is not None:
            return verdict
    return _expressions(one, other, algebra)


def _expressions(one: str, other: str, algebra: Algebra) -> bool:
    if one == other:
        return True
    numbers = number(one), number(other)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if not (one.isascii() and other.isascii()) or any(re.search(r"[0-9]_", text) for text in (one, other)):
        return False  # digits of other scripts; a subscript that is no base
    return algebra(exact(one), exact(other))


def number(text: str) -> Fraction | None:
    r"""An integer, decimal, fraction or mixed number; None for anything else.

    >>> number("-1.50"), number(r"\frac{3}{6}"), number(r"1\frac{4}{5}"), number("2/4"), number("x")
    (Fraction(-3, 2), Fraction(1, 2), Fraction(9, 5), Fraction(1, 2), None)
    """
    text = text.strip()
    while text.startswith("{") and text.endswith("}") and math_parts.closes_at_the_end(text):
        text = text[1:-1].strip()
    if match := _NUMBER.fullmatch(text):
        return Fraction(f"{match[1]}.{match[2]}") if match[2] else Fraction(int(match[1]))
    if match := _MIXED.fullmatch(text):
        above, below = int(match[3] or match[5]), int(match[4] or match[6])
        return _signed(match[1], int(match[2]) + Fraction(above, below)) if below else None
    if match := _REPEATING.fullmatch(text):
        once, again = match[3], match[4]
        part = Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(once))
        return _signed(match[1], Fraction(f"{match[2]}.{once}") + part)
    if match := _FRACTION.fullmatch(text):
        above, below = (int(match[2]), int(match[3])) if match[2] else (int(match[4]), int(match[5]))
        if below == 0:
            return None
        return Fraction(above, below) * (-1 if match[1] == "-" else 1)
    return None


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def exact(text: str) -> str:
    r"""Decimals as fractions, so that algebra sees no rounded number; `5/2x` as five halves of x.

    >>> exact("0.25x"), exact("5/2x")
    ('\\frac{25}{100}x', '\\frac{5}{2}x')
    """
    text = _POWER_OF_TEN.sub(r"\1\\cdot 10^{\2}", text)
    text = re.sub(r"(?<![0-9A-Za-z.}])([0-9]+)/([0-9]+)(?=[A-Za-z\\])", r"\\frac{\1}{\2}", text)
    return re.sub(
        r"([0-9]+)\.([0-9]+)",
        lambda match: rf"\frac{{{int(match[1] + match[2])}}}{{{10 ** len(match[2])}}}",
        text,
    )


def _bare(text: str) -> str:
    r"""Without `x \in` before a set, braces around all of it, a comma at its end, and what it is said to be about."""
    while text.startswith("{") and text.endswith("}") and math_parts.closes_at_the_end(text):
        text = text[1:-1].strip()
    text = re.split(r"\\approx(?![A-Za-z])", text)[0].strip() or text
    return re.sub(r"^[A-Za-z]\\in(?![A-Za-z])\s*", "", text).rstrip(",;")


def _matrices(one: str, other: str, algebra: Algebra) -> bool | None:
    cells = [_cells(text) for text in (one, other)]
    if cells == [None, None]:
        return None
    if cells[0] is None or cells[1] is None or len(cells[0]) != len(cells[1]):
        return False
    if len({"vmatrix" in text.lower() for text in (one, other)}) > 1:
        return False  # a determinant is no matrix
    rows = zip(cells[0], cells[1], strict=True)
    return all(len(a) == len(b) and _in_order(a, b, algebra) for a, b in rows)


def _cells(text: str) -> list[list[str]] | None:
    inside = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else ""
    match = _MATRIX.fullmatch(text) or _MATRIX.fullmatch(inside)
    if match is None or (inside.startswith("\\begin") and match[1] not in ("array", "matrix")):
        return None
    rows = [row for row in match[2].split("\\\\") if row.strip()]
    return [[cell.strip() for cell in row.split("&")] for row in rows]


def _sets(one: str, other: str, algebra: Algebra) -> bool | None:
    inside = [text[2:-2] if text.startswith("\\{") and text.endswith("\\}") else None for text in (one, other)]
    if inside == [None, None]:
        return None
    items = [math_parts.items(text if i is None else i) for i, text in zip(inside, (one, other), strict=True)]
    if None in inside and any(len(part) == 1 for part in items):
        return False  # a list and a set with the same members are the same; `5` and `\\{5\\}` are not
    return _in_any_order(items[0], items[1], algebra)


def _unions(one: str, other: str, algebra: Algebra) -> bool | None:
    parts = [math_parts.split(text, r"\cup") for text in (one, other)]
    if all(len(part) == 1 for part in parts):
        return None
    return _in_any_order(parts[0], parts[1], algebra)


def _lists(one: str, other: str, algebra: Algebra) -> bool | None:
    items = [math_parts.items(text) for text in (one, other)]
    if all(len(part) == 1 for part in items):
        return None
    return _in_any_order(items[0], items[1], algebra)


def _brackets(one: str, other: str, algebra: Algebra) -> bool | None:
    """Tuples, points and intervals: two items or more between brackets that open first and close last."""
    found = [_bracketed(text) for text in (one, other)]
    if found == [None, None]:
        return None
    if found[0] is None or found[1] is None:
        return False
    (kind, items), (other_kind, others) = found[0], found[1]
    return kind == other_kind and len(items) == len(others) and _in_order(items, others, algebra)


def _bracketed(text: str) -> tuple[str, list[str]] | None:
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]" and math_parts.closes_at_the_end(text):
        items = math_parts.split(text[1:-1], ",")
        if len(items) > 1:
            return text[0] + text[-1], items
    return None


def _relations(one: str, other: str, algebra: Algebra) -> bool | None:
    """`x = 5`, `y = 2x + 3`, `1 < x \\le 2`: the same sides, or the same equation multiplied by a number."""
    parts = [_RELATION.split(text) for text in (one, other)]
    if all(len(part) == 1 for part in parts):
        return None
    signs = [[sign.strip() for sign in _RELATION.findall(text)] for text in (one, other)]
    if len(parts[0]) != len(parts[1]):
        return False
    if signs[0] == signs[1] and _in_order(parts[0], parts[1], algebra):
        return True
    flipped = [{"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}.get(sign, sign) for sign in reversed(signs[1])]
    if signs[0] == flipped and _in_order(parts[0], list(reversed(parts[1])), algebra):
        return True
    if signs[0] == signs[1] == ["="]:
        sides = [[exact(part) for part in side] for side in parts]
        (a, b), (c, d) = sides
        has_letters = [re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", x + y)) for x, y in sides]
        if not all((a, b, c, d)) or not all(has_letters):
            return False  # an equation of numbers says nothing that another one could say
        return algebra(f"RATIO {a}-({b})", f"{c}-({d})")
    return False


def _ratios(one: str, other: str, algebra: Algebra) -> bool | None:
    """`3:4` and times: part by part, not cancelled."""
    parts = [math_parts.split(text, ":") for text in (one, other)]
    if all(len(part) == 1 for part in parts):
        return None
    return _in_order(parts[0], parts[1], algebra)


def _percentages(one: str, other: str, algebra: Algebra) -> bool | None:
    inside = [text[:-1] if text.endswith("%") else None for text in (one, other)]
    inside = [
        re.sub(r"\s*(?:\\text\{\s*percent\}|percent)$", "", text) if i is None and "percent" in text else i
        for i, text in zip(inside, (one, other), strict=True)
    ]
    if inside == [None, None]:
        return None
    if inside[0] is None or inside[1] is None:
        return False
    return _same(inside[0], inside[1], algebra)


def _quantities(one: str, other: str, algebra: Algebra) -> bool | None:
    (value, unit), (other_value, other_unit) = math_units.split(one), math_units.split(other)
    if unit is None and other_unit is None:
        return None
    if one.replace(" ", "") == other.replace(" ", ""):
        return True  # `2 xyz`, `2xyz`
    if not math_units.may_be_same(unit, other_unit):
        return False
    return _same(value, other_value, algebra)


def _based(one: str, other: str, algebra: Algebra) -> bool | None:
    """Digits with a base: both bases, if both are there, and the digits must be the same."""
    found = [_digits_and_base(text) for text in (one, other)]
    if found == [None, None]:
        return None
    if found[0] is not None and found[1] is not None:
        return found[0] == found[1]
    (digits, _), bare = (found[0], other) if found[0] is not None else (found[1], one)  # type: ignore[misc]
    return digits == bare


def _digits_and_base(text: str) -> tuple[str, int] | None:
    match = _BASED.fullmatch(text)
    if match is None or not 2 <= int(match[2]) <= 36:
        return None
    try:
        int(match[1], int(match[2]))
    except ValueError:
        return None
    return (match[1].lower(), int(match[2])) if any(c.isdigit() for c in match[1]) else None


def _word_lists(one: str, other: str, algebra: Algebra) -> bool | None:
    r"""`\text{A,C}` and `A, C`: in this order."""
    if not any(re.fullmatch(r"\\text\{[^{}]*,[^{}]*\}", text) for text in (one, other)):
        return None
    lists = [re.sub(r"\\text\{([^{}]*)\}", r"\1", text).casefold().split(",") for text in (one, other)]
    return [word.strip(" .()") for word in lists[0]] == [word.strip(" .()") for word in lists[1]]


def _words(one: str, other: str, algebra: Algebra) -> bool | None:
    words = [_word(text) for text in (one, other)]
    if words == [None, None]:
        return None
    if words[0] is None or words[1] is None:
        return False
    return words[0].replace(" ", "") == words[1].replace(" ", "")


def _word(text: str) -> str | None:
    r"""A word or words, `\text{...}` or bare of two letters and more, or a choice's letter in brackets."""
    if match := re.fullmatch(r"\\text\{(.*)\}", text):
        inner = match[1].strip(" .")
        return inner.strip("()").casefold() if inner and not re.fullmatch(r"[0-9+\-*/^ ]*", inner) else None
    if match := re.fullmatch(r"\(([A-Z])\)", text):
        return match[1].casefold()
    bare = text.strip(" .")
    if re.fullmatch(r"[A-E]", bare):
        return bare.casefold()
    is_word = re.fullmatch(
        r"[^\W\d_]{4,}(?:[ -][^\W\d_]+)*(?: ?[0-9]+)?|[^\W\d_]+(?: [^\W\d_]+)+|[Nn]o|[Yy]es|[Oo]dd", bare
    )
    return bare.casefold() if is_word else None


def _in_order(some: Sequence[str], others: Sequence[str], algebra: Algebra) -> bool:
    if len(some) != len(others) or len(some) > MAX_ITEMS:
        return False
    return all(_same(a, b, algebra) for a, b in zip(some, others, strict=True))


def _in_any_order(some: Sequence[str], others: Sequence[str], algebra: Algebra) -> bool:
    if len(some) != len(others) or len(some) > MAX_ITEMS:
        return False
    left = list(others)
    for item in some:
        match = next((n for n, other in enumerate(left) if _same(item, other, algebra)), None)
        if match is None:
            return False
        del left[match]
    return True


_KINDS = (
    _matrices, _sets, _unions, _word_lists, _lists, _brackets, _relations, _ratios, _percentages,
    _quantities, _based, _words,
)  # fmt: skip
"""In this order, from the outside in."""
