"""Stages and what each is made from: of a plan before a run, of the manifests in a results folder after it.

Manifests are read without a config, and the folder may be a copy from another machine. Folders are named in them as
they were where they were made, `results/<experiment>/...`; here they are looked for under the experiment's folder
wherever that is now. Nothing is written, and no file but manifests is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Generic, Protocol, TypeVar

from lightningrl.errors import DamagedError, StageError
from lightningrl.pipeline.stage import MANIFEST, key_of
from lightningrl.utils.files import canonical_json, read_json, sha256_text


class Node(Protocol):
    """What a graph knows of a stage."""

    @property
    def label(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def input_folders(self) -> Iterable[Path]: ...


N = TypeVar("N", bound=Node)


class Graph(Generic[N]):
    """Stages, each after all that it needs."""

    def __init__(self, stages: Iterable[N], gone: Iterable[Path] = (), damaged: Iterable[str] = ()) -> None:
        self.stages = tuple(stages)
        self.gone = tuple(gone)
        """Folders that are named but not here, or not finished."""
        self.damaged = tuple(damaged)
        """Messages about manifests that cannot be read: what those folders were made from is not known."""

    def __iter__(self) -> Iterator[N]:
        return iter(self.stages)

    def of(self, kind: str) -> list[N]:
        return [stage for stage in self.stages if stage.kind == kind]

    def by_label(self) -> dict[str, N]:
        return {stage.label: stage for stage in self.stages}

    def upstream(self, *ends: N) -> list[N]:
        """Returns these stages and all that they are made from."""
        needed = {stage.folder for stage in ends}
        for stage in reversed(self.stages):
            if stage.folder in needed:
                needed.update(stage.input_folders)
        return [stage for stage in self.stages if stage.folder in needed]

    def downstream(self, is_changed: Callable[[N], object]) -> set[Path]:
        """Returns the folders of the stages of which that is true, and of all that is made from them."""
        found = set[Path]()
        for stage in self.stages:
            if not found.isdisjoint(stage.input_folders) or is_changed(stage):
                found.add(stage.folder)
        return found

    @staticmethod
    def from_manifests(*ends: StageRecord) -> Graph[StageRecord]:
        """Returns the graph of finished stages and of all upstream, as far as that is here; what had to be finished
        before them, too."""
        found: dict[Path, StageRecord] = {}
        seen, gone, damaged = set[Path](), list[Path](), list[str]()

        def visit(record: StageRecord) -> None:
            for folder in (*record.inputs.values(), *record.after.values()):
                if folder in seen:
                    continue
                seen.add(folder)
                if not (folder / MANIFEST).is_file():
                    gone.append(folder)
                    continue
                try:
                    visit(read_record(folder))
                except StageError as error:
                    damaged.append(str(error))
            found[record.folder] = record  # after everything that it needs

        for end in ends:
            if end.folder not in seen:
                seen.add(end.folder)
                visit(end)
        return Graph(found.values(), gone, damaged)


@dataclass(frozen=True, eq=False)
class StageRecord:
    """A finished stage, as its manifest tells of it."""

    root: Path
    """The experiment's folder, which holds it."""
    folder: Path
    manifest: Mapping[str, Any]
    kind: str
    name: str
    key: str
    inputs: Mapping[str, Path]
    """Role -> folder, here, of what it read; whether or not it is there."""
    after: Mapping[str, Path]
    """Likewise, what had to be finished before without being read."""
    outputs: Mapping[str, str]
    """Final file -> sha256."""
    code: str
    """The digest that its key was made of."""
    ran: str
    """The digest of the code that made it: under a pin maybe not its key's."""

    @property
    def label(self) -> str:
        """`train/lightningrl`."""
        return f"{self.kind}/{self.name}"

    @property
    def input_folders(self) -> Iterable[Path]:
        return self.inputs.values()

    @property
    def science(self) -> Mapping[str, Any]:
        """What it read of the config."""
        return self.manifest["preimage"]["science"]

    @property
    def finished(self) -> str:
        """Date and time, as text that sorts; empty where the manifest does not say."""
        return str(self.manifest.get("run", {}).get("finished", ""))

    @property
    def is_pinned(self) -> bool:
        return bool(self.manifest.get("code", {}).get("pinned"))

    @property
    def commit(self) -> str:
        """`8d0570f9a1c2`, and whether the checkout had changes."""
        git = self.manifest.get("git", {})
        if not git.get("commit"):
            return "no checkout"
        return git["commit"][:12] + (" with changes" if git.get("dirty") else "")

    @property
    def preimage(self) -> dict[str, Any]:
        """What the key is a hash of."""
        return {**self.manifest["preimage"], "code": self.code}

    def is_of_its_key(self) -> bool:
        """Returns whether the key follows from what the manifest says it was made of."""
        return key_of(self.preimage) == self.key

    def input_record(self, role: str) -> StageRecord | None:
        """Returns an input if it is here. Raises StageError when it is not the one that was read."""
        folder = self.inputs[role]
        if not (folder / MANIFEST).is_file():
            return None
        found, read = read_record(folder), self.manifest["inputs"][role]
        if found.key != read["key"] or found.manifest["outputs"] != read["outputs"]:
            raise StageError(
                f"{folder / MANIFEST} is not what {self.folder} was made from: key or hashes differ from those that "
                "were recorded. It was made again with another result, or is of another copy. Make the tables and the "
                "release again (`snakemake --cores 2 --configfile` and the experiment's config), or name the release's "
                "own results folder."
            )
        return found


def read_record(folder: Path) -> StageRecord:
    """Returns the finished stage in a folder. Raises StageError when its manifest is missing or damaged."""
    path = folder / MANIFEST
    manifest = read_json(path)
    try:
        kind, name, key = (str(manifest[part]) for part in ("kind", "name", "key"))
        depth = 0 if kind == "release" else name.count("/") + 1
        folder = named_whole(folder, depth + 2)
        root = folder.parents[min(depth, len(folder.parents) - 1)]
        inputs, after = (
            {role: root.joinpath(*PurePosixPath(each["folder"]).parts[2:]) for role, each in named.items()}
            for named in (manifest["inputs"], manifest.get("after", {}))  # results/<experiment>/ aside
        )
        told = manifest.get("code", {})
        code = told.get("digest") or sha256_text(canonical_json(manifest["preimage"]["code"]))
        outputs = {each: entry["sha256"] for each, entry in manifest["outputs"].items()}
        is_sound = all(isinstance(manifest["preimage"][part], dict) for part in ("science", "code"))
        ran = told.get("live") or code
        record = StageRecord(root, folder, manifest, kind, name, key, inputs, after, outputs, code, ran)
    except (KeyError, TypeError, AttributeError):
        is_sound = False
    if not is_sound:
        raise DamagedError(f"{path} is damaged: it does not say what the folder is or what it was made from.")
    return record


def named_whole(folder: Path, n_parts: int) -> Path:
    """Returns the folder without `..`, and with so many names that the experiment's folder has one."""
    if ".." in folder.parts:
        end = len(folder.parts) - folder.parts[::-1].index("..")
        folder = Path(os.path.realpath(Path(*folder.parts[:end])), *folder.parts[end:])
    return folder if len(folder.parts) >= n_parts else Path.cwd() / folder
