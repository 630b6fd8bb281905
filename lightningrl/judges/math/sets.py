r"""Answers of several parts: matrices, sets, lists, tuples, intervals and their unions.

The order of a list (the roots of an equation) or a set does not matter, and either may stand for the other; the order
of a tuple or a matrix matters. A column is a vector and may be written as a tuple. An interval equals its inequality
(`relations.reals`).
"""

from __future__ import annotations

import re

from lightningrl.judges.math import delimiters
from lightningrl.judges.math.numbers import times
from lightningrl.judges.math.question import Context
from lightningrl.judges.math.relations import named_list

_MATRIX = re.compile(
    r"\\begin\{([pbvBV]?(?:small)?matrix\*?|array)\}(?:\{[^{}]*\}|\[[lcr]\])?(.*)\\end\{\1\}", re.DOTALL
)
_SCALED = re.compile(r"([^&]*?)\s*(?:\\cdot)?\s*((?:[(\[]\s*)?\\begin\{.*)", re.DOTALL)
_OF_A_SCALAR = re.compile(r"\\begin|[=<>,;]|\\text")


def matrices(gold: str, found: str, context: Context) -> bool | None:
    cells = [_cells(text) for text in (gold, found)]
    if cells == [None, None]:
        return None
    if cells[0] is None or cells[1] is None:
        rows = cells[0] or cells[1] or []
        tuples = _bracketed(found if cells[0] is not None else gold)
        if tuples is None or tuples[0] != "()" or any(len(row) != 1 for row in rows):
            return False
        column = [row[0] for row in rows]
        return context.in_order(column, tuples[1]) if cells[0] is not None else context.in_order(tuples[1], column)
    if len(cells[0]) != len(cells[1]) or len({"vmatrix" in text.lower() for text in (gold, found)}) > 1:
        return False  # a determinant is not a matrix
    rows = zip(cells[0], cells[1], strict=True)
    return all(len(a) == len(b) and context.in_order(a, b) for a, b in rows)


def _cells(text: str) -> list[list[str]] | None:
    """Returns the rows of cells, each multiplied by a number before the matrix; None if it is not a matrix."""
    if "\\begin" not in text:
        return None
    text = text[1:-1] if text.startswith("(") and text.endswith(")") and text[1:].startswith("\\begin{p") else text
    inside = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else ""
    match = _MATRIX.fullmatch(text) or _MATRIX.fullmatch(inside)
    if match is None:
        return _scaled(text)
    if inside.startswith("\\begin") and match[1] not in ("array", "matrix", "smallmatrix"):
        return None
    rows = [row for row in match[2].split("\\\\") if row.strip()]
    return [[cell.strip() for cell in row.split("&")] for row in rows]


def _scaled(text: str) -> list[list[str]] | None:
    match = _SCALED.fullmatch(text)
    if match is None or not match[1] or _OF_A_SCALAR.search(match[1]):
        return None
    factor = {"-": "-1", "+": "1"}.get(match[1], match[1])
    cells = _cells(match[2])
    return None if cells is None else [[times(factor, cell) for cell in row] for row in cells]


def sets(gold: str, found: str, context: Context) -> bool | None:
    inside = [text[2:-2] if text.startswith("\\{") and text.endswith("\\}") else None for text in (gold, found)]
    if inside == [None, None] or any(i is not None and "\\}" in i and "\\cup" in i for i in inside):
        return None
    items = [named_list(text if i is None else i) for i, text in zip(inside, (gold, found), strict=True)]
    if None in inside and any(len(part) == 1 for part in items):
        return False  # a list and a set with the same members are the same; `5` and `\\{5\\}` are not
    return context.in_any_order(items[0], items[1])


def unions(gold: str, found: str, context: Context) -> bool | None:
    parts = [delimiters.split(text, r"\cup") for text in (gold, found)]
    if all(len(part) == 1 for part in parts):
        return None
    return context.in_any_order(parts[0], parts[1])


def lists(gold: str, found: str, context: Context) -> bool | None:
    items = [named_list(text) for text in (gold, found)]
    if all(len(part) == 1 for part in items):
        return None
    point = _bracketed(gold)
    if point is not None and point[0] == "()" and len(items[0]) == 1:
        return _coordinates(point[1], found, context)
    return context.in_any_order(items[0], items[1])


def brackets(gold: str, found: str, context: Context) -> bool | None:
    """Compares tuples, points and intervals: two or more items between the outermost brackets."""
    golds, founds = _bracketed(gold), _bracketed(found)
    if golds is None and founds is None:
        is_in_square_brackets = found.startswith("[") and found.endswith("]") and delimiters.closes_at_the_end(found)
        return False if is_in_square_brackets and not gold.startswith("[") else None
    if golds is None or founds is None:
        return False
    return golds[0] == founds[0] and context.in_order(golds[1], founds[1])


def _coordinates(golds: list[str], found: str, context: Context) -> bool:
    """Compares `x=2, y=4` with the point `(2,4)`: each name once, in alphabetical order."""
    pairs = [re.fullmatch(r"([A-Za-z])=([^=<>]+)", item) for item in delimiters.items(found)]
    names = [pair[1] for pair in pairs if pair]
    if re.search(r"\bor\b|\\lor", found):
        return False
    if len(names) != len(pairs) or len(pairs) < 2 or names != sorted(set(names)):
        return False
    return context.in_order(golds, [pair[2] for pair in pairs if pair])


def _bracketed(text: str) -> tuple[str, list[str]] | None:
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]" and delimiters.closes_at_the_end(text):
        items = [item for part in delimiters.split(text[1:-1], ";") for item in delimiters.split(part, ",")]
        if len(items) > 1:
            return text[0] + text[-1], items
    return None
