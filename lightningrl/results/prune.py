"""Removing those of an experiment's results that nothing needs.

The releases to keep stay, with everything that they were made from by their manifests. Only folders of finished stages
and caches are removed, unfinished stages only on request; what cannot be read, or was not made by a stage, is named and
stays. Nothing is removed while a stage of the experiment is at work, because no manifest has its inputs yet.

The folders to keep and to remove are compared in one form (`folders.canonical`), and once more by their identity on the
disk before anything is removed: `_refuse_what_is_kept`.

A folder is renamed as a whole and then deleted, downstream first. So a crash leaves every manifest with all of its
files, and none whose inputs were removed before it. The next pruning deletes what was only renamed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightningrl.errors import StageError
from lightningrl.pipeline import again
from lightningrl.pipeline.graph import Graph, StageRecord, read_record
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.plan import Plan
from lightningrl.pipeline.stage import MANIFEST, TIMING, cache_key
from lightningrl.pipeline.stages.release import REPORT, WORKFLOW, link
from lightningrl.results.folders import (
    LATEST,
    cache_folders,
    canonical,
    freed,
    holders,
    latest,
    releases,
    stage_folders,
)
from lightningrl.utils.files import fsync_dir
from lightningrl.utils.lease import lease

ASIDE = ".pruned"
"""The folder inside the experiment's to which folders are moved before they are deleted."""
KEEPS = ("latest", "current", "all-releases")
BESIDE = (WORKFLOW, REPORT, MANIFEST, TIMING)
"""Files of a stage's folder that are not among its manifest's outputs."""


class NoRelease(StageError):
    """No release of an experiment would be left, so nothing of it is removed."""


@dataclass
class Pruning:
    """The folders that are to be removed, and messages about what is not."""

    root: Path
    kept: list[StageRecord] = field(default_factory=list)
    """The releases to keep."""
    folders: list[Path] = field(default_factory=list)
    """The folders to remove: finished stages, downstream first, then caches and the rest of an earlier pruning."""
    unfinished: list[Path] = field(default_factory=list)
    """Stages that were begun and are not kept; they are removed only on request."""
    named: list[str] = field(default_factory=list)
    """Messages about what is left alone, each with the reason."""
    notes: list[str] = field(default_factory=list)
    link: str | None = None
    """Where `latest` must point before anything is removed; None: it stays as it is, empty: it is deleted."""

    @property
    def bytes(self) -> int:
        return freed(self.folders)


def what_goes(
    root: Path, keep: Iterable[str], plans: Sequence[Plan] = (), *, unfinished: bool = False, caches: bool = False
) -> Pruning:
    """Returns the pruning of an experiment's folder and changes nothing.

    keep: `latest`, `current` (needs a plan), `all-releases`, or keys of releases; the stages of plans are always kept.
    Raises StageError where no release would be kept, a stage is at work, or a manifest behind a kept release is
    damaged.
    """
    found = Pruning(root)
    all_folders, all_caches = list(stage_folders(root)), list(cache_folders(root))
    at_work = [f"{path} by {who}" for path, who in holders(root, sure=True).items()]
    if at_work:
        raise StageError(f"nothing is removed while stages are at work: {'; '.join(at_work)}. Wait for them to end.")
    found.kept = _releases_kept(root, list(keep), plans)
    records: dict[Path, StageRecord] = {}
    for release in found.kept:
        graph = Graph.from_manifests(release)
        if graph.damaged:
            raise StageError(
                f"{' '.join(graph.damaged)} Release {release.key} is to be kept, but what that folder was made from is "
                "not known, so nothing is removed. Fix or delete the folder first."
            )
        found.notes += [f"{folder}, which release {release.key} was made from, is not here" for folder in graph.gone]
        records |= {record.folder: record for record in graph}
    planned = [stage for plan in plans for stage in plan]
    kept = {canonical(folder) for folder in records}
    kept |= {canonical(root.joinpath(*stage.folder.parts[2:])) for stage in planned}  # results/<experiment>/ aside
    caches_kept = {path for each in records.values() for path in (cache_of(each), _parts(root, each.name, each.key))}
    caches_kept |= {root.joinpath(*stage.cache.parts[2:]) for stage in planned}
    caches_kept |= {_parts(root, stage.name, stage.key) for stage in planned}
    caches_kept = {canonical(path) for path in caches_kept}
    others = [path for path in all_folders if canonical(path) not in kept]
    removable = {record.folder: record for path in others if (record := _removable(path, found, unfinished))}
    upstream_first = Graph.from_manifests(*removable.values()).stages
    found.folders = [record.folder for record in reversed(upstream_first) if record.folder in removable]
    found.folders += found.unfinished if unfinished else []
    found.folders += [path for path in all_caches if caches or canonical(path) not in caches_kept]
    found.folders += sorted(root.glob(f"{ASIDE}-*"))
    found.named += _not_ours(root, {*all_folders, *all_caches}, kept)
    found.link = _where_latest_goes(root, found)
    _refuse_what_is_kept(found.folders, {*kept, *records})
    return found


