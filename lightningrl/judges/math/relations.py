r"""Answers that are relations: equations, inequalities, named values, and the sets of reals of inequalities.

A name adds nothing to a value: `x = 5` is `5` if the name is one letter (with an index or an argument) or consists of
words of the question. Two names must be equal. An equation equals its rearrangements and multiples; but if the gold
answer solves for a letter, the letter must stand alone: `3x + 2 = 14` is not an answer if `x = 4` is. All sides of a
chain of equalities must be right, and the last one is worked out: `2 + 3 = 5` is `5`.
"""

from __future__ import annotations

import re

from lightningrl.judges.math import delimiters
from lightningrl.judges.math.finished import is_solved
from lightningrl.judges.math.numbers import exact, is_percentage, number
from lightningrl.judges.math.question import Context, Question, Ratio, match_all

_SIGN = r"\\(?:le|ge|ne|equiv)(?![A-Za-z])\s*|[=<>]"
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_LETTER = r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_(?:\{[^{}]*\}|[0-9A-Za-z]))?'*"
_NAME = re.compile(
    rf"{_LETTER}(?:\^\{{-1\}})?(?:\((?:{_LETTER}|[0-9]+)(?:,(?:{_LETTER}|[0-9]+))*\))?"  # x, a_1, f(x), P(2)
    rf"|\({_LETTER}(?:,{_LETTER})+\)"  # (x,y)
    r"|m?\\angle ?[A-Z]{1,3}|[A-Z]{2,3}|\|[A-Z]{2}\||\\overline\{[A-Z]{2}\}|\\triangle ?[A-Z]{3}"
    rf"|{_LETTER}:{_LETTER}"
)
_FUNCTIONS = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|log|ln|infty|pi|degree|frac|sqrt|emptyset)(?![A-Za-z])|^[ei]$")
_WORDS_NAME = re.compile(r"(?:\\text\{([A-Za-z .,'-]+)\}|([A-Za-z]{4,}(?: [A-Za-z]+)*))")
_NUMBER_WORDS = re.compile(
    r"\b(?:not|half|twice|double|third|quarter|negative|minus|square|root|cube|times|one|two)\b", re.I
)
_RESULT = frozenset({"total", "sum", "result", "value", "answer", "difference", "product"})
"""The words that name a result of any question."""
_SET_NAME = re.compile(r"[A-Za-z]\\in(?![A-Za-z])\s*")
_MODULUS = re.compile(r"\s*\(?\\[pb]?mod\s*(?:\{[^{}]*\}|[0-9]+)\)?\Z")


def _name_of(text: str, context: Context) -> str | None:
    """Returns the text if it is a name: a letter, a function of one, a segment, words of the question."""
    if _FUNCTIONS.search(text):
        return None
    if _NAME.fullmatch(text):
        return text
    if (match := _WORDS_NAME.fullmatch(text)) and not _NUMBER_WORDS.search(text):
        found = (match[1] or match[2]).casefold().split()
        known = context.question.words | _RESULT
        if not context.question.text or any(word.strip(".,") in known for word in found):
            return text
    return None


def named_list(text: str) -> list[str]:
    """Returns a list's items without a name that all of them, or the first one alone, have."""
    items = delimiters.items(text)
    if len(items) < 2 or "=" not in items[0]:
        return items
    name, _, value = items[0].partition("=")
    if not re.fullmatch(_LETTER, name) or "=" in value:
        return items
    rest = [item.removeprefix(f"{name}=") for item in items[1:]]
    return items if any("=" in item for item in rest) else [value, *rest]


def relations(gold: str, found: str, context: Context) -> bool | None:
    """Compares relations (`x = 5`, `1 < x \\le 2`): by value, by sides, or rearranged."""
    if not re.search(_SIGN, gold + found) or any(len(delimiters.items(text)) > 1 for text in (gold, found)):
        return None
    (golds, gold_signs), (sides, signs) = delimiters.cut(gold, _SIGN), delimiters.cut(found, _SIGN)
    if not gold_signs and not signs:
        return None
    if _is_the_value(_equal_sides(golds, gold_signs, context), _equal_sides(sides, signs, context), context):
        return True
    if len(golds) != len(sides):
        return False
    if gold_signs == signs and context.in_order(golds, sides):
        return True
    turned_sides, turned_signs = _turned(sides, signs)
    if gold_signs == turned_signs and context.in_order(golds, turned_sides):
        return True
    return len(golds) == 2 and _is_rearranged(golds, gold_signs[0], sides, signs[0], context)


