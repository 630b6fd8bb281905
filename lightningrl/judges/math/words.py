r"""Answers in words: names, choices, times of day. They are compared without case and articles."""

from __future__ import annotations

import re

from lightningrl.judges.math.question import Context

_BARE = re.compile(r"[^\W\d_]{4,}(?:[ -][^\W\d_]+)*(?: ?[0-9]+)?|[^\W\d_]+(?: [^\W\d_]+)+|[Nn]o|[Yy]es|[Oo]dd")
_LETTERS = re.compile(r"[^\W\d_]{2,3}")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_CHOICE = re.compile(r"(?:\\text\{)?\(([A-Z])\)\}?[ .:]*(.*)", re.DOTALL)
_CLOCK = re.compile(
    r"(?:\\text\{)?([0-9]{1,2})(?::([0-9]{2}))?(?::([0-9]{2}))?\}? ?(?:\\text\{)? ?([ap])\.? ?m\.?\}?", re.IGNORECASE
)
_HOURS = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_TOKEN = re.compile(r"[^\W\d_]+|[0-9]+")
_DENIALS = frozenset(
    {"not", "no", "none", "never", "wrong", "false", "incorrect", "isn", "t", "or", "and", "but", "except", "untrue"}
)
_NOTHING = frozenset({"no solution", "no solutions", "empty", "empty set", "the empty set", "no real solutions"})
"""The words for `\\emptyset`."""


def choices(gold: str, found: str, context: Context) -> bool | None:
    """Compares a choice's letter in brackets, followed by a text that must be that option's."""
    letter, match = _CHOICE.fullmatch(gold), _CHOICE.fullmatch(found)
    if letter is None or letter[2] or match is None or not match[2]:
        return None
    return match[1] == letter[1] and _is_the_option(match[1], match[2], context)


def word_lists(gold: str, found: str, context: Context) -> bool | None:
    r"""Compares `\text{A,C}` and `A, C` in order; a word of capitals may be written as their list."""
    if re.fullmatch(r"\\text\{[A-Z]{3,}\}", gold) and re.fullmatch(r"(?:\\text\{)?(?:[A-Z], ?)+[A-Z]\}?", found):
        return re.sub(r"[^A-Z]", "", found.replace("\\text", "")) == gold[6:-1]
    if not any(re.fullmatch(r"\\text\{[^{}]*,[^{}]*\}", text) for text in (gold, found)):
        return None
    lists = [_items(text) for text in (gold, found)]
    return [word.strip(" .()") for word in lists[0]] == [word.strip(" .()") for word in lists[1]]


def _items(text: str) -> list[str]:
    text = text[2:-2] if text.startswith("\\{") and text.endswith("\\}") else text
    text = re.sub(r",?\\text\{\s*and\s*\}|(?<=[A-Z])\s*and\s*(?=[A-Z]|\\text)", ",", text)
    return _TEXT.sub(r"\1", text).casefold().split(",")


def clocks(gold: str, found: str, context: Context) -> bool | None:
    """Compares times of day with `a.m.` or `p.m.`; one without may be on a 24-hour clock."""
    if not _CLOCK.fullmatch(gold) and not _CLOCK.fullmatch(found):
        return None
    one, other = _seconds(gold), _seconds(found)
    return None if one is None or other is None else one == other


def _seconds(text: str) -> int | None:
    match = _CLOCK.fullmatch(text) or _HOURS.fullmatch(text)
    if match is None:
        return None
    hour, is_on_12_hours = int(match[1]), match.re is _CLOCK
    if not (1 <= hour <= 12 if is_on_12_hours else hour > 12):
        return None
    hour = hour % 12 + 12 * (match[4].lower() == "p") if is_on_12_hours else hour
    return hour * 3600 + int(match[2] or 0) * 60 + int(match[3] or 0)


def words(gold: str, found: str, context: Context) -> bool | None:
    one, other = _word(gold), _word(found)
    if one is None and other is None:
        return None
    if (one in _NOTHING and found.strip() == "\\emptyset") or (other in _NOTHING and gold.strip() == "\\emptyset"):
        return True
    one = gold.casefold() if one is None and _LETTERS.fullmatch(gold) else one
    other = found.casefold() if other is None and _LETTERS.fullmatch(found) else other
    if not one or not other:
        return False
    one, other = (re.sub("^(?:an?|the) ", "", word) for word in (one, other))
    return one.replace(" ", "") == other.replace(" ", "") or (one in _NOTHING and other in _NOTHING)


def _is_the_option(letter: str, text: str, context: Context) -> bool:
    """Whether the text after a choice's letter is the option's text in the question.

    If the question is unknown: whether the text neither names another choice nor denies this one.
    """
    words = _TOKEN.findall(_COMMAND.sub(" ", text))
    if all(re.fullmatch("[A-H]", word) for word in words):
        return not words
    if not context.question.text:
        return not any(re.fullmatch("[A-H]", word) or word.casefold() in _DENIALS for word in words)
    tokens = _TOKEN.findall(_COMMAND.sub(" ", context.question.text))
    ends = [place + 1 for place, word in enumerate(tokens) if word == letter]
    option = "".join(words)
    return option in ("".join(tokens[start:end]) for start in ends for end in range(start + 1, start + 1 + len(option)))


def _word(text: str) -> str | None:
    r"""Returns a word or words, in `\text{...}` or without, or a choice's letter in brackets; None for others."""
    if match := re.fullmatch(r"\\text\{(.*)\}([0-9]*)", text):
        inner = re.sub(r"\\text\{|\}", "", f"{match[1].strip(' .')} {match[2]}").strip()
        return inner.strip("()").casefold() if inner and not re.fullmatch(r"[0-9+\-*/^ ]*", inner) else None
    if match := re.fullmatch(r"\(([A-Z])\)", text):
        return match[1].casefold()
    bare = text.strip(" .")
    if re.fullmatch(r"[A-E]", bare):
        return bare.casefold()
    return bare.casefold() if _BARE.fullmatch(bare) else None
