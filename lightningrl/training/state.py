"""Resumable training states on disk: whole or absent, verified before use; the newest two are kept.

`<folder>/step-000120/` has one file `state-<rank>-of-<world>.pt` for each process and, written last, `manifest.json`:

    {"step": 120, "files": {"state-0-of-1.pt": {"bytes": 4096, "sha256": "..."}}, "fingerprint": {...},
     "fingerprint_sha256": "...", "versions": {"lightningrl": "0.1.0", "torch": "2.10.0"},
     "chosen": {"file": "chosen-000100.pt", "bytes": 4096, "sha256": "..."}, "sha256": "..."}

`sha256` is of the canonical JSON of the rest, so a flipped byte of the manifest itself is found too. The hash of a file
is computed by the process that writes it, while it does. `chosen` is of a file beside the states, which they share
(training/chosen_file.py), or null. The fingerprint is
the run's config as JSON data: a state of another config is refused. The folder is written under a temporary name,
flushed to the disk, and then renamed: a kill at any moment leaves the previous state.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lightningrl.errors import CheckpointError, LightningRLError, StageError
from lightningrl.training.chosen_file import Chosen, check_chosen, read_chosen, remove_others, write_chosen
from lightningrl.training.hashed_file import write_hashed
from lightningrl.training.world import World
from lightningrl.utils import files
from lightningrl.utils.files import canonical_json, sha256_text

KEEP = 2
MANIFEST = "manifest.json"
FREE = frozenset({"save_every", "role", "resources"})
"""Keys that may differ at any depth: they change when and where a run is saved or its name, but no number."""
_NAME = re.compile(r"step-(\d{6,})")
_KEYS = {"step", "files", "fingerprint", "fingerprint_sha256", "versions", "chosen"}
_log = logging.getLogger(__name__)


def save_state(
    folder: Path, step: int, state: dict[str, Any], *,
    fingerprint: Mapping[str, Any] | None = None, world: World = World(),  # noqa: B008 (frozen)
    chosen: Chosen | None = None,
) -> None:  # fmt: skip
    """Writes this process's part of the state after `step` steps; the first one makes it valid and prunes older ones.

    All processes of the world call it on one shared folder. One that fails raises and never arrives at the barrier, so
    its launcher must end the others, and nothing counts as saved. Tensors are streamed to the file: at most one tensor
    of a device is copied in memory at a time. chosen: the weights that the run would end with, of the first process;
    they are written once, beside the states. Raises StageError on a full disk; earlier states stay.
    """
    final, temporary = folder / f"step-{step:06d}", folder / f".step-{step:06d}.tmp"
    try:
        if world.is_first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        world.barrier()
        path, kept = temporary / _file_name(world.rank, world.size), None
        _record_of(path).write_text(canonical_json(write_hashed(state, path)))
        if world.is_first and chosen is not None:
            steps = _saved(folder)
            kept = write_chosen(folder, chosen, _chosen_of(folder, steps[-1]) if steps else None)
        world.barrier()
        if world.is_first:
            _write_manifest(temporary, step, world.size, fingerprint or {}, kept)
            os.replace(temporary, final)
            files.fsync_dir(folder)
            _prune(folder)
        world.barrier()
    except OSError as error:
        raise files.disk_error(final, error) from error
    finally:
        if world.is_first:
            shutil.rmtree(temporary, ignore_errors=True)


def load_state(
    folder: Path, *, fingerprint: Mapping[str, Any] | None = None, growing: Collection[str] = (),
    world: World = World(),  # noqa: B008 (frozen)
) -> dict[str, Any] | None:  # fmt: skip
    """Returns this process's part of the newest state with tensors on the CPU, or None when there is no state. In the
    first process it has the chosen weights as `chosen`, where there are some.

    fingerprint: that of the run, or None to compare nothing; growing: see `differences`. Raises CheckpointError, naming
    the file, when the state is damaged (an older one is used only when its folder is removed), when it was saved under
    another fingerprint (naming the keys with both values), or by another number of processes.
    """
    steps = _saved(folder)
    if not steps:
        return None
    path = folder / f"step-{steps[-1]:06d}"
    mine = path / _file_name(world.rank, world.size)
    remedy = f"Delete {path} to resume from {'the state before it' if len(steps) > 1 else 'the beginning'}."
    manifest = _verified_manifest(path, steps[-1], mine.name, world.size, remedy)
    if fingerprint is not None and (changed := differences(manifest["fingerprint"], fingerprint, growing)):
        raise CheckpointError(
            f"the saved state {path} is of another config: {'; '.join(changed)}. Go on with the config it was saved "
            f"under, or begin again in another folder than {folder}."
        )
    chosen = {}
    if manifest["chosen"] is not None and world.is_first:
        chosen = {"chosen": read_chosen(folder, manifest["chosen"], remedy)}
    try:
        return torch.load(mine, map_location="cpu", weights_only=True) | chosen
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{mine} cannot be read: {error}. {remedy}") from None


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], growing: Collection[str] = ()) -> list[str]:
    """Returns one sentence with both values for each dotted key that differs; a run may resume when there is none.

    growing: keys of numbers that may rise. The number of steps may, unless something else is computed from it, such as
    a learning rate that decays to zero over the run or a validation at the last step only.

    >>> differences({"run": {"steps": 4, "kl": 0.1}}, {"run": {"steps": 8, "kl": 0.2, "role": "x"}}, ["run.steps"])
    ['run.kl was 0.1, is 0.2']
    """
    before, after = dict(_leaves(saved)), dict(_leaves(now))
    found = []
    for key in sorted(before | after):
        old, new = (canonical_json(leaves[key]) if key in leaves else "nothing" for leaves in (before, after))
        low, high = before.get(key), after.get(key)
        may_differ = key in growing and isinstance(low, int | float) and isinstance(high, int | float) and low <= high
        if old != new and not may_differ:
            found.append(f"{key} was {old}, is {new}")
    return found


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields plain values with their dotted paths; an empty mapping and a list count as values."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            if key not in FREE:
                yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, value


def versions() -> dict[str, str]:
    """Returns the versions that must be equal for a resumed run to be bit-equal."""
    try:
        package = version("lightningrl")
    except PackageNotFoundError:
        package = "not installed"
    return {"lightningrl": package, "torch": str(torch.__version__)}


def _file_name(rank: int, size: int) -> str:
    return f"state-{rank}-of-{size}.pt"


def _record_of(path: Path) -> Path:
    """Returns the file in which a process tells the first one the bytes and the hash of its part."""
    return path.with_suffix(".json")


def _write_manifest(
    folder: Path, step: int, size: int, fingerprint: Mapping[str, Any], chosen: dict[str, Any] | None
) -> None:
    """Gathers the records of all processes' files and writes the manifest.

    Raises StageError when a file is missing or of another length than its process wrote.
    """
    records = {}
    for path in (folder / _file_name(rank, size) for rank in range(size)):
        record = files.read_json(_record_of(path)) if _record_of(path).is_file() else None
        if record is None or not path.is_file() or path.stat().st_size != record["bytes"]:
            raise StageError(
                f"{path} is missing or short after all {size} processes wrote: put the folder on a shared disk."
            )
        records[path.name] = record
        _record_of(path).unlink()
    content = {"step": step, "files": records, "fingerprint": dict(fingerprint), "versions": versions()}
    content["chosen"] = chosen
    content["fingerprint_sha256"] = sha256_text(canonical_json(dict(_leaves(fingerprint))))
    files.write_json(folder / MANIFEST, content | {"sha256": sha256_text(canonical_json(content))})


def _verified_manifest(folder: Path, step: int, mine: str, size: int, remedy: str) -> dict[str, Any]:
    """Returns the manifest of a state, after checking the sizes of all its files and the hash of the file `mine`.

    Raises CheckpointError, naming the file and the remedy, for a state that is incomplete or damaged, and for one of
    another step or another number of processes.
    """
    path, expected = folder / MANIFEST, [_file_name(rank, size) for rank in range(size)]
    if not path.is_file():
        raise CheckpointError(f"the saved state {folder} is incomplete: {MANIFEST} is missing. {remedy}")
    try:
        manifest = files.read_json(path)
    except StageError:
        raise CheckpointError(f"{path} is damaged: it is no JSON. {remedy}") from None
    stated = manifest.pop("sha256", None) if isinstance(manifest, dict) else None
    if stated is None or stated != sha256_text(canonical_json(manifest)):
        raise CheckpointError(f"{path} is damaged, or of another version: it does not hold its own sha256. {remedy}")
    if manifest.keys() != _KEYS:
        unlike = _KEYS - manifest.keys(), manifest.keys() - _KEYS
        lacks, more = (", ".join(sorted(keys)) or "nothing" for keys in unlike)
        raise CheckpointError(
            f"{path} was written by another version of lightningrl, whose states this one does not read: it lacks "
            f"{lacks} and has {more} besides. Finish the run with the version that began it, or delete the folder "
            f"{folder.parent} and begin again."
        )
    if (found := sorted(manifest["files"])) != sorted(expected):
        whole = found == sorted(_file_name(rank, len(found)) for rank in range(len(found)))
        raise CheckpointError(
            f"{path} names {', '.join(found) or 'no file'}, expected {', '.join(expected)}: a state is gone on with by "
            f"as many processes as saved it. {f'Start {len(found)}, not {size}.' if whole and found else remedy}"
        )
    if manifest["step"] != step:
        raise CheckpointError(f"{path} is of step {manifest['step']}, expected {step}. {remedy}")
    for name, record in manifest["files"].items():
        part = folder / name
        if not part.is_file():
            raise CheckpointError(f"the saved state {folder} is incomplete: {name} is missing. {remedy}")
        if (length := part.stat().st_size) != record["bytes"]:
            raise CheckpointError(f"{part} is damaged ({length} bytes, expected {record['bytes']}). {remedy}")
        if name == mine and (actual := files.sha256_file(part)) != record["sha256"]:
            wanted = record["sha256"][:12]
            raise CheckpointError(f"{part} is damaged (sha256 {actual[:12]}, expected {wanted}). {remedy}")
    if manifest["chosen"] is not None:
        check_chosen(folder.parent, manifest["chosen"], remedy)
    if manifest["versions"] != (now := versions()):
        _log.warning("%s was saved by %s, this is %s: not bit for bit the same run", folder, manifest["versions"], now)
    return manifest


def _prune(folder: Path) -> None:
    """Removes all states but the newest, each whole or not at all, chosen weights that none of these names, and what
    killed processes left behind."""
    for left in folder.glob(".step-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    for old in _saved(folder)[:-KEEP]:
        removed = folder / f".step-{old:06d}.tmp"
        os.replace(folder / f"step-{old:06d}", removed)
        shutil.rmtree(removed, ignore_errors=True)
    with contextlib.suppress(LightningRLError, KeyError, TypeError):  # a damaged older state: nothing is removed
        kept = [_chosen_of(folder, step) for step in _saved(folder)]
        remove_others(folder, {record["file"] for record in kept if record is not None})


def _chosen_of(folder: Path, step: int) -> dict[str, Any] | None:
    """Returns what a saved state says of the chosen weights."""
    return files.read_json(folder / f"step-{step:06d}" / MANIFEST)["chosen"]


def _saved(folder: Path) -> list[int]:
    if not folder.exists():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name)))