def carry_out(pruning: Pruning, report: Callable[[Path, int | None], None]) -> int:
    """Removes the folders of a pruning one by one; returns how many were removed.

    report: called with each folder and its bytes, or None for a folder that stayed because a stage has begun to use it.
    """
    root, removed = pruning.root, []
    if pruning.link:
        link(root / pruning.link)
    elif pruning.link is not None:
        (root / LATEST).unlink()
        fsync_dir(root)
    for number, folder in enumerate(pruning.folders):
        size = freed([folder])
        if folder.name.startswith(ASIDE):
            shutil.rmtree(folder, ignore_errors=True)  # another prune may be at it
        elif not _remove(root, folder, number):
            report(folder, None)
            continue
        removed.append(folder)
        report(folder, size)
    for folder in (parent for path in removed for parent in path.parents):
        if folder.is_relative_to(root) and folder != root and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return len(removed)


def cache_of(record: StageRecord) -> Path:
    """Returns the place of a finished stage's cache."""
    return record.root / "cache" / record.kind / f"{record.name}-{cache_key(record.preimage, record.ran)}"


def _parts(root: Path, name: str, key: str) -> Path:
    """Returns the place where the parts of an evaluation leave their marks."""
    return root / "cache" / "parts" / f"{name}-{key}"


def _releases_kept(root: Path, keep: list[str], plans: Sequence[Plan]) -> list[StageRecord]:
    known, damaged = releases(root)
    listed = ", ".join(record.key for record in known)
    if "all-releases" in keep and damaged:
        raise StageError(f"{' '.join(damaged)} All releases are to be kept, so nothing is removed.")
    if "current" in keep and not plans:
        raise StageError("--keep current: which results are current, a config says. Add --config FILE.")
    newest = latest(root) if "latest" in keep else None
    if "latest" in keep and newest is None:
        raise NoRelease(f"{root} has no link `latest` to a finished release. Say --keep all-releases or a key.")
    named = {word: {word} for word in keep}
    named |= {"current": {plan.release.key for plan in plans}, "all-releases": {record.key for record in known}}
    if newest is not None:
        known = [read_record(newest), *known]  # the link may lead to one by another name
        named["latest"] = {known[0].key}
    for word in keep:
        if word not in KEEPS and word not in {record.key for record in known}:
            raise StageError(
                f"--keep {word}: expected one of {', '.join(KEEPS)}, or a release of {root}: {listed or 'none'}."
            )
    keys = {key for word in keep for key in named[word]}
    # By folder, because a copy made by hand has its original's key.
    kept = {canonical(record.folder): record for record in known if record.key in keys}
    if not kept and known:
        raise NoRelease(
            f"{root}: no release would be left of {listed}: the config's is not made yet. Make it first, or say what "
            "is kept: --keep latest, all-releases or a key."
        )
    if not kept and not plans:
        raise NoRelease(f"{root} has no release, so nothing would be left. Add --config FILE: what it plans is kept.")
    return list(kept.values())


