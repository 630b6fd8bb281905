r"""The unit at the end of an answer: `3\text{ cm}^2`, `36 apples`, `\$5`, `90^\circ`, `5 million dollars`.

A unit is degrees, money, or words that are known units (`unit_words.toml`) or that the question itself uses ("how many
daps?"). Words that multiply the number (`5 million`, `5 dozen`) are multiplied in. Any other word changes the number or
is unknown, so `36 tenths` is not 36. Directly after a number only units count that are usually written so (`10cm`),
since `5abc` is a product. There are no conversions: an hour is not 60 minutes.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Set
from pathlib import Path

from lightningrl.judges.math.numbers import times
from lightningrl.judges.math.question import Context

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


def split(text: str, words: Set[str] = frozenset()) -> tuple[str, str | None]:
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
    value, unit = split(gold, context.question.words)
    if unit in ("m2", "m3") or not _METRES.isdisjoint(context.question.words):
        found = re.sub(r"(?<=[0-9)}])m(?=\^\{?[23]\}?\Z)", r"\\text{m}", found)
    other, other_unit = split(found, context.question.words)
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
