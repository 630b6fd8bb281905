"""Find the program in a response.

Among the pieces of the response that may be code (`lightningrl.judges.code.blocks`), the program is

1. the last piece that defines the entry point (for a program that reads and prints: the last one that reads), with a
   preference for blocks with an end, since the text may have been cut off in a block without one; together with the
   imports, functions, classes and constants of earlier pieces that it uses but does not contain, and the statements
   that fill those;
2. if there is no such piece, all pieces together.

A prompt may end with the beginning of the answer (a prefill: an assistant turn that opens a block, perhaps with the
signature of the function to complete). The response continues that block unless it begins with its own fence. Linear in
the text.
"""

from __future__ import annotations

import keyword
import re
import textwrap
from collections.abc import Sequence

from lightningrl.judges.code.blocks import OUTSIDE, PYTHON, UNTAGGED, Piece, begins_with_fence, open_block, split_pieces

_READS = re.compile(r"\binput\(|\bstdin\b|\bopen\(0|\bfileinput\b")
_BEGIN, _DONE = (
    re.compile(r"^\[BEGIN\](?=[^\n])", re.MULTILINE),
    re.compile(r"(?<=\S)[ \t]*\[DONE\][ \t]*$", re.MULTILINE),
)
_ONE_LINE = re.compile(
    r"^([ \t]*```(?:py|python3?)?)[ \t]+((?:def|class|import|from)\b[^\n`]*+)```[ \t]*$", re.MULTILINE
)
"""A whole block on one line."""
_HTML = re.compile(r"<code>\s*+((?:def|class|import|from)\b(?:(?!<code>|</code>).)*+)</code>", re.DOTALL)
_BYTE_ORDER_MARK = re.compile("^\ufeff", re.MULTILINE)
_EXAMPLE = re.compile(r"\bprint\(|\bassert\b|\b(?:exit|quit)\(|__name__|^\W|^(?:return|break|continue|del|await)\b")
"""A statement that demonstrates or tests something or ends the program, so that it cannot fill a table."""
_GOES_ON = re.compile(r"[ \t)\]}#]|(?:else|elif|except|finally)\b")
_WORD = re.compile(r"[^\W\d]\w*")
_BINDS = re.compile(
    r"(?:@.*+\n)*+(?:(?:async )?(?:def|class)[ \t]+(\w+)|(import|from)\b"
    r"|((?:\w++[ \t]*+,?[ \t]*+)++)(?::[^=\n]*+)?=(?!=))"
)


def extract_program(response: str, prefill: str = "", entry_point: str | None = None) -> str | None:
    """Returns the program; None if no block is Python, or if there is nothing but blanks.

    `entry_point` is the function that is called; None: the program reads and prints.

    >>> extract_program("It is\\n```python\\nx = 1\\n```\\n")
    'x = 1'
    >>> extract_program("    return x\\n```\\nThat is all.", "The code:\\n```python\\ndef f(x):\\n", "f")
    'def f(x):\\n    return x'
    """
    response, prefill = _normalised(response), _normalised(prefill)
    prefilled = open_block(prefill)
    if prefilled is not None and begins_with_fence(response):
        return _choose_program([Piece("python", prefilled, False)], split_pieces(response), entry_point)
    ends_with_fence = prefilled is not None and begins_with_fence(prefill.rpartition("\n")[2])
    if ends_with_fence and not response.lstrip(" \t").startswith("\n"):
        prefill += "\n"
    return _choose_program([], split_pieces(prefill + response), entry_point)


def _normalised(text: str) -> str:
    """Unifies line breaks, removes byte-order marks, and puts marks around the code (MBPP's) on their own lines."""
    text = _BYTE_ORDER_MARK.sub("", text.replace("\r\n", "\n"))
    text = _ONE_LINE.sub(r"\1\n\2\n```", text) if "```" in text else _HTML.sub(r"\n```python\n\1\n```\n", text)
    return _DONE.sub("\n[DONE]", _BEGIN.sub("[BEGIN]\n", text))