def _turned(sides: list[str], signs: list[str]) -> tuple[list[str], list[str]]:
    return sides[::-1], [_FLIPPED.get(sign, sign) for sign in reversed(signs)]


def _equal_sides(sides: list[str], signs: list[str], context: Context) -> tuple[str | None, list[str]] | None:
    """Returns the name of a value, if any, and the expressions that equal it, the result last."""
    if set(signs) - {"=", "\\equiv"} or not all(sides):
        return None
    if len(sides) == 1:
        return None, sides
    if "\\equiv" in signs:
        sides = [*sides[:-1], _MODULUS.sub("", sides[-1])]
    if name := _name_of(sides[0], context):
        return name, sides[1:]
    if len(sides) == 2 and (name := _name_of(sides[1], context)):
        return name, sides[:1]
    return None, sides


def _is_the_value(
    gold: tuple[str | None, list[str]] | None, found: tuple[str | None, list[str]] | None, context: Context
) -> bool:
    """Whether all sides have the gold's value, and the result is worked out."""
    if gold is None or found is None or (gold[0] and found[0] and not _same_name(gold[0], found[0])):
        return False
    equation = "=".join((found[0] or "", *found[1])).replace(" ", "")
    if found[0] and not gold[0] and equation in (span.replace(" ", "") for span in context.question.spans):
        return False  # the question's `x = 4` does not answer what m is
    if gold[0] is None and len(gold[1]) > 1 and _has_letters(*gold[1]):
        return False  # an equation, not a value
    loose = Context(context.algebra, Question(""), context.compare)
    *between, result = _percentages_first(found[1], gold[1])
    return all(any(loose.same(each, side) for each in gold[1]) for side in between) and any(
        context.same(each, result) for each in gold[1]
    )


def _percentages_first(sides: list[str], golds: list[str]) -> list[str]:
    r"""Replaces the percentage in `\frac14 = 25\%` by its exact value, and puts it before the other sides."""
    if is_percentage(sides[0]) or any(map(is_percentage, golds)):
        return sides
    values = {side: number(side.rstrip("% ")) for side in sides if is_percentage(side)}
    parts = [str(value / 100) for value in values.values() if value is not None]
    return [*parts, *(side for side in sides if values.get(side) is None)]


def _same_name(gold: str, found: str) -> bool:
    def normalised(name: str) -> str:
        return re.sub(r"\s|\\text|[{}]", "", name).casefold() if "text" in name else name.replace(" ", "")

    if normalised(gold) == normalised(found):
        return True
    graphs = [re.fullmatch(r"y|[A-Za-z]\([a-z]\)", name) is not None for name in (gold, found)]
    return all(graphs) and "y" in (gold, found)  # `f(x) = 2x + 3` is the graph's `y = 2x + 3`


def _is_rearranged(golds: list[str], gold_sign: str, sides: list[str], sign: str, context: Context) -> bool:
    """Whether two relations of two sides are equivalent by rearranging them or multiplying by a number."""
    if {gold_sign, sign} <= {"="} or gold_sign == sign == "\\ne":
        ratio: Ratio = "any"
    elif gold_sign in _FLIPPED and sign in _FLIPPED and (gold_sign in "<>") == (sign in "<>"):
        ratio = "positive" if gold_sign == sign else "negative"
    else:
        return False
    if not all(golds) or not all(sides) or not (_has_letters(*golds) and _has_letters(*sides)):
        return False  # equations of numbers are all equivalent
    if _is_solved(golds) and _is_solved(sides):
        return False  # their values were compared
    if _is_solved(golds) and not _may_be_unsolved(sides, gold_sign, context):
        return False
    differences = [f"{exact(left)}-({exact(right)})" for left, right in (golds, sides)]
    return context.algebra(*differences, ratio=ratio) and is_solved(golds, sides, context.question)


def _may_be_unsolved(sides: list[str], sign: str, context: Context) -> bool:
    """Whether the letter need not stand alone: if an equation was requested, or after a minus sign."""
    if not context.question.text:
        return sign != "="
    return context.question.asks_equation or (sign != "=" and _is_solved([sides[0].removeprefix("-"), sides[1]]))


