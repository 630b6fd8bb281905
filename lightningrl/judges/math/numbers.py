r"""Written numbers: exact values, percentages, numbers in a base, and the unit behind a number.

Only ASCII digits are digits. Numbers are exact: `0.5` is `1/2`, `0.333` is not `1/3`. A percent sign that the gold does
not have is ignored only if the question mentions percent; a base that the gold does not have, only if the question
names it.

A unit is degrees, money, or words that are known units (`unit_words.toml`) or that the question itself uses ("how many
daps?"). Words that multiply the number (`5 million`, `5 dozen`) are multiplied in. Any other word changes the number or
is unknown, so `36 tenths` is not 36. Directly after a number only units count that are usually written so (`10cm`),
since `5abc` is a product. There are no conversions: an hour is not 60 minutes.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Set
from fractions import Fraction
from pathlib import Path

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


_WORDS = tomllib.loads(Path(__file__).with_name("unit_words.toml").read_text(encoding="utf-8"))
_NAMES: dict[str, str] = _WORDS.pop("names")
_UNITS, _COUNTED, _NEUTRAL, _ADJECTIVES, _CHANGES = (
    frozenset(_WORDS[name].split()) for name in ("units", "counted", "neutral", "adjectives", "changes")
)
_KNOWN = _UNITS | _COUNTED | _NAMES.keys() | frozenset(_NAMES.values())
_PART = re.compile(
    r"(?:[a-z]+-)?(?:fif|eigh|nin|twelf|[a-z]*(?:ten|teen|four|six|seven|eight|nine|eleven|tie|hundred|thousand|illion))"
    r"ths?|(?:half|quarter|third)s?-?[a-z]*ths?"
)
"""Fractions: `tenths`, `half-thirds`."""
_MULTIPLIERS = {
    "dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
}  # fmt: skip
_SHORT = r"cm|mm|km|ft|kg|lbs?|oz|yd|ml|mL|mph|hrs?|mins?|secs?|feet|inches|[ap]\.m|in(?=\^)"
"""Units that are written directly after their number; their letters are seldom a product."""
_UNIT = re.compile(
    r"(.*?(?:[0-9})\]]|\\pi|(?<![A-Za-z])[A-Za-z](?=\\text)))\s*"
    r"(?:\\text\{([^{}]*)\}(?:\^\{?([0-9])\}?)?"
    r"|(\\degree(?: ?\\text\{ ?[CFK] ?\}| ?[CFK])?)"
    rf"|( [A-Za-z]+(?:\.?[ /][A-Za-z]+)*|[a-z]{{4,}}|(?:{_SHORT}))\.?(?:\^\{{?([0-9])\}}?)?)"
)
"""The groups are the value; a text and its power; degrees; words and their power."""
_TEXT = re.compile(r"[A-Za-z$./\\ -]*[A-Za-z$][A-Za-z$./\\ -]*")
_ONE_LETTER = frozenset("msghlLNJWVCFd")
"""Units of one letter; `5\\text{k}` and `5\\text{i}` are not 5."""
_METRES = frozenset({"meter", "meters", "metre", "metres"})
"""The words that make the m of `66m^2` a unit; the gold answer's unit does so too."""
_CURRENCY = re.compile(r"(-?)(?:\\\$|\$)\s*(-?)(.*)|(-?[0-9.]+)(?:\\\$|\$)")
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_PER = re.compile(r"(?:\\text\{([^{}]*)\})?/(?:\\text\{\s*([^{}]*)\}|([a-z]+)\Z)")


