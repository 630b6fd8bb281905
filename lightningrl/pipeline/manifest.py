"""`manifest.json`: how a folder's results came to be, and the hashes that prove they are whole. Written last.

Everything outside its `run` part is a function of config, code, inputs and machine; `run` holds what differs from one
run to the next.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightningrl.errors import DamagedError, StageError
from lightningrl.pipeline import system
from lightningrl.pipeline.stage import MANIFEST, Stage, key_of
from lightningrl.utils.files import read_json, sha256_file, write_json

SCHEMA = 1


def write(stage: Stage, run: Mapping[str, Any], threads: int, inputs: Mapping[str, Any]) -> None:
    """Hashes the stage's outputs and writes its manifest; from then on the stage counts as finished.

    inputs: what `check_inputs` returned before the stage read them.
    """
    outputs, after = {}, {}
    for name in stage.written:
        path = stage.folder / name
        if not path.is_file():
            raise StageError(f"the stage ended without writing {path}: a defect of the stage, please report it")
        outputs[name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    for role, source in sorted(stage.after.items()):  # with what it found
        found = {name: read_json(source.folder / name) for name in source.files if name.endswith(".json")}
        after[role] = {"folder": source.folder.as_posix(), "key": source.key, "found": found}
    manifest = {
        "schema": SCHEMA,
        "kind": stage.kind,
        "name": stage.name,
        "key": stage.key,
        "preimage": stage.preimage | {"code": stage.sources},
        "code": {"digest": stage.code, "live": stage.live_code, "pinned": stage.pin is not None},
        "inputs": dict(inputs),
        "after": after,
        "outputs": outputs,
        "git": system.git_state(),
        "python": sys.version.split()[0],
        "packages": system.versions(),
        "hardware": system.hardware(),
        "threads": threads,
        "torch_threads": system.torch_threads(),
        "seeds": _seeds(stage.preimage["science"]),
        "run": dict(run),
    }
    write_json(stage.manifest, manifest)


def _seeds(science: Mapping[str, Any]) -> dict[str, int]:
    """Returns every `seed` by its path."""
    found = {"seed": science["seed"]} if "seed" in science else {}
    for name, value in science.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{path}": seed for path, seed in _seeds(value).items()}
    return found


def missing(stage: Stage) -> list[Path]:
    """Returns outputs that are not there; of one that was stopped half-way the manifest is among them."""
    return [stage.folder / name for name in stage.outputs if not (stage.folder / name).is_file()]


def state(stage: Stage, verify: bool = False) -> str:
    """Returns `done`, `missing`, `partial` (begun, or a file is gone), `stale` (what it was made from has other content
    now); with `verify` also `damaged` (not the manifest's hash)."""
    if missing(stage):
        return "partial" if stage.folder.is_dir() and any(stage.folder.iterdir()) else "missing"
    if verify:
        try:
            check(stage.folder)
        except StageError:
            return "damaged"
    return "stale" if changed_inputs(stage) else "done"


def check_code(stage: Stage) -> None:
    """Raises StageError where a finished stage that is not pinned was made, under a pin, by code that is not its key's.

    Not finished, of another key, or damaged: that is for those to say who read its results.
    """
    if stage.pin is not None or not stage.manifest.is_file():
        return
    try:
        live = read_json(stage.manifest).get("code", {}).get("live")
    except (StageError, AttributeError):
        return
    if live not in (None, stage.code):
        label = stage.label
        raise StageError(
            f"{stage.folder} was made under a pin by other code (digest {live[:12]}) than its key says "
            f"({stage.code[:12]}), and {label} is not pinned any more. Delete that folder, and what was made "
            f"from it with its caches: it is made anew by today's code. Or pin it again, to take it as it is: "
            f"`lightningrl pin {label}` with the same --config."
        )


def check(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a finished folder, after comparing its files with their hashes.

    Raises DamagedError naming the missing or damaged file and what to do.
    """
    path = folder / MANIFEST
    manifest = read_json(path)
    wrong = ""
    if not isinstance(manifest, dict) or not isinstance(manifest.get("outputs"), dict):
        wrong, manifest = f"{path} is damaged: it lists no outputs.", {"outputs": {}}
    for name, record in manifest["outputs"].items():
        file = folder / name
        if not file.is_file():
            wrong = f"{file} is missing, though {path} lists it."
        elif (size := file.stat().st_size) != record["bytes"]:
            wrong = f"{file} is damaged: it has {size} bytes, its manifest says {record['bytes']}."
        elif sha256_file(file) != record["sha256"]:
            wrong = f"{file} is damaged: its sha256 is not the one in its manifest."
    if wrong:
        remedy = f"Delete the folder {folder} and run the same command again: it is made anew, nothing else is."
        raise DamagedError(f"{wrong} {remedy}")
    return manifest


def changed_inputs(stage: Stage) -> list[str]:
    """Returns roles of a finished stage's inputs whose files have other hashes now than when it was made.

    Keys are the same; but what a device computes may differ from one time to the next. An input that is gone, or a
    manifest that is damaged, is for those to say who need it.
    """
    try:
        recorded = read_json(stage.manifest)["inputs"]
        return [role for role, listed in _listed(stage).items() if recorded[role]["outputs"] != listed["outputs"]]
    except (StageError, KeyError, TypeError):
        return []


def identity(stage: Stage) -> str:
    """Returns 8 hexadecimal digits of a hash over the files of a stage's inputs, as their manifests list them.

    What is kept from one attempt to the next is kept under it: with equal keys, what a device computed may differ.
    """
    return key_of({role: listed.get("outputs") for role, listed in _listed(stage).items()})


def _listed(stage: Stage) -> dict[str, Any]:
    """Returns the manifests of the inputs that are finished."""
    there = {role: source.manifest for role, source in stage.inputs.items() if source.manifest.is_file()}
    return {role: read_json(path) for role, path in there.items()}


def check_inputs(stage: Stage) -> dict[str, Any]:
    """Returns the records of all inputs that a manifest keeps: folder, key, and the hashes of their files.

    Raises StageError unless they, and what else must be finished before the stage, are finished, of the planned keys,
    and whole.
    """
    inputs = {role: _check_input(role, source) for role, source in sorted(stage.inputs.items())}
    for role, source in stage.after.items():
        _check_input(role, source)
    return inputs


def _check_input(role: str, source: Stage) -> dict[str, Any]:
    if not source.manifest.is_file():
        raise StageError(
            f"input {role!r}: {source.folder} is not finished (it has no {MANIFEST}). Make it first: snakemake does, "
            f"or `lightningrl {source.kind} --name {source.name}` with the same --config."
        )
    check_code(source)
    found = check(source.folder)
    if (key := found.get("key")) != source.key:
        raise StageError(f"input {role!r}: {source.manifest} has key {key!r}, expected {source.key!r}. Delete it.")
    return {"folder": source.folder.as_posix(), "key": source.key, "outputs": found["outputs"]}
