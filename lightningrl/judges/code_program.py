"""Find the program in a response.

Chat models answer with a Markdown code block. Where the prompt ends with the beginning of the answer (a prefill: an
assistant turn that opens a block, perhaps with the signature of the function to complete), the program is that
beginning and what the response makes of it. Linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r" {0,3}```[ \t]*+(\w*+)[^`]*+")
_OPENING = re.compile(r"^ {0,3}```[ \t]*(python3|python|py)\b[ \t]*", re.MULTILINE | re.IGNORECASE)
_PYTHON_TAGS = ("python", "python3", "py")


@dataclass(frozen=True, slots=True)
class _Block:
    tag: str
    text: str
    is_closed: bool


def extract_program(response: str, prefill: str = "") -> str | None:
    """The last complete ```python block, else the last complete block without a language; a text without any fence
    is itself the program. None: fences, but no such block, or nothing but blanks.

    With a prefill that opens a ```python block: that block, if the response closes it or opens no other; it may end
    with the text, since a response may stop right after the code. When the response adds nothing to it, or opens
    another block inside it, the response's own blocks count as above, and the last one need not be closed.

    >>> extract_program("It is\\n```python\\nx = 1\\n```\\n")
    'x = 1'
    >>> extract_program("    return x\\n```\\nThat is all.", prefill="The code:\\n```python\\ndef f(x):\\n")
    'def f(x):\\n    return x'
    """
    openings = list(_OPENING.finditer(prefill))
    if openings:
        begin = prefill[openings[-1].end() :].removeprefix("\n")
        # A prefill may end with the fence itself; the line break after it is then the response's.
        rest = response if begin or prefill.endswith("\n") else response.removeprefix("\n")
        return _continued(begin, rest)
    blocks, has_fence = _blocks((prefill + response).split("\n"), None)
    return _not_blank(_last(blocks) if has_fence else prefill + response)


def _continued(begin: str, response: str) -> str | None:
    blocks, _ = _blocks((begin + response).split("\n"), "python")
    first, *others = blocks
    adds = first.text.strip() != begin.strip()
    if adds and (first.is_closed or not others):
        return _not_blank(first.text)
    own, _ = _blocks(response.split("\n"), None)
    program = _last(own) or next((block.text for block in reversed(own) if block.tag in _PYTHON_TAGS), None)
    return _not_blank(program if program is not None else first.text)


def _blocks(lines: list[str], tag: str | None) -> tuple[list[_Block], bool]:
    """All blocks in order, the one that the text's end leaves open included, and whether there is a fence at all.

    tag: of the block that is open at the beginning; None: no block is.
    """
    blocks: list[_Block] = []
    has_fence, start = False, 0
    for number, line in enumerate(lines):
        fence = _FENCE.fullmatch(line)
        if fence is None:
            continue
        has_fence = True
        if tag is None:
            tag, start = fence[1].lower(), number + 1
            continue
        # A fence with a language always opens: the block before it was not closed.
        blocks.append(_Block(tag, "\n".join(lines[start:number]), not fence[1]))
        tag, start = fence[1].lower() or None, number + 1
    if tag is not None:
        blocks.append(_Block(tag, "\n".join(lines[start:]), False))
    return blocks, has_fence


def _last(blocks: list[_Block]) -> str | None:
    closed = [block for block in blocks if block.is_closed]
    python = [block.text for block in closed if block.tag in _PYTHON_TAGS]
    plain = [block.text for block in closed if block.tag == ""]
    return python[-1] if python else plain[-1] if plain else None


def _not_blank(program: str | None) -> str | None:
    return program if program is not None and program.strip() else None
