"""One stage of an experiment: what it reads, what it writes, and the key that follows from what it reads.

The key is a function of the scientific config, the members, the source digests and the upstream keys; never of
resources, paths, dates or the order of mappings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lightningrl.config.section import science
from lightningrl.errors import StageError
from lightningrl.pipeline.code_digest import Sources
from lightningrl.pipeline.kinds import Kind
from lightningrl.utils.files import canonical_json, sha256_text

MANIFEST = "manifest.json"
TIMING = "timing.jsonl"
"""Seconds and memory; beside the final files, in no manifest's outputs."""
RESULTS = Path("results")
LOGS = Path("logs")


@dataclass(frozen=True)
class Stage:
    """A node of the plan; its folder is `results/<experiment>/<kind>/<name>-<key>`."""

    experiment: str
    spec: Kind
    """Its kind, which says what all stages of that kind share."""
    name: str
    """For people and for targets: `gsm-mini`, `base/gsm-mini`, `lightningrl`."""
    config: Mapping[str, Any]
    """Role -> section or JSON value: all that the stage reads of the experiment."""
    members: Mapping[str, str]
    """Role -> `module:attribute` of the registry members the config chose; the stage resolves them."""
    inputs: Mapping[str, Stage]
    """Role -> upstream stage."""
    files: tuple[str, ...]
    """Final files but the manifest, relative to the folder."""
    after: Mapping[str, Stage] = field(default_factory=dict)
    """Role -> stage that must be finished before, though nothing of it is read: not part of the key."""
    is_open: bool = False
    """It writes more final files than `files`, which only its inputs tell: a checkpoint's shards."""
    size: str = ""
    """The size of the model that it computes with, like `8b`, where known; its job is sized by it, its key is not."""
    pin: str | None = None
    """The digest that stands in the key for today's code: see `pipeline.pin`."""
    package: Sources = field(default_factory=Sources, compare=False, repr=False)
    """Today's code, looked at once for all stages of a plan."""
    families: tuple[str, ...] = ()
    """Modules of the built-in families of checkpoints, one of which its code resolves; a pin covers them."""

    @property
    def kind(self) -> str:
        """The name of its kind, which is also the verb that makes it."""
        return self.spec.name

    @property
    def label(self) -> str:
        """`train/lightningrl`: what it is called in manifests, pins and messages."""
        return f"{self.kind}/{self.name}"

    @property
    def target(self) -> str:
        """What it is called on Snakemake's command line: `train_lightningrl`, `evaluate_base_gsm-mini`, `table1`."""
        is_numbered = re.fullmatch(rf"{self.kind}\d+", self.name)
        return self.name if is_numbered else f"{self.kind}_{self.name.replace('/', '_')}"

    @property
    def upstream(self) -> tuple[Stage, ...]:
        """Everything that must be finished before."""
        return (*self.inputs.values(), *self.after.values())

    @property
    def input_folders(self) -> tuple[Path, ...]:
        return tuple(stage.folder for stage in self.inputs.values())

    @property
    def outputs(self) -> tuple[str, ...]:
        """Final files; the manifest, which is written last, at the end."""
        return (*self.files, MANIFEST)

    @property
    def written(self) -> tuple[str, ...]:
        """Final files but the manifest, as they are in the folder: `files`, and of an open stage what else is there."""
        if not self.is_open:
            return self.files
        there = {path.name for path in self.folder.iterdir() if path.is_file() and not path.name.startswith(".")}
        return (*self.files, *sorted(there - {*self.outputs, TIMING}))

    @cached_property
    def sources(self) -> dict[str, str]:
        """File -> digest of its normalised text, for all the stage's code: its kind's module, members, families."""
        members = {member.partition(":")[0] for member in self.members.values()}
        return self.package.of((self.spec.module, *sorted({*members, *self.families})))

    @cached_property
    def live_code(self) -> str:
        """Digest of the code that would run now."""
        return sha256_text(canonical_json(self.sources))

    @property
    def code(self) -> str:
        """Digest of the code that the key is made of: the pinned one, else today's."""
        return self.live_code if self.pin is None else self.pin

    @cached_property
    def preimage(self) -> dict[str, Any]:
        """What the key is a hash of, as plain JSON."""
        return {
            "kind": self.kind,
            "science": {role: science(value) for role, value in sorted(self.config.items())},
            "members": dict(sorted(self.members.items())),
            "code": self.code,
            "upstream": {role: stage.key for role, stage in sorted(self.inputs.items())},
        }

    @cached_property
    def key(self) -> str:
        """8 hex digits: equal keys, equal results."""
        return key_of(self.preimage)

    def check_key(self, planned: str | None) -> None:
        """Raises StageError when a caller planned with another key than today's."""
        if planned not in (None, self.key):
            raise StageError(
                f"{self.kind} {self.name}: asked for key {planned}, but the config and code now give {self.key}: "
                "they changed since the DAG was planned. Run snakemake again."
            )

    @property
    def folder(self) -> Path:
        """Where the results are, relative to the working directory."""
        return folder_of(self.experiment, self.kind, self.name, self.key)

    @property
    def manifest(self) -> Path:
        return self.folder / MANIFEST

    @cached_property
    def cache(self) -> Path:
        """Shared by versions that differ only in their sweep."""
        key = cache_key(self.preimage, self.live_code)
        return RESULTS / self.experiment / "cache" / self.kind / f"{self.name}-{key}"

    @property
    def log(self) -> Path:
        """The log of all its starts."""
        return log_of(self.experiment, self.kind, self.name, self.key)

    def last_log(self, part: tuple[int, int] | None = None) -> Path:
        """The log of its last start, or of the last start of a part of an evaluation, such as (2, 8)."""
        return last_log_of(self.log, part)


def folder_of(experiment: str, kind: str, name: str, key: str) -> Path:
    """Returns where a stage's results are, relative to the working directory."""
    base = RESULTS / experiment
    return base / f"release-{key}" if kind == "release" else base / kind / f"{name}-{key}"


def log_of(experiment: str, kind: str, name: str, key: str) -> Path:
    """Returns the log of all starts of a stage."""
    return LOGS / experiment / kind / f"{name}-{key}.log"


def last_log_of(log: Path, part: tuple[int, int] | tuple[str, str] | None = None) -> Path:
    """Returns the log of the last start of a stage, or of a part of it, beside that of all its starts."""
    return log.with_suffix(".{}-of-{}.last.log".format(*part) if part else ".last.log")


def cache_key(preimage: Mapping[str, Any], live: str) -> str:
    """Returns the key of a stage's cache, in which what is swept does not count.

    live: the digest of the code that fills it. Where that is not the code in the key, under a pin, it counts too, so
    that nobody else reads what it left.
    """
    science = {role: value for role, value in preimage["science"].items() if role != "sweep"}
    other = {} if live == preimage["code"] else {"live": live}
    return key_of({**preimage, "science": science, **other})


def key_of(preimage: Mapping[str, Any]) -> str:
    """Returns the first 8 hexadecimal digits of the hash of a preimage."""
    return sha256_text(canonical_json(preimage))[:8]
