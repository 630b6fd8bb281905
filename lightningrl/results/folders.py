"""The contents of a results folder: experiments, stages, caches and releases, and the bytes that they take.

Everything is found by names and manifests, without a config. Links count as links; only experiments are found by them.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.filesize import decimal

from lightningrl.errors import StageError
from lightningrl.pipeline.graph import StageRecord, named_whole, read_record
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.stage import MANIFEST
from lightningrl.utils.lease import holder_of

KEYED = re.compile(r".+-[0-9a-f]{8}")
"""The name of a stage's folder."""
LATEST = "latest"


def canonical(folder: Path) -> Path:
    """Returns the one form in which folders are compared, however they were come by: absolute, no `..`, no links."""
    return Path(os.path.realpath(folder))


def experiments(results: Path) -> list[Path]:
    """Returns experiments' folders: `results` itself if it is one, else those in it."""
    if not results.is_dir():
        raise StageError(
            f"{results} is no folder; expected results/, or one experiment's folder in it. In the clone, `snakemake "
            "--cores 2` makes them."
        )
    results = named_whole(results, 1)  # an experiment's folder is compared with its name in configs
    if _is_experiment(results):
        return [results]
    return [path for path in sorted(results.iterdir()) if path.is_dir() and _is_experiment(path)]


def _is_experiment(folder: Path) -> bool:
    """Returns whether stages' folders, or links to them or to what holds them, are in a folder."""
    patterns = ["release-*", *(f"{kind}{'/[!.]*' * levels(kind)}" for kind in KINDS)]
    found = (path for pattern in patterns for path in folder.glob(pattern))
    return any(KEYED.fullmatch(path.name) and path.is_dir() for path in found)


def names_of(root: Path) -> set[str]:
    """Returns what an experiment's folder is called, here and where it is a link to: one of them is its name in
    configs."""
    return {root.name, canonical(root).name}


def stage_folders(root: Path) -> Iterator[Path]:
    """Yields the folders of an experiment's stages, finished or not, and of kinds from outside, which only manifests
    tell, the finished ones; links are not followed."""
    for path in _folders(root):
        if path.name in KINDS:
            yield from keyed(path, levels(path.name))
        elif path.name.startswith("release-") and KEYED.fullmatch(path.name):
            yield path
        elif path.name != "cache":
            yield from (each for depth in (1, 2) for each in keyed(path, depth) if _is_of(path.name, each))


def _is_of(kind: str, folder: Path) -> bool:
    try:
        return read_record(folder).kind == kind
    except StageError:
        return False


def cache_folders(root: Path) -> Iterator[Path]:
    """Yields folders of stages' caches, and of the marks that parts of evaluations leave; links are not followed."""
    for cache in (path for path in _folders(root) if path.name == "cache"):
        for path in _folders(cache):
            if path.name in KINDS or path.name == "parts":
                yield from keyed(path, levels(path.name))


def levels(kind: str) -> int:
    """Returns how far below its kind's folder a stage's is: `evaluate/<policy>/<benchmark>-<key>` or
    `train/<run>-<key>`."""
    return 2 if kind == "parts" or KINDS[kind].per_system else 1


def keyed(folder: Path, depth: int) -> Iterator[Path]:
    """Yields folders with a key exactly so far below. What is above them may look so too: a policy `code-20261128`."""
    for path in _folders(folder):
        if depth > 1:
            yield from keyed(path, depth - 1)
        elif KEYED.fullmatch(path.name):
            yield path


def _folders(folder: Path) -> list[Path]:
    names = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return [path for path in names if path.is_dir() and not path.is_symlink()]