def _removable(path: Path, found: Pruning, unfinished: bool) -> StageRecord | None:
    """Returns a finished stage that can be removed, or None, with the reason in `found`."""
    if again.is_set_aside(path):
        found.named.append(f"{path} holds finished results that are being replaced; the next run puts them back")
        return None
    if not (path / MANIFEST).is_file():
        found.unfinished.append(path)
        if not unfinished:
            found.named.append(f"{path} was begun and is not finished (--unfinished removes such, too)")
        return None
    try:
        record = read_record(path)
    except StageError as error:
        found.named.append(str(error))
        return None
    files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_symlink() or not p.is_dir()}
    others = [name for name, p in sorted(files.items()) if name not in {*record.outputs, *BESIDE}
              and not name.startswith("state/") and not _is_temporary(p)]  # fmt: skip
    if others:
        found.named.append(f"{path} holds what its stage did not make: {', '.join(others)}")
        return None
    return record


def _refuse_what_is_kept(going: Iterable[Path], kept: Iterable[Path]) -> None:
    """Raises StageError where a folder to remove is, contains or is in one that is kept.

    Folders are the same if they have one identity on the disk, whatever their names.
    """
    needed = {_identity(path): path for path in kept if path.exists()}
    above = {_identity(parent): path for path in needed.values() for parent in path.resolve().parents}
    for path in (path for path in going if path.exists()):
        own = _identity(path)
        around = [needed[each] for each in map(_identity, path.resolve().parents) if each in needed]
        for clash in (*filter(None, (needed.get(own), above.get(own))), *around):
            raise StageError(
                f"nothing is removed: {path} is to go, but it is, holds or is in {clash}, which is kept. That is a "
                "defect of --prune, please report it with this message and how the folders are linked."
            )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _not_ours(root: Path, ours: Collection[Path], kept: Collection[Path]) -> list[str]:
    """Describes what no stage made in the experiment's folder, and links. ours: folders of stages and caches."""
    found, waiting = [], sorted(root.iterdir(), reverse=True)
    while waiting:
        path = waiting.pop()
        if path.is_symlink():
            if path != root / LATEST:
                found.append(f"{path} is a link; what it leads to is left alone")
        elif path in ours or canonical(path) in kept or (path.is_dir() and path.name.startswith(".")):
            continue
        elif path.is_dir() and (path.parent != root or path.name in (*KINDS, "cache") or _holds(path, ours)):
            waiting += sorted(path.iterdir(), reverse=True)
        elif path.parent == root:
            found.append(f"{path} is no stage's")
    return found


def _holds(folder: Path, ours: Collection[Path]) -> bool:
    return any(folder in each.parents for each in ours)


def _where_latest_goes(root: Path, found: Pruning) -> str | None:
    going = {canonical(folder) for folder in found.folders}
    newest = latest(root) if (root / LATEST).is_symlink() else None
    if newest is None or canonical(newest) not in going:
        return None
    left = [record for record in releases(root)[0] if canonical(record.folder) not in going]
    return left[-1].folder.name if left else ""


def _remove(root: Path, folder: Path, number: int) -> bool:
    """Renames a folder and then deletes it; returns False when another process uses it."""
    aside = root / f"{ASIDE}-{os.getpid()}" / f"{number}-{folder.name}"
    aside.parent.mkdir(exist_ok=True)
    if folder.is_relative_to(root / "cache"):
        os.rename(folder, aside)
    else:
        try:
            with lease(folder / "state"):
                os.rename(folder, aside)
        except StageError:
            return False
    fsync_dir(folder.parent)
    shutil.rmtree(aside)
    if not any(aside.parent.iterdir()):
        aside.parent.rmdir()
    return True


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")