def _choose_program(prefilled: list[Piece], own: list[Piece], entry_point: str | None) -> str | None:
    """Returns the program among the response's pieces; `prefilled` are those of a prefill that it does not continue."""
    essential = _READS if entry_point is None else _definition_of(entry_point)
    pieces = prefilled + own
    places = [
        (piece.is_complete, piece.kind, place) for place, piece in enumerate(pieces)
        if place >= len(prefilled) and piece.kind >= OUTSIDE and essential.search(_dedented(piece.text))
    ]  # fmt: skip
    if not places:
        kinds = {piece.kind for piece in pieces}
        kind = next((kind for kind in (PYTHON, UNTAGGED) if kind in kinds), OUTSIDE if kinds <= {OUTSIDE} else None)
        program = "\n".join(piece.text for piece in pieces if piece.kind == kind)
        return program if program.strip() else None
    _, kind, place = max(places)
    earlier = [(piece.text, piece.kind >= kind) for piece in pieces[:place] if piece.kind >= min(kind, UNTAGGED)]
    program = _dedented(pieces[place].text)
    return "\n".join([*_needed_statements(program, earlier, entry_point), program])


def _definition_of(name: str) -> re.Pattern[str]:
    defined = rf"(?:(?:async[ \t]+)?def|class)[ \t]+{name}\b"
    return re.compile(rf"^(?:{defined}|{name}[ \t]*(?::[^=\n]*)?=(?!=))", re.MULTILINE)


def _dedented(text: str) -> str:
    """Returns the text without common indentation; a text that begins at the margin stays unchanged."""
    return textwrap.dedent(text) if text.lstrip("\n")[:1] in (" ", "\t") else text


def _needed_statements(program: str, earlier: Sequence[tuple[str, bool]], entry_point: str | None) -> list[str]:
    """Returns the (later) statements of earlier pieces that bind the names that the program uses but does not bind.

    Later statements that use such a name (`table[3] = 4`, a loop, `sys.setrecursionlimit(...)`) are included, unless
    they call the entry point or read something: those are examples of its use.

    `earlier` has texts and whether each is as certainly a program as the chosen one, so that its every line is code.
    """
    use = _READS if entry_point is None else re.compile(rf"\b{entry_point}\b")
    parts = [(statement, is_sure) for text, is_sure in earlier for statement in _statements(_dedented(text))]
    statements = [statement for statement, _ in parts]
    binding: dict[str, int] = {}
    filling: dict[str, list[int]] = {}
    for number, (statement, is_sure) in enumerate(parts):
        if is_sure and not any(pattern.search(statement) for pattern in (_EXAMPLE, _READS, use)):
            for name in {*_WORD.findall(statement)} if _BINDS.match(statement) is None else ():
                filling.setdefault(name, []).append(number)
    for number, statement in enumerate(statements):
        binding |= dict.fromkeys(_bound(statement, use), number)
    known = {name for statement in _statements(program) for name in _bound(statement, None)}
    taken = {number for number, statement in enumerate(statements) if re.match(r"from\b.*\bimport[ \t]+\*", statement)}
    waiting = {*_WORD.findall(program)} - known
    while waiting:
        name = waiting.pop()
        if name not in binding:
            continue
        added = {binding[name], *(number for number in filling.pop(name, ()) if number > binding[name])} - taken
        taken |= added
        for number in added:
            waiting.update({*_WORD.findall(statements[number])} - known)
    return [statements[number] for number in sorted(taken)]


def _statements(text: str) -> list[str]:
    """Returns the lines at the margin, each with its decorators and the lines that continue it."""
    found: list[list[str]] = []
    for line in text.split("\n"):
        if found and (not line or _GOES_ON.match(line) or found[-1][-1].startswith("@")):
            found[-1].append(line)
        else:
            found.append([line])
    return ["\n".join(lines) for lines in found]


def _bound(statement: str, use: re.Pattern[str] | None) -> set[str]:
    """Returns the names that a statement binds; none for an assignment that matches `use`."""
    match = _BINDS.match(statement)
    if match is None or (match[3] and use and use.search(statement)):
        return set()
    if match[2]:
        return {*_WORD.findall(statement)}.difference(keyword.kwlist)
    return {*_WORD.findall(match[1] or match[3])}
