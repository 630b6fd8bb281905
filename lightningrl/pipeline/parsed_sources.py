"""What one source file says: the digest of its text without comments, docstrings and blank lines, and what it names.

The text has these three cut out at the positions `tokenize` and `ast` give: text, and never tokens joined again or a
dumped tree, which differ between Python versions. Reading a file takes milliseconds, and every process of a DAG reads
all of them, so what was read is kept beside Python's own compiled files, under the hash of the file's bytes.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from lightningrl.errors import ConfigError, StageError
from lightningrl.utils.files import sha256_text, write_text

KEPT = Path(__file__).parent / "__pycache__" / f"parsed-{sys.implementation.cache_tag}.json"
"""Where it is kept; a missing, old or damaged one only costs time."""
Cut = tuple[int, int, int, int]
"""First row, first column, last row, column behind the last: 0-based, in characters."""
MOST = 2000
"""Files at most; beyond that it is begun anew."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A source file, read.

    >>> parse("import os  # a comment\\nfrom . import errors\\n").imports
    ((0, 'os', ()), (1, '', ('errors',)))
    """

    sha256: str
    """The hash of the normalised text."""
    is_empty: bool
    """Nothing but comments, docstrings and blank lines."""
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]
    """(dots before it, module, names taken from it), at any depth, in the file's order, but what only a type checker
    reads."""
    strings: tuple[str, ...]
    """Strings that could be a module's dotted name or a file's."""


def parse(source: str) -> Parsed:
    """Raises SyntaxError where it is not Python."""
    text = normalise(source)
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    strings: dict[str, None] = {}
    for node in _nodes(source):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _may_name(node.value):
            strings[node.value] = None
    return Parsed(sha256_text(text), not text, tuple(imports), tuple(strings))


def read(path: Path) -> Parsed:
    """The file as it is now. Raises ConfigError where it is not Python."""
    status = path.stat()
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2048)
def _read(path: Path, mtime_ns: int, size: int) -> Parsed:
    content = path.read_bytes()
    key = hashlib.sha256(content).hexdigest()
    kept = _kept()
    if key in kept.files:
        return kept.files[key]
    try:
        kept.files[key] = parse(content.decode("utf-8"))
    except SyntaxError as error:
        raise ConfigError(f"{path}, line {error.lineno}: not Python: {error.msg}") from error
    kept.is_new = True
    return kept.files[key]


@dataclass
class _Kept:
    files: dict[str, Parsed]
    is_new: bool = False


@lru_cache(maxsize=1)
def _kept() -> _Kept:
    try:
        found = json.loads(KEPT.read_text(encoding="utf-8"))
        if found["by"] != _this_code() or len(found["files"]) > MOST:
            return _Kept({})
        return _Kept({key: _from_json(row) for key, row in found["files"].items()})
    except (OSError, ValueError, KeyError, TypeError):
        return _Kept({})


def _from_json(row: dict) -> Parsed:
    imports = tuple((level, module, tuple(names)) for level, module, names in row["imports"])
    return Parsed(str(row["sha256"]), bool(row["is_empty"]), imports, tuple(row["strings"]))


def keep() -> None:
    """Write down what this process has read; where that cannot be, nothing is lost but time."""
    kept = _kept()
    if not kept.is_new:
        return
    try:
        KEPT.parent.mkdir(exist_ok=True)
        rows = {key: asdict(parsed) for key, parsed in kept.files.items()}
        write_text(KEPT, json.dumps({"by": _this_code(), "files": rows}))
        kept.is_new = False
    except (OSError, StageError):
        pass


@lru_cache(maxsize=1)
def _this_code() -> str:
    """What would read a file differently: this module, or another Python."""
    return hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()


def normalise(source: str) -> str:
    """The source without comments, bare string statements (docstrings) and blank lines.

    >>> normalise('x = 1  # one\\n\\ndef f():\\n    "What it does."\\n    return x\\n')
    'x = 1\\ndef f():\\n    return x\\n'
    """
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    lines = source.split("\n")
    cuts = list(_bare_strings(source, lines))
    hidden = {row for first, _, last, _ in cuts for row in range(first, last)}
    open_rows: set[int] = set()  # rows whose line end lies within a string: blanks there are content
    depth: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        first, last = token.start[0] - 1, token.end[0] - 1
        name = tokenize.tok_name[token.type]
        if name == "COMMENT":
            cuts.append((first, token.start[1], last, token.end[1]))
        elif name == "STRING":
            open_rows.update(range(first, last))
        elif name.endswith("STRING_START"):  # f-strings, Python 3.12 and later
            depth.append(first)
        elif name.endswith("STRING_END"):
            open_rows.update(range(depth.pop(), last))
    kept = []
    for row, line in enumerate(_without(lines, cuts)):
        if row in open_rows - hidden:
            kept.append(line)
        elif line.strip():
            kept.append(line.rstrip())
    return "".join(line + "\n" for line in kept)


def _without(lines: list[str], cuts: Iterable[Cut]) -> list[str]:
    by_row: dict[int, list[tuple[int, int]]] = {}
    for first, start, last, end in cuts:
        for row in range(first, last + 1):
            span = (start if row == first else 0, end if row == last else len(lines[row]))
            by_row.setdefault(row, []).append(span)
    out = list(lines)
    for row, spans in by_row.items():
        gone = {column for start, end in spans for column in range(start, end)}
        out[row] = "".join(c for column, c in enumerate(lines[row]) if column not in gone)
    return out


def _bare_strings(source: str, lines: list[str]) -> Iterator[Cut]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            assert node.end_lineno is not None and node.end_col_offset is not None
            first, last = node.lineno - 1, node.end_lineno - 1
            yield (
                first,
                len(lines[first].encode()[: node.col_offset].decode()),
                last,
                len(lines[last].encode()[: node.end_col_offset].decode()),
            )


def _nodes(source: str) -> Iterator[ast.AST]:
    """Every node, in the text's order, but those that only a type checker reads, and bare strings."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            waiting += reversed(node.orelse)
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            waiting += reversed(list(ast.iter_child_nodes(node)))


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def _may_name(text: str) -> bool:
    return "." in text and "/" not in text and len(text) < 100 and text.isprintable() and " " not in text
