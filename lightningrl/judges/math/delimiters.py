"""Splitting an answer at its brackets and separators: the items of lists, the parts between separators. Linear."""

from __future__ import annotations

import re

_CONJUNCTION = (
    r",?\\text\{,?\s*(?:and|or)\}|\\lor(?![A-Za-z])"
    r"|(?:,| (?=[ao]))? ?(?<=[0-9})\], ])(?:and|or) ?(?=[-0-9\\(\[]|[A-Za-z](?:_[^ ]{1,6})?[=<>\\(])"
)


def items(text: str) -> list[str]:
    r"""Returns the top-level items of a list, which commas, `and`, `or` and `a \pm b` separate."""
    text = re.sub(_CONJUNCTION, ",", text)
    parts = [part for half in split(text, ";") for part in split(half, ",")]
    items = [item for item in parts if item] or [text]
    return [each for item in items for each in _both(item)]


def _both(item: str) -> list[str]:
    if len(halves := re.split(r"\\pm(?![A-Za-z])\s*", item)) != 2:
        return [item]
    before, after = halves
    return [f"{before}+{after}" if before else after, f"{before}-{after}"]


def split(text: str, separator: str) -> list[str]:
    """Splits a text at the separators outside all brackets."""
    parts, depth, start, place = [], 0, 0, 0
    while place < len(text):
        if text.startswith(separator, place) and depth == 0:
            parts.append(text[start:place].strip())
            place += len(separator)
            start = place
            continue
        if text[place] == "\\" and place + 1 < len(text):
            depth += {"{": 1, "}": -1}.get(text[place + 1], 0)
            place += 2
            continue
        depth += 1 if text[place] in "([{" else -1 if text[place] in ")]}" else 0
        place += 1
    return [*parts, text[start:].strip()]


def closes_at_the_end(text: str) -> bool:
    """Whether the last character closes the first bracket; both kinds may differ, as in a half-open interval."""
    depth = 0
    for place, sign in enumerate(text):
        depth += 1 if sign in "([{" else -1 if sign in ")]}" else 0
        if depth == 0:
            return place == len(text) - 1
    return False


def is_in_braces(text: str) -> bool:
    """Whether one pair of braces encloses the whole text."""
    return text.startswith("{") and text.endswith("}") and closes_at_the_end(text)
