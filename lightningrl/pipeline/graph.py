"""What a results folder holds, read from its manifests alone: no config, and it may be a copy from another machine.

Folders are named in manifests as they were where they were made, `results/<experiment>/...`; here they are looked for
under the experiment's folder wherever that is now. Nothing is written, and no file but manifests is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lightningrl.errors import StageError
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.stage import MANIFEST
from lightningrl.utils.files import canonical_json, read_json, sha256_text

KEYED = re.compile(r".+-[0-9a-f]{8}")
"""The name of a stage's folder."""
LATEST = "latest"


@dataclass(frozen=True, eq=False)
class Made:
    """A finished stage's folder."""

    root: Path
    """The experiment's folder, which holds it."""
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return self.manifest["kind"]

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def key(self) -> str:
        return self.manifest["key"]

    @property
    def stage(self) -> str:
        """`train/lightningrl`."""
        return f"{self.kind}/{self.name}"

    @property
    def science(self) -> Mapping[str, Any]:
        """What it read of the config."""
        return self.manifest["preimage"]["science"]

    @property
    def finished(self) -> str:
        """Date and time, as text that sorts; empty where the manifest does not say."""
        return str(self.manifest.get("run", {}).get("finished", ""))

    @property
    def code(self) -> str:
        """The digest that its key was made of."""
        known = self.manifest.get("code", {}).get("digest")
        return known or sha256_text(canonical_json(self.manifest["preimage"]["code"]))

    @property
    def pinned(self) -> bool:
        return bool(self.manifest.get("code", {}).get("pinned"))

    @property
    def ran(self) -> str:
        """The digest of the code that made it: under a pin maybe not its key's."""
        return self.manifest.get("code", {}).get("live") or self.code

    @property
    def ran_other_code(self) -> bool:
        """Whether it was made under a pin by code that is not the pinned one."""
        return self.ran != self.code

    @property
    def commit(self) -> str:
        """`8d0570f9a1c2`, and whether the checkout had changes."""
        git = self.manifest.get("git", {})
        if not git.get("commit"):
            return "no checkout"
        return git["commit"][:12] + (" with changes" if git.get("dirty") else "")

    @property
    def inputs(self) -> dict[str, Path]:
        """Role -> folder, here, of what it read; whether or not it is there."""
        return {role: self._here(record) for role, record in self.manifest["inputs"].items()}

    @property
    def after(self) -> dict[str, Path]:
        """Likewise, what had to be finished before without being read."""
        return {role: self._here(record) for role, record in self.manifest.get("after", {}).items()}

    def is_of_its_key(self) -> bool:
        """Whether the key follows from what the manifest says it was made of."""
        preimage = {**self.manifest["preimage"], "code": self.code}
        return sha256_text(canonical_json(preimage))[:8] == self.key

    def _here(self, record: Mapping[str, Any]) -> Path:
        return self.root.joinpath(*PurePosixPath(record["folder"]).parts[2:])  # results/<experiment>/ aside


@dataclass(frozen=True, eq=False)
class Chain:
    """A folder and everything that it was made from, as far as that is here."""

    made: tuple[Made, ...]
    """What was made later comes first."""
    gone: tuple[Path, ...]
    """Folders that are named but not here, or not finished."""
    damaged: tuple[str, ...]
    """Messages about manifests that cannot be read: what those folders were made from is not known."""

    def of(self, kind: str) -> list[Made]:
        return [each for each in self.made if each.kind == kind]

    def by_stage(self) -> dict[str, Made]:
        return {each.stage: each for each in self.made}


def read_made(folder: Path) -> Made:
    """The finished stage in a folder. Raises StageError when its manifest is missing or damaged."""
    path = folder / MANIFEST
    manifest = read_json(path)
    try:
        names = [manifest["kind"], manifest["name"], manifest["key"]]
        parts = [manifest["inputs"], manifest["outputs"], manifest["preimage"]["science"], manifest["preimage"]["code"]]
        named = [record["folder"] for record in (*parts[0].values(), *manifest.get("after", {}).values())]
        sound = all(isinstance(text, str) for text in (*names, *named)) and all(isinstance(p, dict) for p in parts)
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise StageError(f"{path} is damaged: it does not say what the folder is or what it was made from.")
    depth = 0 if manifest["kind"] == "release" else manifest["name"].count("/") + 1
    folder = _plain(folder, depth + 2)
    return Made(folder.parents[min(depth, len(folder.parents) - 1)], folder, manifest)


def _plain(folder: Path, n_parts: int) -> Path:
    """The folder without `..`, and with so many names that the experiment's folder has one."""
    if ".." in folder.parts:
        end = len(folder.parts) - folder.parts[::-1].index("..")
        folder = Path(os.path.realpath(Path(*folder.parts[:end])), *folder.parts[end:])
    return folder if len(folder.parts) >= n_parts else Path.cwd() / folder


def canonical(folder: Path) -> Path:
    """The one form in which folders are compared, however they were come by: absolute, no `..`, no links."""
    return Path(os.path.realpath(folder))


