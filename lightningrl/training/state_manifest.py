"""`manifest.json` of a saved state, written last: a folder without a valid one is not a state.

    {"step": 120, "files": {"state-0-of-1.pt": {"bytes": 4096, "sha256": "..."}}, "fingerprint": {...},
     "fingerprint_sha256": "...", "versions": {"lightningrl": "0.1.0", "torch": "2.10.0"}, "sha256": "..."}

`sha256` is the hash of the canonical JSON of the rest, so that a flipped byte of the manifest itself is found too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lightningrl.errors import CheckpointError, StageError
from lightningrl.training.fingerprint import digest
from lightningrl.utils import files

MANIFEST = "manifest.json"
_KEYS = {"step", "files", "fingerprint", "fingerprint_sha256", "versions"}
_log = logging.getLogger(__name__)


def file_name(rank: int, world: int) -> str:
    """Returns the name of the file that a rank writes."""
    return f"state-{rank}-of-{world}.pt"


def versions() -> dict[str, str]:
    """Returns the versions that must be equal for a resumed run to be bit-equal."""
    try:
        package = version("lightningrl")
    except PackageNotFoundError:
        package = "not installed"
    return {"lightningrl": package, "torch": str(torch.__version__)}


def write(folder: Path, step: int, world: int, fingerprint: Mapping[str, Any]) -> None:
    """Hashes the files of all ranks in `folder` and writes the manifest. Raises StageError when a file is missing."""
    records = {}
    for path in (folder / file_name(rank, world) for rank in range(world)):
        if not path.is_file():
            raise StageError(f"{path} is missing after all {world} processes wrote: put the folder on a shared disk.")
        records[path.name] = {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}
    content = {
        "step": step,
        "files": records,
        "fingerprint": dict(fingerprint),
        "fingerprint_sha256": digest(fingerprint),
        "versions": versions(),
    }
    files.write_json(folder / MANIFEST, content | {"sha256": files.sha256_text(files.canonical_json(content))})


def read(folder: Path, step: int, rank: int, world: int, remedy: str) -> dict[str, Any]:
    """Returns the manifest of a state, after checking the sizes of all its files and the hash of this rank's.

    Raises CheckpointError, naming the file and the remedy, for a state that is incomplete or damaged, and for one of
    another step or another number of processes.
    """
    manifest = _read(folder, remedy)
    expected = [file_name(number, world) for number in range(world)]
    if (found := sorted(manifest["files"])) != sorted(expected):
        whole = found == sorted(file_name(number, len(found)) for number in range(len(found)))
        raise CheckpointError(
            f"{folder / MANIFEST} names {', '.join(found) or 'no file'}, expected {', '.join(expected)}: a state is "
            "gone on with by as many processes as saved it. "
            + (f"Start {len(found)}, not {world}." if whole and found else remedy)
        )
    if manifest["step"] != step:
        raise CheckpointError(f"{folder / MANIFEST} is of step {manifest['step']}, expected {step}. {remedy}")
    for name, record in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"the saved state {folder} is incomplete: {name} is missing. {remedy}")
        if (size := path.stat().st_size) != record["bytes"]:
            raise CheckpointError(f"{path} is damaged ({size} bytes, expected {record['bytes']}). {remedy}")
    mine = folder / expected[rank]
    if (actual := files.sha256_file(mine)) != (wanted := manifest["files"][mine.name]["sha256"]):
        raise CheckpointError(f"{mine} is damaged (sha256 {actual[:12]}, expected {wanted[:12]}). {remedy}")
    if manifest["versions"] != (now := versions()):
        _log.warning("%s was saved by %s, this is %s: not bit for bit the same run", folder, manifest["versions"], now)
    return manifest


def _read(folder: Path, remedy: str) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"the saved state {folder} is incomplete: {MANIFEST} is missing. {remedy}")
    try:
        manifest = files.read_json(path)
    except StageError:
        raise CheckpointError(f"{path} is damaged: it is no JSON. {remedy}") from None
    stated = manifest.pop("sha256", None) if isinstance(manifest, dict) else None
    if stated is None or stated != files.sha256_text(files.canonical_json(manifest)) or manifest.keys() != _KEYS:
        raise CheckpointError(f"{path} is damaged, or of another version: it does not hold its own sha256. {remedy}")
    return manifest