def releases(root: Path) -> tuple[list[StageRecord], list[str]]:
    """Returns an experiment's finished releases, oldest first, and messages about those that cannot be read.

    One that was moved to another disk and is linked here counts; another name for one that is here does not.
    """
    found, damaged = list[StageRecord](), list[str]()
    for path in sorted(root.glob("release-*")):
        if path.is_symlink() and not path.exists():
            damaged.append(f"{path} leads to {os.readlink(path)}, which is not here.")
        if (path.is_symlink() and canonical(path).parent == canonical(root)) or not (path / MANIFEST).is_file():
            continue
        try:
            found.append(read_record(path))
        except StageError as error:
            damaged.append(str(error))

    def when(record: StageRecord) -> tuple[str, int, str]:
        """Manifests tell seconds; of two within one, the file's own time counts."""
        return record.finished, (record.folder / MANIFEST).stat().st_mtime_ns, record.key

    return sorted(found, key=when), damaged


def latest(root: Path) -> Path | None:
    """Returns the release that an experiment's link `latest` names; None without the link, or where it leads nowhere.

    It is always in this folder: an absolute link in a copy leads to where the results were copied from.
    """
    link = root / LATEST
    path = root / Path(os.readlink(link)).name if link.is_symlink() else link
    return path if (path / MANIFEST).is_file() else None


def find_release(results: Path, which: str = LATEST) -> StageRecord:
    """Returns one release: `latest`, a key, `<experiment>/latest`, `<experiment>/<key>`, or a release's folder.

    Where only releases without the link are there (a copy that lost it), `latest` is the newest. Raises StageError,
    listing what there is.
    """
    path = Path(which)
    if (path / MANIFEST).is_file():
        return _release_in(path)
    experiment, _, key = which.rpartition("/")
    known = {root: releases(root)[0] for root in experiments(results)}
    found: list[StageRecord] = []
    for root, records in known.items():
        if experiment not in ("", root.name):
            continue
        if key == LATEST:
            link = latest(root)
            found += [read_record(link)] if link is not None else records[-1:]
        else:
            found += [record for record in records if key in (record.key, record.folder.name)]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(f"{record.root.name}/{which}" for record in found)
        raise StageError(f"{which}: several experiments in {results} have it; say one of {several}.")
    listed = [f"{root.name}/{record.key}" for root, records in known.items() for record in records]
    raise StageError(
        f"{which}: {results} has no such release. Expected `latest`, a key, <experiment>/<key> or a release's folder; "
        f"there are: {', '.join(listed) or 'none that is finished'}."
    )


def _release_in(path: Path) -> StageRecord:
    """Returns a release by its own name where the path is the link `latest`, or another that is named otherwise."""
    if path.name == LATEST and (newest := latest(path.parent)) is not None:
        return read_record(newest)
    is_alias = path.is_symlink() and not KEYED.fullmatch(path.name)
    return read_record(path.parent / os.readlink(path) if is_alias else path)


def used(folders: Iterable[Path]) -> int:
    """Returns the bytes of all files below, a file with several names once; symbolic links are not followed."""
    return sum(size for size, *_ in _files(folders).values())


def freed(folders: Iterable[Path]) -> int:
    """Returns the bytes that deleting the folders would free: files with another name (in a hub's cache) stay."""
    return sum(size for size, names, here in _files(folders).values() if here >= names)


def _files(folders: Iterable[Path]) -> dict[tuple[int, int], list[int]]:
    """Returns the files below by their identity: their size, how many names they have, and how many of them below."""
    found: dict[tuple[int, int], list[int]] = {}
    paths = (Path(root, name) for folder in folders for root, _, names in os.walk(folder) for name in names)
    for status in (path.lstat() for path in paths if not path.is_symlink()):
        found.setdefault((status.st_dev, status.st_ino), [status.st_size, status.st_nlink, 0])[2] += 1
    return found


def human(size: float) -> str:
    """Returns a number of bytes with a decimal unit.

    >>> human(0), human(1), human(1_234), human(5_600_000), human(7.2e12)
    ('0 B', '1 B', '1.2 kB', '5.6 MB', '7.2 TB')
    """
    return re.sub("bytes?", "B", decimal(int(size)))


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
