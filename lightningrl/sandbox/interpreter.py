"""The files that a bare Python needs, so that a jail can contain these and no others.

They are the base interpreter of the running one (not of the virtual environment), its standard library and the shared
libraries of both, each at its usual path: elsewhere, an interpreter with an rpath may load another version's library.
Installed packages are not included. A jail that uses the host's files with another uid than the judge's needs an
interpreter that every user may read: `find_public_interpreter`.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lightningrl.errors import SandboxUnavailable

_NOT_NEEDED = ("_tkinter", "_test", "_xx", "xx", "nis.")
"""The extension modules whose libraries are omitted: windows, CPython's own tests, and NIS."""
_LAYOUT = """
import os, sys, sysconfig
extensions = sysconfig.get_config_var("DESTSHARED") or ""
print(sysconfig.get_path("stdlib"), os.path.dirname(os.__file__), extensions, sep="\\n")
"""
"""The base interpreter runs this itself, since that of a virtual environment would print the environment's folders."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The paths of a bare Python."""

    executable: str
    """The absolute path, with links resolved."""
    folders: tuple[str, ...]
    """The standard library."""
    libraries: tuple[str, ...]
    """The shared libraries and the loader, at the paths where the loader looks for them (possibly links)."""
    hidden: tuple[str, ...]
    """Folders inside `folders` that hold installed packages."""

    @property
    def files(self) -> tuple[str, ...]:
        """Everything that it needs."""
        return (self.executable, *self.folders, *self.libraries)


@functools.cache
def find_interpreter() -> Interpreter:
    """Returns the base of the running interpreter. Raises SandboxUnavailable when its libraries cannot be listed."""
    return _describe(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))


@functools.cache
def find_public_interpreter() -> Interpreter:
    """Returns an interpreter of this minor version that every user may read: the base interpreter if possible.

    Raises SandboxUnavailable, naming the closed path.
    """
    name = f"python3.{sys.version_info.minor}"
    first = find_interpreter()
    reason = _private_part(first)
    if reason is None:
        return first
    for path in (f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        if os.path.exists(path):
            other = _describe(os.path.realpath(path))
            if _private_part(other) is None:
                return other
    raise SandboxUnavailable(
        f"{first.executable} cannot be used by other users ({reason} is closed to them), and there is no other {name} "
        "in /usr/bin or /usr/local/bin. Install Python where all users may read it, or judge as an ordinary user."
    )


def _private_part(python: Interpreter) -> str | None:
    """Returns the first file or folder that a user without special rights cannot read or enter."""
    for path in python.files:
        for place, right in ((Path(path), 0o4), *((parent, 0o1) for parent in Path(os.path.realpath(path)).parents)):
            try:
                is_open = place.stat().st_mode & right
            except OSError:
                is_open = False
            if not is_open:
                return str(place)
    return None


def _describe(executable: str) -> Interpreter:
    try:
        layout = subprocess.run(
            [executable, "-I", "-S", "-c", _LAYOUT], capture_output=True, text=True, check=True, timeout=60
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxUnavailable(f"cannot get the folders of {executable}: {error}. Expected a Python.") from error
    folders = {os.path.realpath(folder) for folder in {*layout} - {""} if os.path.isdir(folder)}
    folders = sorted(folder for folder in folders if not _is_inside(folder, folders))
    modules = [path for f in folders for pattern in ("*.so", "lib-dynload/*.so") for path in Path(f).glob(pattern)]
    extensions = [str(path) for path in modules if not path.name.startswith(_NOT_NEEDED)]
    libraries = [path for path in _shared_libraries([executable, *extensions]) if not _is_inside(path, folders)]
    hidden = [os.path.join(f, name) for f in folders for name in ("site-packages", "dist-packages")]
    return Interpreter(executable, tuple(folders), tuple(libraries), tuple(filter(os.path.isdir, hidden)))


def _is_inside(path: str, folders: set[str] | list[str]) -> bool:
    return any(path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _shared_libraries(binaries: list[str]) -> list[str]:
    """Returns the sorted absolute paths of the loader and of all shared libraries, as ldd lists them."""
    try:
        listing = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxUnavailable(
            f"cannot list the shared libraries of {binaries[0]}: {error}. Expected a working ldd; install libc-bin."
        ) from error
    paths = {word for line in listing.stdout.splitlines() for word in line.split() if word.startswith("/")}
    libraries = sorted(os.path.normpath(path) for path in paths if not path.endswith(":"))
    if not libraries:
        raise SandboxUnavailable(
            f"ldd names no shared library of {binaries[0]} ({listing.stderr.strip()[:200] or 'no output'}). "
            "Expected at least the C library; use a Python linked against it, such as the distribution's."
        )
    return libraries
