"""Find the program in a response.

Of the pieces of the response that may be code (`lightningrl.judges.code_blocks`), the program is

1. the last one that defines the entry point (for a program that reads and prints: the last one that reads), blocks
   with an end before all else, since a text may have been cut off in a block without one; with the imports, functions,
   classes and constants of earlier pieces that it uses and does not have itself;
2. where there is none, all of them together.

A prompt may end with the beginning of the answer (a prefill: an assistant turn that opens a block, perhaps with the
signature of the function to complete). The response goes on in that block, unless it begins with a fence of its own.
Linear in the text.
"""

from __future__ import annotations

import keyword
import re
import textwrap
from collections.abc import Sequence

from lightningrl.judges.code_blocks import OUTSIDE, PYTHON, UNTAGGED, Piece, begins_with_fence, ends_open, pieces_of

_READS = re.compile(r"\binput\(|\bstdin\b|\bopen\(0|\bfileinput\b")
_BEGIN, _DONE = (
    re.compile(r"^\[BEGIN\](?=[^\n])", re.MULTILINE),
    re.compile(r"(?<=\S)[ \t]*\[DONE\][ \t]*$", re.MULTILINE),
)
_BYTE_ORDER_MARK = re.compile("^\ufeff", re.MULTILINE)
_WORD = re.compile(r"[^\W\d]\w*")
_BINDS = re.compile(
    r"(?:@.*+\n)*+(?:(?:async )?(?:def|class)[ \t]+(\w+)|(import|from)\b"
    r"|((?:\w++[ \t]*+,?[ \t]*+)++)(?::[^=\n]*+)?=(?!=))"
)


def extract_program(response: str, prefill: str = "", entry_point: str | None = None) -> str | None:
    """The program. None: there are blocks, but none of Python, or nothing but blanks.

    entry_point: the function that is called; None: the program reads and prints.

    >>> extract_program("It is\\n```python\\nx = 1\\n```\\n")
    'x = 1'
    >>> extract_program("    return x\\n```\\nThat is all.", "The code:\\n```python\\ndef f(x):\\n", "f")
    'def f(x):\\n    return x'
    """
    response, prefill = _cleaned(response), _cleaned(prefill)
    begun = ends_open(prefill)
    if begun is not None and begins_with_fence(response):
        return _chosen([Piece(PYTHON, begun, False)], pieces_of(response), entry_point)
    ends_with_fence = begun is not None and begins_with_fence(prefill.rpartition("\n")[2])
    if ends_with_fence and not response.lstrip(" \t").startswith("\n"):
        prefill += "\n"
    return _chosen([], pieces_of(prefill + response), entry_point)


def _cleaned(text: str) -> str:
    """Line breaks of one kind, no byte-order marks; what MBPP's prompts ask for around the code on lines of its own."""
    text = _BYTE_ORDER_MARK.sub("", text.replace("\r\n", "\n"))
    return _DONE.sub("\n[DONE]", _BEGIN.sub("[BEGIN]\n", text))


def _chosen(begun: list[Piece], own: list[Piece], entry_point: str | None) -> str | None:
    """begun: what the prompt has begun and the response has not gone on with."""
    essential = _READS if entry_point is None else _definition_of(entry_point)
    pieces = begun + own
    places = [
        (piece.is_complete, piece.kind, place) for place, piece in enumerate(pieces)
        if place >= len(begun) and piece.kind >= OUTSIDE and essential.search(_flush(piece.text))
    ]  # fmt: skip
    if not places:
        kinds = {piece.kind for piece in pieces}
        kind = next((kind for kind in (PYTHON, UNTAGGED) if kind in kinds), OUTSIDE if kinds <= {OUTSIDE} else None)
        program = "\n".join(piece.text for piece in pieces if piece.kind == kind)
        return program if program.strip() else None
    _, kind, place = max(places)
    earlier = [piece.text for piece in pieces[:place] if piece.kind >= min(kind, UNTAGGED)]
    program = _flush(pieces[place].text)
    return "\n".join([*_lacking(program, earlier, entry_point), program])


def _definition_of(name: str) -> re.Pattern[str]:
    defined = rf"(?:(?:async[ \t]+)?def|class)[ \t]+{name}\b"
    return re.compile(rf"^(?:{defined}|{name}[ \t]*(?::[^=\n]*)?=(?!=))", re.MULTILINE)


def _flush(text: str) -> str:
    """The text at the margin; one that begins there stays as it is."""
    return textwrap.dedent(text) if text.lstrip("\n")[:1] in (" ", "\t") else text


def _lacking(program: str, earlier: Sequence[str], entry_point: str | None) -> list[str]:
    """Statements of earlier pieces that bind what the program uses and does not bind; of two, the later one.

    An assignment in which the entry point is called, or something is read, is an example of its use.
    """
    use = _READS if entry_point is None else re.compile(rf"\b{entry_point}\b")
    statements = [statement for text in earlier for statement in _statements(_flush(text))]
    binding: dict[str, int] = {}
    for number, statement in enumerate(statements):
        binding |= dict.fromkeys(_bound(statement, use), number)
    known = {name for statement in _statements(program) for name in _bound(statement, None)}
    taken = {number for number, statement in enumerate(statements) if re.match(r"from\b.*\bimport[ \t]+\*", statement)}
    waiting = {*_WORD.findall(program)} - known
    while waiting:
        number = binding.get(waiting.pop())
        if number is not None and number not in taken:
            taken.add(number)
            waiting.update({*_WORD.findall(statements[number])} - known)
    return [statements[number] for number in sorted(taken)]


def _statements(text: str) -> list[str]:
    """Lines at the margin, each with the decorators before it and the lines that belong to it."""
    found: list[list[str]] = []
    for line in text.split("\n"):
        if found and (not line or line[0] in " \t)]}#" or found[-1][-1].startswith("@")):
            found[-1].append(line)
        else:
            found.append([line])
    return ["\n".join(lines) for lines in found]


def _bound(statement: str, use: re.Pattern[str] | None) -> set[str]:
    """The names that a statement binds; of an assignment that matches `use`, none."""
    match = _BINDS.match(statement)
    if match is None or (match[3] and use and use.search(statement)):
        return set()
    if match[2]:
        return {*_WORD.findall(statement)}.difference(keyword.kwlist)
    return {*_WORD.findall(match[1] or match[3])}
