r"""The pieces of a response that may be code: its fenced blocks, and the text outside of them.

Blocks are CommonMark's (0.31, section 4.5): a fence of backticks or tildes is closed by one of the same character that
is at least as long, and its indentation, in a list for example, is removed from its lines. Two rules differ because
models do: a fence that names a language opens a block even if the previous one has no end yet, and a block without an
end stops at backticks that end a line of code. Lines of prose split the text of such a block, and the text outside of
all blocks. Nothing is parsed or compiled, since model-written text could crash the process. Everything is linear in the
text.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass, replace

OUTSIDE, UNTAGGED, PYTHON, OTHER = 0, 1, 2, -1

_ITEM = r"(?:[-*+]|\d{1,9}[.)])[ \t]++"
_FENCE = re.compile(rf"([ \t]*+(?:{_ITEM})?)(`{{3,}}+|~{{3,}}+)[ \t{{.]*+(\w*+)(.*)")
_LIST = re.compile(rf"[ \t]*+{_ITEM}")
_DEEPEST = 3
"""The maximum of blanks before a fence outside of lists, and before a closing fence beyond those of the opening."""
_TAIL = re.compile(r"(?<=[^\s`])`{3,}+[ \t]*$", re.MULTILINE)
_PYTHON_TAG = re.compile(r"i?py(?:thon)?\d*", re.IGNORECASE)
_TEXT_TAGS = ("", "markdown", "md")
_MARK = re.compile(r"^[ \t]*\[/?[A-Z]{3,}\][ \t]*$", re.MULTILINE)
"""Lines such as [BEGIN], [DONE] and [/PYTHON], which some prompts request around the code."""
_QUOTES = re.compile("\"\"\"|'''")
_PROSE = re.compile(
    r"(?:[^\W\d][\w'’-]*[,:]?[ \t]++)*[^\W\d][\w'’-]*[ \t]++[^\W\d]"  # two words side by side
    r"|[^\W\d][\w'’-]*[.!?](?:[ \t]|$)|[^\W\d][\w'’-]*:\**[ \t]*$"  # a word and the end of a sentence
    r"|[-*>+][ \t]+[^\W\d(]|\d+[.)][ \t]|\*\*|[-=*]{3,}[ \t]*$|[`$<>|?!]"  # Markdown
    r"|[^'\"#]*[`，。：；！？、]"
)
_WORD = re.compile(r"[^\W\d]\w*")
_KEYWORDS = {*keyword.kwlist, *keyword.softkwlist, "print", "exec"}


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of text that may be code.

    >>> split_pieces("So:\\n```python\\nx = 1\\n```\\n")
    [Piece(tag='python', text='x = 1', is_complete=True)]
    """

    tag: str | None
    """The language that its fence names, in lower case; None: lines outside of blocks."""
    text: str
    is_complete: bool
    """Whether it is a block with an end."""

    @property
    def kind(self) -> int:
        if self.tag is None:
            return OUTSIDE
        return UNTAGGED if self.tag in ("", "code") else PYTHON if _PYTHON_TAG.fullmatch(self.tag) else OTHER


def split_pieces(text: str) -> list[Piece]:
    """Returns all pieces that are not blank, in order. Prose without any block is one unchanged piece."""
    found = _pieces(text, is_inner=False)
    is_prose = not found and all(block.tag is None for block in _blocks(text))
    return [Piece(None, text, False)] if is_prose and text.strip() else found


def open_block(text: str) -> str | None:
    """Returns the text so far of a last block without an end; None: the text ends outside of blocks."""
    last = _blocks(text)[-1]
    return None if last.tag is None or last.is_complete else last.text


def begins_with_fence(text: str) -> bool:
    return _fence(text.lstrip().partition("\n")[0]) is not None


@dataclass(frozen=True, slots=True)
class _Fence:
    indent: int
    mark: str
    tag: str
    is_plain: bool
    """Whether nothing else is on its line."""

    def ends(self, opening: _Fence) -> bool:
        """Whether it ends the block that `opening` opened, by closing it or by opening another with a language."""
        is_like = self.mark[0] == opening.mark[0] and len(self.mark) >= len(opening.mark)
        return is_like and self.indent <= opening.indent + _DEEPEST and (self.is_plain or bool(self.tag))


def _fence(line: str) -> _Fence | None:
    match = _FENCE.fullmatch(line)
    if match is None or (match[2][0] == "`" and "`" in match[4]):
        return None
    is_plain = not (match[1].strip() or match[3] or match[4].strip())
    return _Fence(len(match[1]), match[2], match[3].lower(), is_plain)


def _blocks(text: str) -> list[Piece]:
    """Returns all blocks and what stands outside of them, in order; the last one is not complete."""
    blocks: list[Piece] = []
    opening: _Fence | None = None
    block: list[str] = []
    is_list = False

    def end(is_closed: bool) -> None:
        text = "\n".join(block)
        if opening is not None and opening.indent:
            text = re.sub(rf"^[ \t]{{1,{opening.indent}}}", "", text, flags=re.MULTILINE)
        if opening is not None and not is_closed:
            text = _TAIL.split(text, maxsplit=1)[0]
        blocks.append(Piece(None if opening is None else opening.tag, text, is_closed))
        block.clear()

    for line in text.split("\n"):
        fence = _fence(line)
        if opening is None:
            is_list = is_list or _LIST.match(line) is not None
        if fence is None or not (fence.ends(opening) if opening else fence.indent <= _DEEPEST or is_list):
            block.append(line)
            continue
        closes = opening is not None and fence.is_plain
        end(is_closed=closes)
        opening = None if closes else fence
    end(is_closed=False)
    return blocks


def _pieces(text: str, is_inner: bool) -> list[Piece]:
    found: list[Piece] = []
    for block in _blocks(text):
        is_page = not is_inner and block.tag in _TEXT_TAGS
        if is_page and any(inner.kind == PYTHON for inner in _blocks(block.text)):
            found += _pieces(block.text, is_inner=True)
        elif block.is_complete:
            found.append(replace(block, text=_MARK.sub("", block.text)))
        else:
            found += [replace(block, text=run) for run in _without_prose(block.text)]
    return [piece for piece in found if piece.text.strip()]


def _without_prose(text: str) -> list[str]:
    """Returns the runs of lines between lines of prose, marks, and stray fences."""
    runs: list[list[str]] = [[]]
    quote = ""
    for line in text.split("\n"):
        if not quote and (_is_prose(line) or _is_stray(line) or _MARK.match(line)):
            runs.append([])
            continue
        runs[-1].append(line)
        for mark in _QUOTES.findall(line):
            if quote in ("", mark):
                quote = "" if quote else mark
    return ["\n".join(run) for run in runs]


def _is_prose(line: str) -> bool:
    """Whether a line at the margin is prose: two adjacent names, of which the first is not a keyword, for example."""
    word = _WORD.match(line)
    return _PROSE.match(line) is not None and not (word and word[0] in _KEYWORDS)


def _is_stray(line: str) -> bool:
    fence = _fence(line)
    return fence is not None and fence.indent <= _DEEPEST
