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
    is_command = separator.startswith("\\")  # not behind a row's end
    return cut(text, (r"(?<!\\)" if is_command else "") + re.escape(separator))[0]


def cut(text: str, pattern: str) -> tuple[list[str], list[str]]:
    """Returns the parts between the matches of a pattern outside all brackets, and these matches."""
    parts, separators, depth, start = [], [], 0, 0
    skipped = r"\\\\(?![A-Za-z])|\\[^\\()\[\]<>=]"  # a row's end; a command's beginning, or a sign that parts nothing
    for match in re.finditer(rf"(?P<separator>{pattern})|\\?[{{}}]|[(\[)\]]|{skipped}", text, re.DOTALL):
        if match["separator"] is not None and depth == 0:
            parts.append(text[start : match.start()].strip())
            separators.append(match[0].strip())
            start = match.end()
        elif len(match[0]) == 1 or match[0] in ("\\{", "\\}"):
            depth += (match[0][-1] in "([{") - (match[0][-1] in ")]}")
    return [*parts, text[start:].strip()], separators


def closes_at_the_end(text: str) -> bool:
    """Whether the last character closes the first bracket; both kinds may differ, as in a half-open interval."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0:
            return place == len(text) - 1
    return False


def is_in_braces(text: str) -> bool:
    """Whether one pair of braces encloses the whole text."""
    return text.startswith("{") and text.endswith("}") and closes_at_the_end(text)
