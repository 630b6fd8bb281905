r"""The unit at the end of an answer: `3\text{ cm}^2`, `36 apples`, `\$5`, `90^\circ`, `5 million dollars`.

A unit is degrees, money, or words that are known units (`unit_names`) or that the question itself uses. Words that
multiply the number (`5 million`, `5 dozen`) are multiplied in. The meaning of any other word is unknown, so `36 tenths`
is not 36. Directly after a number only units count that are usually written so (`10cm`), since `5abc` is a product.
There are no conversions: an hour is not 60 minutes.
"""

from __future__ import annotations

import re
from collections.abc import Set

from lightningrl.judges.math.numbers import times
from lightningrl.judges.math.unit_names import ADJECTIVES, KNOWN, NEUTRAL, changes, name

MULTIPLIERS = {
    "dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
}  # fmt: skip
NO_WORDS: Set[str] = frozenset()
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
METRES = frozenset({"meter", "meters", "metre", "metres"})
_CURRENCY = re.compile(r"(-?)(?:\\\$|\$)\s*(-?)(.*)|(-?[0-9.]+)(?:\\\$|\$)")
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_PER = re.compile(r"(?:\\text\{([^{}]*)\})?/(?:\\text\{\s*([^{}]*)\}|([a-z]+)\Z)")


def split(text: str, words: Set[str] = NO_WORDS) -> tuple[str, str | None]:
    r"""Returns the value and its unit's name; (text, None) without a unit.

    `text` is as `text.clean` returns it; `words` are the question's, in lower case.

    >>> split("36 apples"), split(r"3\text{cm}^2"), split(r"\$5"), split("5abc"), split("5 squared")
    (('36', 'apple'), ('3', 'cm2'), ('5', '$'), ('5abc', None), ('5 squared', None))
    """
    if (match := _CURRENCY.fullmatch(text)) and (match[3] or match[4]):
        value, unit = split(match[3] or match[4], words)
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
    return _named(
        text, value, [word.strip(".") for word in found if word.strip(".")], text_power or bare_power or "", words
    )


def multiplied(text: str) -> str | None:
    """Returns the number with its multiplier (`5 million`) of an answer that has one."""
    match = re.fullmatch(r"(?:\\?\$)?([0-9.]+)\s*(?:\\text\{)?\s*([a-z]+)\b.*", text)
    return f"{match[1]} {match[2]}" if match and match[2] in MULTIPLIERS else None


def without_degrees(text: str) -> str:
    """Returns an angle as its number of degrees, unless it is a function's argument: `\\frac{180^\\circ}{2}`."""
    return text if _FUNCTION.search(text) else text.replace("\\degree", "")


def in_metres(text: str) -> str:
    """Marks the m of `66m^2` as a unit, which it is if the gold answer or the question has metres."""
    return re.sub(r"(?<=[0-9)}])m(?=\^\{?[23]\}?\Z)", r"\\text{m}", text)


def may_be_same(one: str | None, other: str | None) -> bool:
    """Whether two units are compatible: equal, or one side omits (a part of) it."""
    if not one or not other or one == other:
        return True
    return {one.split()[0], other.split()[0]} == {"deg"} and "deg" in (one, other)


def _named(text: str, value: str, found: list[str], power: str, words: Set[str]) -> tuple[str, str | None]:
    factor = 1
    while found and found[0] in MULTIPLIERS:
        factor *= MULTIPLIERS[found.pop(0)]
    if found and not _is_unit(found, words):
        return text, None
    if factor > 1:
        value = times(str(factor), value)
    if not found:
        return (value, "") if factor > 1 else (text, None)
    if found[:3] in (["mile", "per", "hour"], ["miles", "per", "hour"]):
        found = ["mph"]
    names = [name(word) for word in found]
    power = power or ("2" if "square" in names else "3" if "cubic" in names else "")
    units = [unit for unit in names if unit not in ("square", "cubic") and (unit == "per" or unit not in NEUTRAL)]
    return value, " ".join(units or ["unit"]) + power


def _is_unit(found: list[str], words: Set[str]) -> bool:
    """Whether every word is known or the question's, at least one is not an adjective, and none is a quantity."""
    if any(changes(word) and not (place and word in ("squared", "cubed")) for place, word in enumerate(found)):
        return False
    known = [word in KNOWN or name(word) in KNOWN or word in words or name(word) in words for word in found]
    if not all(k or word in NEUTRAL or word in ADJECTIVES for k, word in zip(known, found, strict=True)):
        return False
    return any(word not in ADJECTIVES for word in found)