def split_unit(text: str, words: Set[str] = frozenset()) -> tuple[str, str | None]:
    r"""Returns the value and its unit's name; (text, None) without a unit.

    `text` is as `text.clean` returns it; `words` are the question's, in lower case.

    >>> split_unit("36 apples"), split_unit(r"3\text{cm}^2"), split_unit(r"\$5"), split_unit("5 squared")
    (('36', 'apple'), ('3', 'cm2'), ('5', '$'), ('5 squared', None))
    """
    if (match := _CURRENCY.fullmatch(text)) and (match[3] or match[4]):
        value, unit = split_unit(match[3] or match[4], words)
        return (match[1] or match[2] or "") + value, "$" if unit is None else unit
    text = _PER.sub(r"\\text{\1 per \2\3}", text) if "\\text" in text or text[-1:].isalpha() else text
    match = _UNIT.fullmatch(text)
    if match is None:
        return text, None
    value, in_text, text_power, degree, bare, bare_power = match.groups()
    if degree is not None:
        if _FUNCTION.search(value):  # `\\sin 30^\\circ` is a number
            return text, None
        scale = degree.strip(" }")[-1]
        return value, f"deg {scale}" if scale in "CFK" else "deg"
    spelled = in_text if in_text is not None else bare
    is_one_letter = len(spelled.strip()) == 1 and spelled.strip().isalpha()
    if not _TEXT.fullmatch(spelled) or (is_one_letter and spelled.strip() not in _ONE_LETTER):
        return text, None
    if is_one_letter and in_text is None and _LETTER.search(value):
        return text, None  # `n^2 m` is a product
    found = spelled.replace("/", " per ").replace("\\degree", " degrees ").lower().split()
    found = [word.strip(".") for word in found if word.strip(".")]
    factor = 1
    while found and found[0] in _MULTIPLIERS:
        factor *= _MULTIPLIERS[found.pop(0)]
    if not (_is_unit(found, words) if found else factor > 1):
        return text, None
    value = times(str(factor), value) if factor > 1 else value
    return value, _unit_name(found, text_power or bare_power or "") if found else ""


def _unit_name(found: list[str], power: str) -> str:
    """Returns the compared name of a unit's words, with the power that is written behind them or in words."""
    if found[:3] in (["mile", "per", "hour"], ["miles", "per", "hour"]):
        found = ["mph"]
    names = [_name(word) for word in found]
    power = power or ("2" if "square" in names else "3" if "cubic" in names else "")
    units = [unit for unit in names if unit not in ("square", "cubic") and (unit == "per" or unit not in _NEUTRAL)]
    return " ".join(units or ["unit"]) + power


def _name(word: str) -> str:
    singular = word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith("ss") else word
    return _NAMES.get(word, _NAMES.get(singular, singular))


def _is_unit(found: list[str], words: Set[str]) -> bool:
    """Whether every word is known or the question's, at least one is not an adjective, and none changes the number."""
    for place, word in enumerate(found):
        changes = word in _CHANGES or _PART.fullmatch(word)
        if changes and not (place and word in ("squared", "cubed")):
            return False
        is_known = any(each in _KNOWN or each in words for each in (word, _name(word)))
        if not is_known and word not in _NEUTRAL and word not in _ADJECTIVES:
            return False
    return not _ADJECTIVES.issuperset(found)


def quantities(gold: str, found: str, context: Context) -> bool | None:
    """Compares values with units, of which one side may have none."""
    value, unit = split_unit(gold, context.question.words)
    if unit in ("m2", "m3") or not _METRES.isdisjoint(context.question.words):
        found = re.sub(r"(?<=[0-9)}])m(?=\^\{?[23]\}?\Z)", r"\\text{m}", found)
    other, other_unit = split_unit(found, context.question.words)
    if unit is None and other_unit is None:
        return None
    if gold.replace(" ", "") == found.replace(" ", ""):
        return True  # `2 xyz`, `2xyz`
    if unit and other_unit and unit != other_unit:
        is_angle = unit.split()[0] == other_unit.split()[0] == "deg" and "deg" in (unit, other_unit)
        if not is_angle:
            return False
    multiplied = re.fullmatch(r"(?:\\?\$)?([0-9.]+)\s*(?:\\text\{)?\s*([a-z]+)\b.*", found)
    if multiplied and multiplied[2] in _MULTIPLIERS and f"{multiplied[1]} {multiplied[2]}" in context.question.text:
        return False  # "how many eggs are 2 dozen eggs?"
    if unit == "deg" and other_unit is None and not _FUNCTION.search(other):
        other = other.replace("\\degree", "")  # `\\frac{180^\\circ}{2}`
    return context.same(value, other)
