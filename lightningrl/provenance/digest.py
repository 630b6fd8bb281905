"""Which source files a stage is made of, and a digest of them that comments, docstrings and blank lines do not change.

A file's digest is over its text with these three cut out at the positions `tokenize` and `ast` give: text, and never
tokens joined again or a dumped tree, which differ between Python versions. What a file is made of is found by reading
its imports, without importing anything. Not seen: imports by computed names, third-party packages (their versions are
in the manifest), and registry members, which the plan adds by hand.
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import lightningrl
from lightningrl.errors import ConfigError
from lightningrl.io import canonical_json, sha256_text

PACKAGE = Path(lightningrl.__file__).resolve().parent
"""The package's folder; its name is the package's name."""

Cut = tuple[int, int, int, int]
"""First row, first column, last row, column behind the last: 0-based, in characters."""


def digest(modules: Iterable[str], package: Path = PACKAGE) -> str:
    """One sha256 over the normalised text of everything these modules are made of."""
    return sha256_text(canonical_json(sources(modules, package)))


def sources(modules: Iterable[str], package: Path = PACKAGE) -> dict[str, str]:
    """File (relative to the folder that holds the package) -> sha256, for all that these modules are made of.

    A module outside the package counts as its own file, under its module name, and whatever it imports of the package.
    """
    found: dict[str, str] = {}
    for module in modules:
        if not _inside(module, package):
            found[f"plug-in {module}"] = file_digest(_outside(module))
        found |= {name: file_digest(package.parent / name) for name in closure(module, package)}
    return dict(sorted(found.items()))


def closure(module: str, package: Path = PACKAGE) -> list[str]:
    """Files of the package that importing and running `module` may read, sorted, itself included if inside.

    Followed: imports at any depth of the code but under `if TYPE_CHECKING:`; a string that is exactly a module's dotted
    name (`python -m` of a helper process) or the name of a file beside the module. `__init__.py` files count only when
    they hold code.
    """
    files: set[Path] = set()
    waiting = [_file(module, package) if _inside(module, package) else _outside(module)]
    if waiting[0] is None:
        raise ConfigError(f"the package has no module {module!r}")
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path is None or path in seen:
            continue
        seen.add(path)
        if package not in path.parents:
            waiting += [file for name in _names(path, "", package) if (file := _file(name, package))]
            continue
        waiting += [p / "__init__.py" for p in path.parents if p == package or package in p.parents]
        if path.name != "__init__.py" or (path.exists() and _normalised_file(path)):
            files.add(path)
        if path.suffix == ".py" and path.exists():
            waiting += _references(path, package)
    return sorted(path.relative_to(package.parent).as_posix() for path in files)


def file_digest(path: Path) -> str:
    """sha256 of a file: of the normalised text of Python, of the bytes of anything else."""
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return sha256_text(_normalised_file(path))


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


def _references(path: Path, package: Path) -> list[Path]:
    """Files of the package that this file names."""
    return list(_references_at(path, package, *_version(path)))


@lru_cache(maxsize=1024)
def _references_at(path: Path, package: Path, mtime_ns: int, size: int) -> tuple[Path, ...]:
    module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
    found = [file for name in _names(path, module, package) if (file := _file(name, package))]
    for node in _nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            text = node.value
            if text.startswith(package.name + ".") and text.replace(".", "").isidentifier():
                found += [file for file in [_file(text, package)] if file]
            elif "/" not in text and len(text) < 100 and (path.parent / text).is_file():
                found.append(path.parent / text)
    return tuple(found)


def _names(path: Path, module: str, package: Path) -> Iterator[str]:
    """Dotted names inside the package that this file imports (modules, or attributes of modules)."""
    parts = module.split(".")
    if path.name != "__init__.py":
        parts = parts[:-1]
    else:
        parts = parts[: -1 if parts[-1] == "__init__" else None]
    for node in _nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _inside(alias.name, package))
        elif isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            if _inside(base, package):
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _nodes(path: Path) -> Iterator[ast.AST]:
    """Every node of a file but those that only a type checker reads, and bare strings."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"), filename=str(path))]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            waiting += node.orelse
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            waiting += ast.iter_child_nodes(node)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def _inside(module: str, package: Path) -> bool:
    return module.split(".")[0] == package.name


def _file(module: str, package: Path) -> Path | None:
    """The file of a dotted name inside the package; None when the name is no module (an attribute of one)."""
    base = package.parent.joinpath(*module.split("."))
    return next((p for p in (base.with_name(base.name + ".py"), base / "__init__.py") if p.is_file()), None)


def _outside(module: str) -> Path:
    try:
        spec = find_spec(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{module}: no module {error.name!r}; install it or put it on PYTHONPATH") from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(f"{module}: no source file of this module was found; install it or put it on PYTHONPATH")
    return Path(spec.origin).resolve()


def _version(path: Path) -> tuple[int, int]:
    """What tells a cache that a file was edited."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _normalised_file(path: Path) -> str:
    return _normalised_at(path, *_version(path))


@lru_cache(maxsize=1024)
def _normalised_at(path: Path, mtime_ns: int, size: int) -> str:
    try:
        return normalise(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ConfigError(f"{path}, line {error.lineno}: not Python: {error.msg}") from error
