r"""The rules that decide whether a mathematical answer is the gold answer; they use algebra only where they must.

The outermost form of an answer determines its kind: a matrix, a set `\{...\}`, a union of intervals, a tuple or
interval (brackets matter), a relation, a list (`5, 7`; `1 \pm 2` is two), a word, a quantity with a unit, a percentage,
a number in a base, or an expression. Answers of different kinds differ, with these exceptions:

- a quantity equals a number without a unit if the numbers are equal (`36 apples`, `36`; `90^\circ`, `90`). Two
  different units are different answers (`3 cm`, `3 m`).
- the order of a list or a set does not matter, and either may stand for the other (`sets`).
- `x = 5` is `5`, `x \in S` is `S`, an inequality is its interval (`relations`).

The two sides have different roles: an expression with the gold's value is right only if it is as simplified as the gold
and not copied from the question (`finished`). Linear except for matching lists; raises Unreadable (`text`).
"""

from __future__ import annotations

import re

from lightningrl.judges.math import delimiters
from lightningrl.judges.math.finished import unfinished
from lightningrl.judges.math.numbers import based, exact, is_percentage, number, percentages, quantities
from lightningrl.judges.math.question import Algebra, Context, Question
from lightningrl.judges.math.relations import reals, relations
from lightningrl.judges.math.sets import brackets, lists, matrices, sets, unions
from lightningrl.judges.math.text import clean
from lightningrl.judges.math.words import choices, clocks, word_lists, words

_UNKNOWN = Question("")


def equal(
    gold: str, found: str, algebra: Algebra, question: Question = _UNKNOWN, reasons: list[str] | None = None
) -> bool:
    """Whether `found` is the gold answer to the question. Raises Unreadable.

    It appends to `reasons` readable reasons why the answer, or a part of it, was refused whatever its value.
    """
    return _same(clean(gold), clean(found), Context(algebra, question, _same, [] if reasons is None else reasons))


def _same(gold: str, found: str, context: Context) -> bool:
    if gold == found:
        return bool(gold)
    if not gold or not found:
        return False
    golds = [part for part in re.split(r"\\approx(?![A-Za-z])", gold) if part.strip()]
    if len(golds) > 1:  # the gold says its value twice
        return any(_same(part.strip(), found, context) for part in golds)
    gold, found = _strip_wrapping(gold), _strip_wrapping(found)
    for rule in _KINDS:
        verdict = rule(gold, found, context)
        if verdict is not None:
            return verdict
    return _expressions(gold, found, context)


def _expressions(gold: str, found: str, context: Context) -> bool:
    if gold == found:
        return True
    numbers = number(gold), number(found)
    if None not in numbers:
        return numbers[0] == numbers[1] and _is_finished(gold, found, context)
    if not (gold.isascii() and found.isascii()) or any(re.search(r"[0-9]_", text) for text in (gold, found)):
        return False  # digits of other scripts; a subscript that is no base
    return _is_finished(gold, found, context) and context.algebra(exact(gold), exact(found))


def _is_finished(gold: str, found: str, context: Context) -> bool:
    if reason := unfinished(gold, found, context.question):
        context.reasons.append(f"refused whatever its value: {found[:40]} {reason}")
    return reason is None


def _strip_wrapping(text: str) -> str:
    r"""Removes `x \in` before a set, braces around the whole, a comma at the end, and an approximation."""
    while delimiters.is_in_braces(text):
        text = text[1:-1].strip()
    text = re.split(r"\\approx(?![A-Za-z])", text)[0].strip() or text
    if (system := re.fullmatch(r"\\begin\{cases\}(.*)\\end\{cases\}", text, re.DOTALL)) and "&" not in text:
        text = ",".join(row for row in system[1].split("\\\\") if row.strip())
    text = re.sub(r"^[A-Za-z]\\in(?![A-Za-z])\s*(?=\\?[{(\[])", "", text)
    return text.rstrip(",;").removesuffix("." if not text.endswith("..") else "")


def _ratios(gold: str, found: str, context: Context) -> bool | None:
    """Compares `3:4` and times part by part, without cancelling."""
    parts = [delimiters.split(text, ":") for text in (gold, found)]
    if len(parts[1]) == 1 < len(parts[0]):
        parts[1] = re.split(r"(?<=[0-9])\s*(?:\\text\{ ?to ?\}| to )\s*(?=[0-9])", found)
    if all(len(part) == 1 for part in parts):
        return None
    return not is_percentage(found) and context.in_order(parts[0], parts[1])


def _residues(gold: str, found: str, context: Context) -> bool | None:
    r"""Compares the worked-out number in `3 \pmod 7` if the question mentions that modulus."""
    match = re.fullmatch(r"(-?[0-9]+)\s*\(?\\[pb]?mod\s*(?:\{([0-9]+)\}|([0-9]+))\)?", found)
    question = context.question
    if match is None or not question.residues or not re.search(rf"\b{match[2] or match[3]}\b", question.text):
        return None
    if any(found in span for span in question.spans):
        return False  # the question's own words
    return number(gold) is not None and context.same(gold, match[1])


_KINDS = (
    choices, clocks, reals, relations, matrices, word_lists, sets, unions, lists, brackets, _ratios, percentages,
    _residues, quantities, based, words,
)  # fmt: skip
"""The rules in their order, from the outermost form inwards."""
