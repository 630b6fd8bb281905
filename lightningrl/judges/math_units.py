r"""The unit at the end of an answer: `3\text{ cm}^2`, `36 apples`, `\$5`, `90^\circ`, `5 million dollars`.

A unit is a text, an amount of degrees or money, or plain words behind a blank; without the blank only those units count
that are usually written so (`10cm`), for `5abc` is a product. Words that change the number (`5 million`, `5 dozen`) are
multiplied in; words that say something else than a unit (`5 squared`, `5 or more`, `5 mod 7`) make no quantity, so
that the answer is not taken for its number. It knows no conversion: an hour is not 60 minutes.
"""

from __future__ import annotations

import re

MULTIPLIERS = {
    "dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
}  # fmt: skip
_SHORT = r"cm|mm|km|ft|kg|lb|lbs|oz|yd|ml|mL|mph|hrs|mins|secs|feet|inches|[ap]\.m"
"""Units that are written right behind their number; two letters of which are seldom a product."""
_UNIT = re.compile(
    r"(.*?(?:[0-9})\]]|\\pi|(?<![A-Za-z])[A-Za-z](?=\\text)))\s*"
    r"(?:\\text\{([^{}]*)\}(?:\^\{?([0-9])\}?)?"
    r"|(\\degree(?: ?\\text\{ ?[CFK] ?\}| ?[CFK])?)"
    rf"|( [A-Za-z][a-z]{{2,}}(?: [a-z]+)*|(?:{_SHORT}))(?:\^\{{?([0-9])\}}?)?)"
)
"""The value; a text and its power; degrees; words and their power."""
_TEXT = re.compile(r"[A-Za-z$./\\ -]*[A-Za-z$][A-Za-z$./\\ -]*")
_ONE_LETTER = frozenset("msghlLNJWVCFd")
"""Units of one letter; `5\\text{k}` and `5\\text{i}` are something else than 5."""
_CURRENCY = re.compile(r"(-?)(?:\\\$|\$)\s*(.*)")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_NAMES = {
    "centimeter": "cm", "centimetre": "cm", "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km",
    "millimeter": "mm", "millimetre": "mm", "inch": "inch", "inche": "inch", "in": "inch", "foot": "ft", "feet": "ft",
    "hour": "h", "hr": "h", "minute": "min", "second": "s", "sec": "s", "gram": "g", "gm": "g", "kilogram": "kg",
    "dollar": "$", "\\$": "$", "usd": "$", "degree": "deg", "liter": "l", "litre": "l", "milliliter": "ml",
    "yard": "yd", "mile": "mi", "lb": "pound", "ounce": "oz", "cubed": "cubic", "squared": "square", "sq": "square",
    "celsius": "c", "fahrenheit": "f", "p.m": "pm", "a.m": "am",
}  # fmt: skip
_NUMBERS = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "twenty",
    "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)  # fmt: skip
_NO_UNIT = {
    "a", "an", "the", "and", "or", "not", "if", "when", "where", "for", "to", "than", "with", "about", "exactly",
    "over", "approximately", "roughly", "under", "plus", "minus", "times", "divided", "by", "mod", "modulo", "div",
    "factorial", "half", "third", "quarter", "squared", "cubed", "root", "sqrt", "sin", "cos", "tan", "cot", "sec",
    "csc", "log", "exp", "percent", "percents", "radian", "radians", "rad", "base", "even", "odd", "less", "i", "e",
    "pi", *MULTIPLIERS,
}  # fmt: skip
"""None of these is the first word of a unit."""
_NO_WORD = {"not", "but", "is", "are", "does", "and", "or", "plus", "minus", *_NUMBERS}
"""None of these is any word of a unit."""


def split(text: str) -> tuple[str, str | None]:
    r"""The value and its unit's name; (text, None) where there is no unit. text: as `math_text.clean` gives it.

    >>> split("36 apples"), split(r"3\text{cm}^2"), split(r"\$5"), split("5abc"), split("5 squared")
    (('36', 'apple'), ('3', 'cm2'), ('5', '$'), ('5abc', None), ('5 squared', None))
    """
    if (match := _CURRENCY.fullmatch(text)) and match[2]:
        value, unit = split(match[2])
        return match[1] + value, "$" if unit is None else unit
    match = _UNIT.fullmatch(text)
    if match is None:
        return text, None
    value, in_text, text_power, degree, bare, bare_power = match.groups()
    if degree is not None:
        if _FUNCTION.search(value):  # `\\sin 30^\\circ` is a number
            return text, None
        scale = degree.strip(" }")[-1]
        return value, f"deg {scale}" if scale in "CFK" else "deg"
    name = in_text if in_text is not None else bare
    if not _TEXT.fullmatch(name) or (len(name) == 1 and name.isalpha() and name not in _ONE_LETTER):
        return text, None
    words = name.replace("/", " per ").replace("\\degree", " degrees ").strip(" .").lower().split()
    return _named(text, value, words, text_power or bare_power or "")


def may_be_same(one: str | None, other: str | None) -> bool:
    """Whether two units do not contradict each other: the same, or one side does not say (all) of it."""
    if not one or not other or one == other:
        return True
    return {one.split()[0], other.split()[0]} == {"deg"} and "deg" in (one, other)


def _named(text: str, value: str, words: list[str], power: str) -> tuple[str, str | None]:
    factor = 1
    while words and words[0] in MULTIPLIERS:
        factor *= MULTIPLIERS[words.pop(0)]
    if words and (words[0] in _NO_UNIT or not _NO_WORD.isdisjoint(words)):
        return text, None
    if factor > 1:
        value = rf"{factor}\cdot ({value})"
    if not words:
        return (value, "") if factor > 1 else (text, None)
    if words[:3] == ["mile", "per", "hour"] or words[:3] == ["miles", "per", "hour"]:
        words = ["mph"]
    names = [_name(word) for word in words]
    power = power or ("2" if "square" in names else "3" if "cubic" in names else "")
    return value, " ".join(name for name in names if name not in ("square", "cubic")) + power


def _name(word: str) -> str:
    singular = word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith("ss") else word
    return _NAMES.get(word, _NAMES.get(singular, singular))
