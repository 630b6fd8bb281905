"""Which source files a stage is made of, and a digest of them that comments, docstrings and blank lines do not change.

What a file is made of is found by reading its imports, without importing anything. Not seen: imports by computed names,
third-party packages (their versions are in the manifest), and registry members, which the plan adds by hand.

Reading a file takes milliseconds, and every process of a DAG reads all of them, so what was read is kept beside
Python's own compiled files, under the hash of the file's bytes.
"""

from __future__ import annotations

import ast
import hashlib
import io
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

import lightningrl
from lightningrl.errors import ConfigError, StageError
from lightningrl.utils.files import canonical_json, sha256_file, sha256_text, write_bytes

PACKAGE = Path(lightningrl.__file__).resolve().parent
"""The package's folder; its name is the package's name."""
KEPT = Path(__file__).parent / "__pycache__" / f"parsed-{sys.implementation.cache_tag}.json"
"""Where what was read is kept; a missing, old or damaged file only costs time."""
MOST_KEPT = 2000
"""Files at most; beyond that it is begun anew."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a source file says.

    >>> parse("import os  # a comment\\nfrom . import errors\\n").imports
    ((0, 'os', ()), (1, '', ('errors',)))
    """

    sha256: str
    """The hash of the normalised text."""
    is_empty: bool
    """Whether there is nothing but comments, docstrings and blank lines."""
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]
    """(dots before it, module, names taken from it), at any depth, but what only a type checker reads."""
    strings: tuple[str, ...]
    """Strings that could be a module's dotted name or a file's."""


class Sources:
    """The package's sources at one moment: each file is looked at once, however many stages are made of it."""

    def __init__(self, package: Path = PACKAGE) -> None:
        self.package = package
        self.closure, self.references = cache(self._closure), cache(self._references)
        self._file, self._digest = cache(self._find), cache(file_digest)

    def of(self, modules: Iterable[str]) -> dict[str, str]:
        """Returns file (relative to the folder that holds the package) -> sha256, for all these modules are made of.

        A module outside the package counts as its own file, under its module name, and whatever it imports of the
        package.
        """
        found: dict[str, str] = {}
        for module in modules:
            if not self._is_inside(module):
                found[f"plug-in {module}"] = self._digest(_outside(module))
            found |= {name: self._digest(self.package.parent / name) for name in self.closure(module)}
        return dict(sorted(found.items()))

    def _closure(self, module: str) -> list[str]:
        """Returns the files of the package that importing and running `module` may read, itself included if inside.

        Followed: imports at any depth of the code but under `if TYPE_CHECKING:`; a string that is exactly a module's
        dotted name (`python -m` of a helper process) or the name of a file beside the module. `__init__.py` files count
        only when they hold code; the package's own, which gives users a few names, never does.
        """
        start = self._file(module) if self._is_inside(module) else _outside(module)
        if start is None:
            raise ConfigError(f"the package has no module {module!r}")
        seen, waiting = set[Path](), [start]
        while waiting:
            path = waiting.pop()
            if path in seen:
                continue
            seen.add(path)
            if path.suffix == ".py":
                waiting += self.references(path)
            if self.package in path.parents:
                inits = (folder / "__init__.py" for folder in path.parents if self.package in folder.parents)
                waiting += [init for init in inits if init.exists() and not read(init).is_empty]
        inside = (path.relative_to(self.package.parent) for path in seen if self.package in path.parents)
        return sorted(path.as_posix() for path in inside)

    def _references(self, path: Path) -> list[Path]:
        """Returns the files of the package that this file names."""
        package, file = self.package, read(path)
        is_ours = package in path.parents
        parts = list(path.relative_to(package.parent).with_suffix("").parts[:-1]) if is_ours else []
        names, beside = list[str](), list[Path]()
        for level, module, taken in file.imports:
            above = parts[: len(parts) - level + 1] if level else []
            base = ".".join([*above, *([module] if module else [])])
            names += [base, *(f"{base}.{name}" for name in taken)]
        for text in file.strings if is_ours else ():
            if text.startswith(package.name + ".") and text.replace(".", "").isidentifier():
                names.append(text)
            elif (path.parent / text).is_file():
                beside.append(path.parent / text)
        files = (self._file(name) for name in names if self._is_inside(name))
        return [file for file in files if file is not None and not _is_plain_init(file)] + beside

    def _is_inside(self, module: str) -> bool:
        return module.split(".")[0] == self.package.name

    def _find(self, module: str) -> Path | None:
        """Returns the file of a dotted name inside the package; None for an attribute of a module."""
        base = self.package.parent.joinpath(*module.split("."))
        tried = (base.with_name(base.name + ".py"), base / "__init__.py")
        return next((path for path in tried if path.is_file()), None)


