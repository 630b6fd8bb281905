r"""Written numbers: exact values, percentages, numbers in a base. Only ASCII digits are digits.

Numbers are exact: `0.5` is `1/2`, `0.333` is not `1/3`. A percent sign that the gold does not have is ignored only if
the question mentions percent; a base that the gold does not have, only if the question names it.
"""

from __future__ import annotations

import re
from fractions import Fraction

from lightningrl.judges.math import delimiters
from lightningrl.judges.math.question import BASES, Context
from lightningrl.judges.math.tree import read, repeating_decimal

_INTEGER = r"[+-]?[0-9]+"
_NUMBER = re.compile(rf"({_INTEGER})(?:\.([0-9]*))?")
_FRACTION = re.compile(rf"([+-]?)\\frac\{{({_INTEGER})\}}\{{({_INTEGER})\}}|({_INTEGER})/([0-9]+)")
_MIXED = re.compile(r"([+-]?)([0-9]+)(?:\\frac\{([0-9]+)\}\{([0-9]+)\}| ([0-9]+)/([0-9]+))")
_REPEATING = re.compile(r"([+-]?)([0-9]+)\.([0-9]*)\\overline\{([0-9]+)\}")
_BASED = re.compile(
    r"[({]?([+-]?)[({]?(?:\\text\{)?([0-9A-Za-z]+)(?:\.([0-9A-Za-z]+))?\}?[)}]?"
    r"_(?:\{?([0-9]{1,2})\}?|\{\\text\{(?:base ?)?([a-z]+|[0-9]{1,2})\} ?([0-9]{0,2})\})"
)
_POWER_OF_TEN = re.compile(r"(?<![0-9A-Za-z.])([+-]?[0-9]+(?:\.[0-9]+)?)[eE]([+-]?[0-9]+)")
_PERCENT = re.compile(r"\s*(?:%|\\text\{\s*(?:percent|per cent|pct|percentage)\.?\s*\}|(?:percent|per ?cent|pct))\Z")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def number(text: str) -> Fraction | None:
    r"""Returns the value of an integer, decimal, fraction or mixed number; None for anything else.

    >>> number("-1.50"), number(r"\frac{3}{6}"), number(r"1\frac{4}{5}"), number("2/4"), number("x")
    (Fraction(-3, 2), Fraction(1, 2), Fraction(9, 5), Fraction(1, 2), None)
    """
    text = text.strip()
    while delimiters.is_in_braces(text):
        text = text[1:-1].strip()
    if match := _NUMBER.fullmatch(text):
        return Fraction(f"{match[1]}.{match[2]}") if match[2] else Fraction(int(match[1]))
    if match := _REPEATING.fullmatch(text):
        return int(match[1] + "1") * repeating_decimal(match[2], match[3], match[4])
    if match := _MIXED.fullmatch(text):
        whole, above, below = int(match[2]), int(match[3] or match[5]), int(match[4] or match[6])
    elif match := _FRACTION.fullmatch(text):
        whole, above, below = 0, int(match[2] or match[4]), int(match[3] or match[5])
    else:
        return None
    return int((match[1] or "") + "1") * (whole + Fraction(above, below)) if below else None


def exact(text: str) -> str:
    r"""Writes decimals as fractions, so that algebra sees no rounded number, and `5/2x` as five halves of x.

    >>> exact("0.25x"), exact("5/2x")
    ('\\frac{25}{100}x', '\\frac{5}{2}x')
    """

    def decimal(match: re.Match[str]) -> str:
        return rf"\frac{{{int(match[1] + match[2])}}}{{{10 ** len(match[2])}}}"

    def repeating(match: re.Match[str]) -> str:
        value = repeating_decimal(match[1], match[2], match[3])
        return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"

    text = _POWER_OF_TEN.sub(r"\1\\cdot 10^{\2}", text)
    text = re.sub(r"([0-9]+)\.([0-9]*)\\overline\{([0-9]+)\}", repeating, text)
    text = re.sub(r"(?<![0-9A-Za-z.}])([0-9]+)/([0-9]+)(?=[A-Za-z\\])", r"\\frac{\1}{\2}", text)
    return re.sub(r"([0-9]+)\.([0-9]+)", decimal, text)


def times(factor: str, text: str) -> str:
    """Returns a product, as a number if both factors are numbers, so that it counts as worked out.

    >>> times("3", "0.5"), times("3", "x")
    ('3/2', '3\\\\cdot (x)')
    """
    values = number(factor), number(text)
    if values[0] is not None and values[1] is not None:
        return str(values[0] * values[1])
    return rf"{factor}\cdot ({text})"


def is_percentage(text: str) -> bool:
    return _PERCENT.search(text) is not None


def percentages(gold: str, found: str, context: Context) -> bool | None:
    if not is_percentage(gold) and not is_percentage(found):
        return None
    if not is_percentage(found):
        return False
    if not is_percentage(gold):
        has_unit = re.search(r"\\degree|\\text", gold) is not None
        if not context.question.percent or has_unit or read(gold) is None:
            return False
    return context.same(_PERCENT.sub("", gold), _PERCENT.sub("", found))


def based(gold: str, found: str, context: Context) -> bool | None:
    """Compares digits with a base: if both sides have a base, digits and bases must be equal."""
    golds, founds = _digits_and_base(gold), _digits_and_base(found)
    if golds is None and founds is None:
        return None
    if golds is not None and founds is not None:
        return golds == founds
    if golds is not None:
        return golds[0] == found.lower().lstrip("+")
    digits, base = founds or ("", 0)
    return base in {10, *context.question.bases} and digits == gold.lower().lstrip("+")


def _digits_and_base(text: str) -> tuple[str, int] | None:
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    named = match[4] or match[6] or match[5] or ""
    base = int(named) if named.isdigit() else BASES.get(named, 0)
    digits = "".join(filter(None, match.group(2, 3))).lower()
    if not 2 <= base <= 36 or not set(digits) <= set(_DIGITS[:base]) or not any(map(str.isdigit, digits)):
        return None
    point = f".{match[3]}" if match[3] else ""
    return match[1].strip("+") + (match[2] + point).lower(), base
