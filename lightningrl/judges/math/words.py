r"""Answers in words: names, choices, times of day. They are compared without case and articles."""

from __future__ import annotations

import re

from lightningrl.judges.math.context import Context

_BARE = re.compile(r"[^\W\d_]{4,}(?:[ -][^\W\d_]+)*(?: ?[0-9]+)?|[^\W\d_]+(?: [^\W\d_]+)+|[Nn]o|[Yy]es|[Oo]dd")
_LETTERS = re.compile(r"[^\W\d_]{2,3}")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_CHOICE = re.compile(r"(?:\\text\{)?\(([A-Z])\)\}?[ .:]*(.*)", re.DOTALL)
_CLOCK = re.compile(
    r"(?:\\text\{)?([0-9]{1,2})(?::([0-9]{2}))?(?::([0-9]{2}))?\}? ?(?:\\text\{)? ?([ap])\.? ?m\.?\}?", re.IGNORECASE
)
_HOURS = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?")
_ARTICLE = re.compile(r"^(?:an?|the) ")
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
    times = [_CLOCK.fullmatch(text) for text in (gold, found)]
    if times == [None, None]:
        return None
    seconds = [_seconds(text) for text in (gold, found)]
    if None in seconds:
        return None
    return seconds[0] == seconds[1]


def _seconds(text: str) -> int | None:
    if match := _CLOCK.fullmatch(text):
        hour, half = int(match[1]), match[4].lower()
        if not 1 <= hour <= 12:
            return None
        return (hour % 12 + 12 * (half == "p")) * 3600 + int(match[2] or 0) * 60 + int(match[3] or 0)
    if (match := _HOURS.fullmatch(text)) and int(match[1]) > 12:
        return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3] or 0)
    return None


def words(gold: str, found: str, context: Context) -> bool | None:
    pair = [_word(text) for text in (gold, found)]
    if pair[0] is None and pair[1] is None:
        return None
    for one, other in ((0, 1), (1, 0)):
        text = (gold, found)[other]
        if pair[one] in _NOTHING and text.strip() == "\\emptyset":
            return True
        if pair[one] is not None and pair[other] is None and _LETTERS.fullmatch(text):
            pair[other] = text.casefold()
    if pair[0] is None or pair[1] is None:
        return False
    bare = [_ARTICLE.sub("", word) for word in pair if word]
    if bare[0].replace(" ", "") == bare[1].replace(" ", ""):
        return True
    return bare[0] in _NOTHING and bare[1] in _NOTHING


def _is_the_option(letter: str, text: str, context: Context) -> bool:
    """Whether the text after a choice's letter is the option's text in the question.

    If the question is unknown: whether the text neither names another choice nor denies this one.
    """
    words = _TOKEN.findall(_COMMAND.sub(" ", text))
    if all(re.fullmatch("[A-H]", word) for word in words):
        return not words
    if context.question is None:
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
