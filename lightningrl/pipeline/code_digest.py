"""Which source files a stage is made of, and a digest of them that comments, docstrings and blank lines do not change.

What a file is made of is found by reading its imports, without importing anything (`parsed`). Not seen: imports by
computed names, third-party packages (their versions are in the manifest), and registry members, which the plan adds by
hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import lightningrl
from lightningrl.errors import ConfigError
from lightningrl.pipeline import parsed_sources
from lightningrl.utils.files import canonical_json, sha256_text

PACKAGE = Path(lightningrl.__file__).resolve().parent
"""The package's folder; its name is the package's name."""


def digest(modules: Iterable[str], package: Path = PACKAGE) -> str:
    """One sha256 over the normalised text of everything these modules are made of."""
    return sha256_text(canonical_json(Sources(package).of(modules)))


class Sources:
    """The package's sources at one moment: each file is looked at once, however many stages are made of it."""

    def __init__(self, package: Path = PACKAGE) -> None:
        self.package = package
        self._digests: dict[Path, str] = {}
        self._references: dict[Path, tuple[Path, ...]] = {}
        self._closures: dict[str, list[str]] = {}
        self._files: dict[str, Path | None] = {}

    def of(self, modules: Iterable[str]) -> dict[str, str]:
        """File (relative to the folder that holds the package) -> sha256, for all that these modules are made of.

        A module outside the package counts as its own file, under its module name, and whatever it imports of the
        package.
        """
        found: dict[str, str] = {}
        for module in modules:
            if not self._inside(module):
                found[f"plug-in {module}"] = self._digest(_outside(module))
            found |= {name: self._digest(self.package.parent / name) for name in self.closure(module)}
        return dict(sorted(found.items()))

    def closure(self, module: str) -> list[str]:
        """Files of the package that importing and running `module` may read, sorted, itself included if inside.

        Followed: imports at any depth of the code but under `if TYPE_CHECKING:`; a string that is exactly a module's
        dotted name (`python -m` of a helper process) or the name of a file beside the module. `__init__.py` files count
        only when they hold code.
        """
        if module not in self._closures:
            self._closures[module] = self._find(module)
        return self._closures[module]

    def _find(self, module: str) -> list[str]:
        package, files, seen = self.package, set[Path](), set[Path]()
        waiting = [self._file(module) if self._inside(module) else _outside(module)]
        if waiting[0] is None:
            raise ConfigError(f"the package has no module {module!r}")
        while waiting:
            path = waiting.pop()
            if path is None or path in seen:
                continue
            seen.add(path)
            if package not in path.parents:
                waiting += self.references(path)
                continue
            waiting += [p / "__init__.py" for p in path.parents if p == package or package in p.parents]
            if path.name != "__init__.py" or (path.exists() and not parsed_sources.read(path).is_empty):
                files.add(path)
            if path.suffix == ".py" and path.exists():
                waiting += self.references(path)
        return sorted(path.relative_to(package.parent).as_posix() for path in files)

    def references(self, path: Path) -> tuple[Path, ...]:
        """Files of the package that this file names."""
        if path not in self._references:
            self._references[path] = tuple(self._named(path))
        return self._references[path]

    def _named(self, path: Path) -> Iterable[Path]:
        package, file = self.package, parsed_sources.read(path)
        is_ours = package in path.parents
        parts = list(path.relative_to(package.parent).with_suffix("").parts[:-1]) if is_ours else []
        for level, module, names in file.imports:
            above = parts[: len(parts) - level + 1] if level else []
            base = ".".join([*above, *([module] if module else [])])
            if self._inside(base):
                found = [self._file(name) for name in (base, *(f"{base}.{name}" for name in names))]
                yield from (each for each in found if each is not None)
        for text in file.strings if is_ours else ():
            if text.startswith(package.name + ".") and text.replace(".", "").isidentifier():
                named = self._file(text)
                if named is not None:
                    yield named
            elif (path.parent / text).is_file():
                yield path.parent / text

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = file_digest(path)
        return self._digests[path]

    def _inside(self, module: str) -> bool:
        return module.split(".")[0] == self.package.name

    def _file(self, module: str) -> Path | None:
        """The file of a dotted name inside the package; None when the name is no module (an attribute of one)."""
        if module not in self._files:
            base = self.package.parent.joinpath(*module.split("."))
            tried = (base.with_name(base.name + ".py"), base / "__init__.py")
            self._files[module] = next((path for path in tried if path.is_file()), None)
        return self._files[module]


def file_digest(path: Path) -> str:
    """sha256 of a file: of the normalised text of Python, of the bytes of anything else."""
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return parsed_sources.read(path).sha256


def _outside(module: str) -> Path:
    try:
        spec = find_spec(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{module}: no module {error.name!r}; install it or put it on PYTHONPATH") from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(f"{module}: no source file of this module was found; install it or put it on PYTHONPATH")
    return Path(spec.origin).resolve()
