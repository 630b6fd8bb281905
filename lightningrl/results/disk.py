"""The bytes that folders of results take, and those that deleting them would free. Links count as links."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from lightningrl.utils.lease import holder_of


def used(folders: Iterable[Path]) -> int:
    """Returns the bytes of all files below, a file with several names once; symbolic links are not followed."""
    sizes: dict[tuple[int, int], int] = {}
    for folder in folders:
        for status in _files(folder):
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def freed(folders: Iterable[Path]) -> int:
    """Returns the bytes that deleting the folders would free: files with another name elsewhere (a hub's cache)
    stay.
    """
    found: dict[tuple[int, int], list[int]] = {}  # file -> size, names, names in these folders
    for folder in folders:
        for status in _files(folder):
            entry = found.setdefault((status.st_dev, status.st_ino), [status.st_size, status.st_nlink, 0])
            entry[2] += 1
    return sum(size for size, names, here in found.values() if here >= names)


def human(size: float) -> str:
    """Returns a number of bytes with a decimal unit.

    >>> human(0), human(1_234), human(5_600_000), human(7.2e12)
    ('0 B', '1.2 kB', '5.6 MB', '7.2 TB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def holders(root: Path, sure: bool = False) -> dict[Path, str]:
    """Returns the folders of an experiment's stages and caches that are in use, and their holders by the lease files.

    sure: whether to try the leases themselves, which a stage that starts at this moment would meet; otherwise a holder
    on this machine counts while its process lives, and one on another machine always.
    """
    found: dict[Path, str] = {}
    stages = [f"{depth}/state/lease" for depth in ("*", "*/*", "*/*/*")]  # evaluate/<policy>/<benchmark>
    parts = [f"cache/{depth}/part-*/lease" for depth in ("*/*", "*/*/*")]
    for path in (path for pattern in (*stages, *parts) for path in root.glob(pattern)):
        if who := (holder_of(path) or ("", ""))[0] if sure else _by_process(path):
            found[path.parent.parent] = who
    return found


def _by_process(path: Path) -> str:
    try:
        text = path.read_text(errors="replace").partition("\n")[0]
    except OSError:
        return ""
    process, _, host = text.removeprefix("process ").partition(" on ")
    if not process.isdecimal() or not host:
        return ""
    return text if host != socket.gethostname() or Path(f"/proc/{process}").exists() else ""


def _files(folder: Path) -> Iterable[os.stat_result]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            if not os.path.islink(path):
                yield os.lstat(path)