def chain(made: Made) -> Chain:
    """It and all that is upstream of it; what had to be finished before it, too."""
    found: dict[Path, Made] = {}
    gone: dict[Path, None] = {}
    damaged: dict[Path, str] = {}

    def visit(each: Made, seen: set[Path]) -> None:
        for folder in (*each.inputs.values(), *each.after.values()):
            if folder in seen:
                continue
            seen.add(folder)
            if not (folder / MANIFEST).is_file():
                gone[folder] = None
                continue
            try:
                upstream = read_made(folder)
            except StageError as error:
                damaged[folder] = str(error)
            else:
                visit(upstream, seen)
        found[each.folder] = each  # after everything that it needs

    visit(made, {made.folder})
    return Chain(tuple(reversed(found.values())), tuple(gone), tuple(damaged.values()))


def experiments(results: Path) -> list[Path]:
    """Experiments' folders: `results` itself if it is one, else those in it."""
    if not results.is_dir():
        raise StageError(
            f"{results} is no folder; expected results/, or one experiment's folder in it. In the clone, `snakemake "
            "--cores 2` makes them."
        )
    results = _plain(results, 1)  # an experiment's folder is compared with its name in configs
    if is_experiment(results):
        return [results]
    return sorted(path for path in results.iterdir() if path.is_dir() and is_experiment(path))


def names_of(root: Path) -> set[str]:
    """What an experiment's folder is called, here and where it is a link to: one of them is its name in configs."""
    return {root.name, canonical(root).name}


def is_experiment(folder: Path) -> bool:
    """Whether stages' folders are right below, or below folders by kind."""
    below = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if any(KEYED.fullmatch(path.name) and path.name.startswith("release-") for path in below):
        return True
    return any(path.name in KINDS and any(keyed(path, levels(path.name))) for path in below)


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
        return read_made(folder).kind == kind
    except StageError:
        return False


def cache_folders(root: Path) -> Iterator[Path]:
    """Folders of stages' caches, and of the marks that parts of evaluations leave; links are not followed."""
    cache = root / "cache"
    if cache.is_symlink() or not cache.is_dir():
        return
    for path in _folders(cache):
        if path.name in KINDS or path.name == "parts":
            yield from keyed(path, levels(path.name))


def levels(kind: str) -> int:
    """How far below its kind's folder a stage's is: `evaluate/<policy>/<benchmark>-<key>`, `train/<run>-<key>`."""
    return 2 if kind == "parts" or KINDS[kind].per_system else 1


def keyed(folder: Path, depth: int) -> Iterator[Path]:
    """Folders with a key exactly so far below. What is above them may look so too: a policy `code-20261128`."""
    for path in _folders(folder):
        if depth > 1:
            yield from keyed(path, depth - 1)
        elif KEYED.fullmatch(path.name):
            yield path


def _folders(folder: Path) -> list[Path]:
    names = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return [path for path in names if path.is_dir() and not path.is_symlink()]


def releases(root: Path) -> tuple[list[Made], list[str]]:
    """An experiment's finished releases, oldest first, and messages about those that cannot be read.

    One that was moved to another disk and is linked here counts; another name for one that is here does not.
    """
    found, damaged = [], []
    for path in sorted(root.glob("release-*")):
        if path.is_symlink() and not path.exists():
            damaged.append(f"{path} leads to {os.readlink(path)}, which is not here.")
        if (path.is_symlink() and canonical(path).parent == canonical(root)) or not (path / MANIFEST).is_file():
            continue
        try:
            found.append(read_made(path))
        except StageError as error:
            damaged.append(str(error))
    return sorted(found, key=_when), damaged


def _when(made: Made) -> tuple[str, int, str]:
    """Manifests tell seconds; of two within one, the file's own time."""
    return made.finished, (made.folder / MANIFEST).stat().st_mtime_ns, made.key


def latest(root: Path) -> Path | None:
    """The release that an experiment's link `latest` names; None without the link, or where it leads nowhere.

    Always in this folder: an absolute link in a copy leads to where the results were copied from.
    """
    link = root / LATEST
    path = root / Path(os.readlink(link)).name if link.is_symlink() else link
    return path if (path / MANIFEST).is_file() else None


def find_release(results: Path, which: str = LATEST) -> Made:
    """One release: `latest`, a key, `<experiment>/latest`, `<experiment>/<key>`, or a path to a release's folder.

    Where only releases without the link are there (a copy that lost it), `latest` is the newest. Raises StageError,
    listing what there is.
    """
    path = Path(which)
    if (path / MANIFEST).is_file():
        return _resolved(path)
    experiment, _, key = which.rpartition("/")
    roots = [root for root in experiments(results) if not experiment or root.name == experiment]
    found: list[Made] = []
    for root in roots:
        known, _ = releases(root)
        if key == LATEST:
            link = latest(root)
            found += [read_made(link)] if link is not None else known[-1:]
        else:
            found += [made for made in known if key in (made.key, made.folder.name)]
    if len(found) == 1:
        return found[0]
    listed = [f"{made.root.name}/{made.key}" for root in experiments(results) for made in releases(root)[0]]
    there = ", ".join(listed) or "none that is finished"
    if found:
        several = ", ".join(f"{made.root.name}/{which}" for made in found)
        raise StageError(f"{which}: several experiments in {results} have it; say one of {several}.")
    raise StageError(
        f"{which}: {results} has no such release. Expected `latest`, a key, <experiment>/<key> or a release's folder; "
        f"there are: {there}."
    )


def _resolved(path: Path) -> Made:
    """A release by its own name where the path is the link `latest`, or another that is named otherwise."""
    if path.name == LATEST and (newest := latest(path.parent)) is not None:
        return read_made(newest)
    return read_made(path.parent / os.readlink(path) if path.is_symlink() and not KEYED.fullmatch(path.name) else path)
