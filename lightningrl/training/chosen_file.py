"""The weights that a run would end with, in a file beside its states: `chosen-000010.pt`, by the step they are of.

They change at few validations and never in between, so a state names the file, its bytes and its sha256 instead of
holding the weights again. A file is whole or absent, and stays as long as a kept state names it.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightningrl.errors import CheckpointError
from lightningrl.training.hashed_file import write_hashed
from lightningrl.utils import files


class Chosen(NamedTuple):
    """Weights on the CPU, and the step after which the model had them."""

    step: int
    weights: dict[str, Tensor]


def write_chosen(folder: Path, chosen: Chosen, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Writes the file unless `before`, the record of the newest state, is of it already; returns its record.

    A file of that name that no state names is of a run that was killed or went another way: it is written anew. Raises
    OSError, also when the disk is full.
    """
    path = folder / f"chosen-{chosen.step:06d}.pt"
    if before is not None and before["file"] == path.name and path.is_file():
        return dict(before)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        record = write_hashed(chosen.weights, temporary)
        os.replace(temporary, path)
        files.fsync_dir(folder)
    finally:
        temporary.unlink(missing_ok=True)
    return {"file": path.name} | record


def read_chosen(folder: Path, record: Mapping[str, Any], remedy: str) -> dict[str, Tensor]:
    """Returns the weights. Raises CheckpointError, naming the file and the remedy, when it is not what was written."""
    path = check_chosen(folder, record, remedy)
    if (actual := files.sha256_file(path)) != record["sha256"]:
        wanted = record["sha256"][:12]
        raise CheckpointError(f"{path} is damaged (sha256 {actual[:12]}, expected {wanted}). {remedy}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. {remedy}") from None


def check_chosen(folder: Path, record: Mapping[str, Any], remedy: str) -> Path:
    """Returns the file's path. Raises CheckpointError when it is missing or of another length."""
    path = folder / record["file"]
    if not path.is_file():
        raise CheckpointError(f"{path}, the chosen weights of the saved state, is missing. {remedy}")
    if (length := path.stat().st_size) != record["bytes"]:
        raise CheckpointError(f"{path} is damaged ({length} bytes, expected {record['bytes']}). {remedy}")
    return path


def remove_others(folder: Path, named: Collection[str]) -> None:
    """Removes the files that no kept state names, and what killed processes left behind."""
    for path in (*folder.glob("chosen-*.pt"), *folder.glob(".chosen-*.tmp")):
        if path.name not in named:
            path.unlink(missing_ok=True)
