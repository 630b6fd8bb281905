"""The files a bare Python needs, so that a jail can hold these and no others.

The base interpreter of the running one (not the virtual environment), its standard library and the shared libraries
of both, each at its own path: mounted elsewhere, an interpreter with an rpath may load another version's library.
Installed packages are not among them.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from lightningrl.errors import SandboxUnavailable

_NOT_NEEDED = ("_tkinter", "_test", "_xx", "xx", "nis.")
"""Extension modules whose libraries are left out: windows, CPython's own tests, and NIS."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Where a bare Python lives.

    >>> Interpreter("/usr/bin/python3.11", ("/usr/lib/python3.11",), ("/lib64/ld-linux-x86-64.so.2",), ()).executable
    '/usr/bin/python3.11'
    """

    executable: str
    """Absolute path, links resolved."""
    folders: tuple[str, ...]
    """The standard library."""
    libraries: tuple[str, ...]
    """Shared libraries and the loader, by the path at which the loader looks for them (may be a link)."""
    hidden: tuple[str, ...]
    """Folders inside `folders` that hold installed packages."""


@functools.cache
def find_interpreter() -> Interpreter:
    """The interpreter underneath the running one. Raises SandboxUnavailable when its libraries cannot be listed."""
    executable = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    # Not sysconfig's platstdlib: in a virtual environment it is the environment's folder.
    stdlib = {sysconfig.get_path("stdlib"), os.path.dirname(os.__file__)}
    extensions = sysconfig.get_config_var("DESTSHARED")
    if extensions and os.path.isdir(extensions):
        stdlib.add(extensions)
    folders = [folder for folder in map(os.path.realpath, stdlib) if os.path.isdir(folder)]
    folders = sorted(f for f in folders if not any(f != other and _inside(f, other) for other in folders))
    modules = [path for f in folders for pattern in ("*.so", "lib-dynload/*.so") for path in Path(f).glob(pattern)]
    wanted = [str(path) for path in modules if not path.name.startswith(_NOT_NEEDED)]
    libraries = _shared_libraries([executable, *wanted])
    libraries = [path for path in libraries if not any(_inside(path, folder) for folder in folders)]
    hidden = [os.path.join(f, name) for f in folders for name in ("site-packages", "dist-packages")]
    return Interpreter(executable, tuple(folders), tuple(libraries), tuple(filter(os.path.isdir, hidden)))


def _inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _shared_libraries(binaries: list[str]) -> list[str]:
    """Absolute paths of the loader and of all shared libraries, sorted. Source: ldd of the C library."""
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