def _has_letters(*sides: str) -> bool:
    return any(re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", side)) for side in sides)


def _is_solved(sides: list[str]) -> bool:
    """Whether one side is a letter alone and the other a number."""
    return any(
        re.fullmatch(_LETTER, one) and (number(other) is not None or not _has_letters(other))
        for one, other in (sides, sides[::-1])
    )


def reals(gold: str, found: str, context: Context) -> bool | None:
    """Compares sets of reals that are written as inequalities, intervals or `\\mathbb{R}`."""
    both = gold + found
    if not (re.search(_SIGN, both) or "\\mathbb{R}" in both or "\\cup" in both):
        return None
    if re.search(_SIGN, gold) and re.search(_SIGN, found) and "\\ne" not in both:
        return None
    gold_set, found_set = _intervals(gold), _intervals(found)
    if gold_set is None or found_set is None:
        return None
    (golds, gold_letter), (founds, letter) = gold_set, found_set
    if gold_letter and letter and gold_letter != letter:
        return False

    def same(gold: Interval, found: Interval) -> bool:
        (opening, low, high, closing), (o, a, b, c) = gold, found
        return (o, c) == (opening, closing) and context.same(low, a) and context.same(high, b)

    return match_all(_joined(golds), _joined(founds), same)


Interval = tuple[str, str, str, str]


def _intervals(text: str) -> tuple[list[Interval], str] | None:
    """Returns the intervals of a set of reals, and the letter of an inequality; None for anything else."""
    text = text.strip()
    letter = match[0][0] if (match := _SET_NAME.match(text)) else ""
    text = _SET_NAME.sub("", text, count=1) if letter else text
    if text in ("\\mathbb{R}", "\\R"):
        return [("(", "-\\infty", "\\infty", ")")], letter
    if not re.search(_SIGN, text):
        found = [_interval(part) for part in delimiters.split(text, "\\cup")]
        return ([each for each in found if each], letter) if all(found) else None
    parts = [_inequality(part) for part in delimiters.items(text)]
    letters = {part[1] if part else "" for part in parts}
    if len(letters) > 1 or None in parts:
        return None
    return [interval for part in parts if part for interval in part[0]], letters.pop()


def _interval(text: str) -> Interval | None:
    if len(text) < 5 or text[0] not in "([" or text[-1] not in ")]" or not delimiters.closes_at_the_end(text):
        return None
    ends = [end.replace("+\\infty", "\\infty") for end in delimiters.split(text[1:-1], ",")]
    return (text[0], ends[0], ends[1], text[-1]) if len(ends) == 2 else None


def _inequality(text: str) -> tuple[list[Interval], str] | None:
    """Returns the intervals and the letter of `x < 3`, `-1 < x \\le 6` or `x \\ne 2`."""
    sides, signs = delimiters.cut(text, _SIGN)
    if len(sides) == 2:
        if not re.fullmatch(_LETTER, sides[0]):
            sides, signs = _turned(sides, signs)
        letter, end = sides
        below, above = ("(", "-\\infty", end), (end, "\\infty", ")")
        found: list[Interval] = {
            "<": [(*below, ")")], "\\le": [(*below, "]")], ">": [("(", *above)], "\\ge": [("[", *above)],
            "\\ne": [(*below, ")"), ("(", *above)],
        }.get(signs[0], [])  # fmt: skip
        return (found, letter) if found and re.fullmatch(_LETTER, letter) and not _has_letters(end) else None
    if len(sides) == 3 and re.fullmatch(_LETTER, sides[1]):
        if set(signs) <= {">", "\\ge"}:
            sides, signs = _turned(sides, signs)
        if set(signs) <= {"<", "\\le"}:
            opening, closing = ("(" if signs[0] == "<" else "["), (")" if signs[1] == "<" else "]")
            return [(opening, sides[0], sides[2], closing)], sides[1]
    return None


def _joined(intervals: list[Interval]) -> list[Interval]:
    """Joins intervals with numeric ends that meet: `[1,2] \\cup [2,3]`."""
    ends = [(number(low), number(high)) for _, low, high, _ in intervals]
    if any(low is None or high is None for low, high in ends):
        return intervals
    joined: list[Interval] = []
    for opening, low, high, closing in sorted(intervals, key=lambda each: (number(each[1]) or 0, each[0] == "(")):
        if joined and (before := joined[-1])[2] == low and "]" in before[3] + ("]" if opening == "[" else ""):
            joined[-1] = (before[0], before[1], high, closing)
        else:
            joined.append((opening, low, high, closing))
    return joined
