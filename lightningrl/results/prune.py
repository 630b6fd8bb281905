"""Removing those of an experiment's results that nothing needs.

The releases to keep stay, with everything that they were made from by their manifests. Only folders of finished stages
and caches are removed, unfinished stages only on request; what cannot be read, or was not made by a stage, is named and
stays. Nothing is removed while a stage of the experiment is at work, because no manifest has its inputs yet.

The folders to keep and to remove are compared in one form (`graph.canonical`), and once more by their identity on the
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
from lightningrl.pipeline.graph import (
    LATEST,
    Made,
    cache_folders,
    canonical,
    chain,
    latest,
    read_made,
    releases,
    stage_folders,
)
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.plan import Plan
from lightningrl.pipeline.stage import MANIFEST, TIMING, cache_key
from lightningrl.results.disk import freed, holders
from lightningrl.utils.files import fsync_dir
from lightningrl.utils.lease import lease

ASIDE = ".pruned"
"""The folder inside the experiment's to which folders are moved before they are deleted."""
KEEPS = ("latest", "current", "all-releases")
BESIDE = ("report.html", MANIFEST, TIMING)
"""Files of a stage's folder that are not among its manifest's outputs."""


@dataclass
class Pruning:
    """What is to be removed, and what is named instead."""

    root: Path
    kept: list[Made] = field(default_factory=list)
    """The releases to keep."""
    folders: list[Path] = field(default_factory=list)
    """The folders to remove: finished stages, downstream first, then caches and the rest of an earlier pruning."""
    unfinished: list[Path] = field(default_factory=list)
    """Stages that were begun and are not kept; they are removed only on request."""
    named: list[str] = field(default_factory=list)
    """What is left alone, each with the reason."""
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
    all_folders = list(stage_folders(root))
    at_work = [f"{path} by {who}" for path, who in holders(root, sure=True).items()]
    if at_work:
        raise StageError(f"nothing is removed while stages are at work: {'; '.join(at_work)}. Wait for them to end.")
    found.kept = _releases_kept(root, list(keep), plans)
    kept: set[Path] = set()
    caches_kept: set[Path] = set()
    for release in found.kept:
        upstream = chain(release)
        if upstream.damaged:
            raise StageError(
                f"{' '.join(upstream.damaged)} Release {release.key} is to be kept, but what that folder was made from "
                "is not known, so nothing is removed. Mend or delete the folder first."
            )
        kept |= {made.folder for made in upstream.made}
        for made in upstream.made:
            caches_kept |= {cache_of(made), _parts(made.root, made.name, made.key)}
        found.notes += [f"{folder}, which release {release.key} was made from, is not here" for folder in upstream.gone]
    for stage in (stage for plan in plans for stage in plan):
        kept.add(root / Path(*stage.folder.parts[2:]))  # results/<experiment>/ aside
        caches_kept |= {root / Path(*stage.cache.parts[2:]), _parts(root, stage.name, stage.key)}
    kept, caches_kept = ({canonical(path) for path in paths} for paths in (kept, caches_kept))
    others = [path for path in all_folders if canonical(path) not in kept]
    removable = [made for path in others if (made := _removable(path, found, unfinished))]
    found.folders = _downstream_first(removable) + (found.unfinished if unfinished else [])
    all_caches = list(cache_folders(root))
    found.folders += [path for path in all_caches if caches or canonical(path) not in caches_kept]
    found.folders += sorted(root.glob(f"{ASIDE}-*"))
    found.named += _not_ours(root, {*all_folders, *all_caches}, kept)
    found.link = _where_latest_goes(root, found)
    _refuse_what_is_kept(found, kept)
    return found


def carry_out(pruning: Pruning, report: Callable[[Path, int | None], None]) -> int:
    """Removes the folders of a pruning one by one; returns how many were removed.

    report: called with each folder and its bytes, or None for a folder that stayed because a stage has begun to use it.
    """
    root, gone, removed = pruning.root, 0, []
    if pruning.link is not None:
        _move_link(root, pruning.link)
    for number, folder in enumerate(pruning.folders):
        size = freed([folder])
        if folder.name.startswith(ASIDE):
            shutil.rmtree(folder, ignore_errors=True)  # another prune may be at it
        elif not _remove(root, folder, number):
            report(folder, None)
            continue
        gone += 1
        removed.append(folder)
        report(folder, size)
    for folder in removed:
        _remove_empty(folder.parent, root)
    return gone


def cache_of(made: Made) -> Path:
    """Returns the place of a finished stage's cache."""
    key = cache_key({**made.manifest["preimage"], "code": made.code}, made.ran)
    return made.root / "cache" / made.kind / f"{made.name}-{key}"


def _parts(root: Path, name: str, key: str) -> Path:
    """Returns the place where the parts of an evaluation leave their marks."""
    return root / "cache" / "parts" / f"{name}-{key}"