def digest(modules: Iterable[str], package: Path = PACKAGE) -> str:
    """Returns one sha256 over the normalised text of everything these modules are made of."""
    return sha256_text(canonical_json(Sources(package).of(modules)))


def file_digest(path: Path) -> str:
    """Returns the sha256 of a file: of the normalised text of Python, of the bytes of anything else."""
    return read(path).sha256 if path.suffix == ".py" else sha256_file(path)


def _is_plain_init(path: Path) -> bool:
    return path.name == "__init__.py" and read(path).is_empty


def _outside(module: str) -> Path:
    try:
        spec = find_spec(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{module}: no module {error.name!r}; install it or put it on PYTHONPATH") from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(f"{module}: no source file of this module was found; install it or put it on PYTHONPATH")
    return Path(spec.origin).resolve()


def parse(source: str) -> Parsed:
    """Reads a source text. Raises SyntaxError where it is not Python."""
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    strings: dict[str, None] = {}
    for node in _nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _may_name(node.value):
            strings[node.value] = None
    text = normalise(source)
    return Parsed(sha256_text(text), not text, tuple(imports), tuple(strings))


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes below one, but those that only a type checker reads, and bare strings."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from _nodes(ast.Module(child.orelse, []))
        elif not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            yield child
            yield from _nodes(child)


def _may_name(text: str) -> bool:
    return "." in text and "/" not in text and len(text) < 100 and text.isprintable() and " " not in text


OF_DOCSTRINGS = (tokenize.STRING, tokenize.INDENT, tokenize.DEDENT)
CODE_PREFIXES = ("f", "rf", "b", "rb")
"""What an f-string, which is code, or bytes begin with: before Python 3.12 both are STRING tokens."""


def normalise(source: str) -> str:
    """Returns the source without comments, statements that are but a string (docstrings) and blank lines.

    Text is cut out of it, and never tokens joined again or a dumped tree, which differ between Python versions. A
    string that shares its line with code, as in `class A: "doc"`, stays.

    >>> normalise('x = 1  # one\\n\\ndef f():\\n    "What it does."\\n    return x\\n')
    'x = 1\\ndef f():\\n    return x\\n'
    """
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    starts = [0, *accumulate(len(line) for line in io.StringIO(source))]
    kept, statement, is_docstring, end = list[str](), "", True, 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        before, end = end, starts[token.end[0] - 1] + token.end[1]
        if token.type == tokenize.NEWLINE:
            kept += [] if is_docstring else [statement + "\n"]
            statement, is_docstring = "", True
        elif token.type == tokenize.NL:  # within brackets, or of a line without a statement
            statement += "\n" if statement and not statement.endswith("\n") else ""
        elif token.type != tokenize.COMMENT:
            statement += source[before:end]  # with the blanks before it
            is_docstring &= token.type in OF_DOCSTRINGS and not token.string.lower().startswith(CODE_PREFIXES)
    return "".join(kept)


def read(path: Path) -> Parsed:
    """Reads the file as it is now. Raises ConfigError where it is not Python."""
    status = path.stat()
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2048)
def _read(path: Path, mtime_ns: int, size: int) -> Parsed:
    content = path.read_bytes()
    key, kept = hashlib.sha256(content).hexdigest(), _kept()
    if key not in kept.files:
        try:
            kept.files[key] = parse(content.decode("utf-8"))
        except SyntaxError as error:
            raise ConfigError(f"{path}, line {error.lineno}: not Python: {error.msg}") from error
        kept.is_new = True
    return kept.files[key]


@dataclass
class _Kept:
    by: str
    """What would read a file differently: this module, or another Python."""
    files: dict[str, Parsed]
    is_new: bool = False


def _format() -> Any:
    from pydantic import TypeAdapter  # not for `--help`, which loads this module

    return TypeAdapter(_Kept)


@lru_cache(maxsize=1)
def _kept() -> _Kept:
    by = hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()
    try:
        kept = _format().validate_json(KEPT.read_bytes())
    except (OSError, ValueError):
        return _Kept(by, {})
    return kept if kept.by == by and len(kept.files) <= MOST_KEPT else _Kept(by, {})


def keep() -> None:
    """Writes down what this process has read; where that cannot be, nothing is lost but time."""
    kept = _kept()
    if kept.is_new:
        kept.is_new = False
        try:
            KEPT.parent.mkdir(exist_ok=True)
            write_bytes(KEPT, _format().dump_json(kept))
        except (OSError, StageError):
            pass