def _releases_kept(root: Path, keep: list[str], plans: Sequence[Plan]) -> list[Made]:
    known, damaged = releases(root)
    kept: dict[Path, Made] = {}
    """Releases by folder, because a copy made by hand has its original's key."""
    for word in keep:
        if word == "all-releases":
            if damaged:
                raise StageError(f"{' '.join(damaged)} All releases are to be kept, so nothing is removed.")
            kept |= {canonical(made.folder): made for made in known}
        elif word == "latest":
            newest = latest(root)
            if newest is None:
                raise StageError(
                    f"{root} has no link `latest` to a finished release. Say --keep all-releases or a key."
                )
            made = read_made(newest)
            kept |= {canonical(each.folder): each for each in (made, *known) if each.key == made.key}
        elif word == "current":
            if not plans:
                raise StageError("--keep current: which results are current, a config says. Add --config FILE.")
            todays = {plan.release.key for plan in plans}
            kept |= {canonical(made.folder): made for made in known if made.key in todays}
        elif of_key := {canonical(made.folder): made for made in known if made.key == word}:
            kept |= of_key
        else:
            listed = ", ".join(made.key for made in known) or "none"
            raise StageError(f"--keep {word}: expected one of {', '.join(KEEPS)}, or a release of {root}: {listed}.")
    if not kept and known:
        listed = ", ".join(made.key for made in known)
        raise StageError(
            f"{root}: no release would be left of {listed}: the config's is not made yet. Make it first, or say what "
            "is kept: --keep latest, all-releases or a key."
        )
    if not kept and not plans:
        raise StageError(f"{root} has no release, so nothing would be left. Add --config FILE: what it plans is kept.")
    return list(kept.values())


def _removable(path: Path, found: Pruning, unfinished: bool) -> Made | None:
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
        made = read_made(path)
    except StageError as error:
        found.named.append(str(error))
        return None
    ours = {*made.manifest["outputs"], *BESIDE}
    files = (p.relative_to(path) for p in path.rglob("*") if p.is_symlink() or not p.is_dir())
    others = sorted(str(p) for p in files if str(p) not in ours and p.parts[0] != "state" and not _is_temporary(p))
    if others:
        found.named.append(f"{path} holds what its stage did not make: {', '.join(others)}")
        return None
    return made


def _downstream_first(going: list[Made]) -> list[Path]:
    """Orders folders so that none is ever there without its inputs."""
    waiting = {made.folder: made for made in sorted(going, key=lambda made: made.finished)}
    order: list[Path] = []
    while waiting:
        needed = {folder for made in waiting.values() for folder in (*made.inputs.values(), *made.after.values())}
        free = [folder for folder in waiting if folder not in needed] or list(waiting)
        for folder in free:
            order.append(folder)
            del waiting[folder]
    return order


def _refuse_what_is_kept(found: Pruning, kept: Iterable[Path]) -> None:
    """Raises StageError where a folder to remove is, contains or is in a kept release or anything upstream of one.

    kept: further folders. Folders are the same if they have one identity on the disk, whatever their names.
    """
    going = {identity: path for path in found.folders for identity in _identities([path])}
    chains = {made.folder for release in found.kept for made in chain(release).made}
    needed = {identity: path for path in (*kept, *chains) for identity in _identities([path])}
    above = {identity: path for path in needed.values() for identity in _identities(path.resolve().parents)}
    inside = {identity: path for path in going.values() for identity in _identities(path.resolve().parents)}
    clashes = [(path, {**above, **needed}[same]) for same, path in going.items() if same in {**above, **needed}]
    clashes += [(path, needed[same]) for same, path in inside.items() if same in needed]
    if clashes:
        listed, folder = clashes[0]
        raise StageError(
            f"nothing is removed: {listed} is to go, but it is, holds or is in {folder}, which is kept. That is a "
            "defect of --prune, please report it with this message and how the folders are linked."
        )


def _identities(paths: Iterable[Path]) -> list[tuple[int, int]]:
    return [(status.st_dev, status.st_ino) for status in (path.stat() for path in paths if path.exists())]


def _not_ours(root: Path, ours: Collection[Path], kept: Collection[Path]) -> list[str]:
    """Describes what no stage made in the experiment's folder. ours: folders of stages and caches."""
    found = []
    for path in sorted(root.iterdir()):
        if path.is_symlink():
            if path.name != LATEST:
                found.append(f"{path} is a link; what it leads to is left alone")
        elif path.is_file():
            found.append(f"{path} is no stage's")
        elif path.name in (*KINDS, "cache") or any(path in each.parents for each in ours):
            found += [f"{inner} is a link; what it leads to is left alone" for inner in _links_above(path, ours)]
        elif path not in ours and canonical(path) not in kept and not path.name.startswith("."):
            found.append(f"{path} is no stage's")
    return found


def _links_above(folder: Path, ours: Collection[Path]) -> list[Path]:
    """Returns links below a folder, but not inside the folders of stages and caches."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            found.append(path)
        elif path.is_dir() and path not in ours and not path.name.startswith("."):
            found += _links_above(path, ours)
    return found


def _where_latest_goes(root: Path, found: Pruning) -> str | None:
    going = {canonical(folder) for folder in found.folders}
    newest = latest(root) if (root / LATEST).is_symlink() else None
    if newest is None or canonical(newest) not in going:
        return None
    left = [made for made in releases(root)[0] if canonical(made.folder) not in going]
    return left[-1].folder.name if left else ""


def _move_link(root: Path, name: str) -> None:
    from lightningrl.pipeline.stages.release import link

    if name:
        link(root / name)
    else:
        (root / LATEST).unlink()
        fsync_dir(root)


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


def _remove_empty(folder: Path, root: Path) -> None:
    """Removes a folder and those above it that are empty."""
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")
