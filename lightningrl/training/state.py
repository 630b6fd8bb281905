"""Resumable training states on disk: whole or absent, verified before use; the newest two are kept.

`<folder>/step-000120/` has one file `state-<rank>-of-<world>.pt` for each process and, written last, `manifest.json`
with their sizes and hashes, the step, the versions and the fingerprint of the config. The folder is written under a
temporary name, flushed to the disk, and then renamed: a kill at any moment leaves the previous state.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from lightningrl.errors import CheckpointError
from lightningrl.training import state_manifest
from lightningrl.training.fingerprint import differences
from lightningrl.utils import files

KEEP = 2
_NAME = re.compile(r"step-(\d{6,})")


def save_state(
    folder: Path,
    step: int,
    state: dict[str, Any],
    *,
    fingerprint: Mapping[str, Any] | None = None,
    rank: int = 0,
    world: int = 1,
    barrier: Callable[[], object] = lambda: None,
) -> None:
    """Writes this rank's part of the state after `step` steps; rank 0 makes the state valid and prunes older ones.

    All `world` processes call it on one shared folder and wait for each other in `barrier`. A process that fails raises
    and never arrives there, so its launcher must end the others, and nothing counts as saved. fingerprint: the
    scientific config as JSON data. Tensors are streamed to the file: at most one tensor of a device is copied in memory
    at a time.

    Raises StageError on a full disk; earlier states stay.
    """
    final, temporary = folder / f"step-{step:06d}", folder / f".step-{step:06d}.tmp"
    try:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        barrier()
        _stream(state, temporary / state_manifest.file_name(rank, world))
        barrier()
        if rank == 0:
            state_manifest.write(temporary, step, world, fingerprint or {})
            os.replace(temporary, final)
            files.fsync_dir(folder)
        barrier()
        if rank == 0:
            _prune(folder)
    except OSError as error:
        raise files.disk_error(final, error) from error
    finally:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)


def load_state(
    folder: Path,
    *,
    fingerprint: Mapping[str, Any] | None = None,
    growing: Collection[str] = (),
    rank: int = 0,
    world: int = 1,
) -> dict[str, Any] | None:
    """Returns this rank's part of the newest state with tensors on the CPU, or None when there is no state.

    fingerprint: that of the run, or None to compare nothing; growing: see `fingerprint.differences`. Raises
    CheckpointError, naming the file, when the state is damaged (an older one is used only when its folder is removed),
    when it was saved under another fingerprint (naming the keys with both values), or by another number of processes.
    """
    steps = _saved(folder)
    if not steps:
        return None
    path = folder / f"step-{steps[-1]:06d}"
    remedy = f"Delete {path} to go on from {'the state before it' if len(steps) > 1 else 'the beginning'}."
    manifest = state_manifest.read(path, steps[-1], rank, world, remedy)
    if fingerprint is not None and (changed := differences(manifest["fingerprint"], fingerprint, growing)):
        raise CheckpointError(
            f"the saved state {path} is of another config: {'; '.join(changed)}. Go on with the config it was saved "
            f"under, or begin again in another folder than {folder}."
        )
    try:
        return torch.load(path / state_manifest.file_name(rank, world), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        name = state_manifest.file_name(rank, world)
        raise CheckpointError(f"{path / name} cannot be read: {error}. {remedy}") from None


class _Sink:
    """The file that torch.save writes to. It keeps its first OSError, which torch's C++ writer would hide."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.error = file, None

    def write(self, data: memoryview) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Does nothing: torch.save calls it often, and the file is flushed once at its end."""


def _stream(state: dict[str, Any], path: Path) -> None:
    """Writes the state to the disk. Raises OSError, also when the disk is full."""
    with open(path, "wb") as file:
        sink = _Sink(file)
        torch.save(state, sink)  # pyright: ignore[reportArgumentType] - wants an IO[bytes], uses write and flush
        if sink.error is not None:
            raise sink.error
        file.flush()
        os.fsync(file.fileno())


def _prune(folder: Path) -> None:
    """Removes all states but the newest, each whole or not at all, and what killed processes left behind."""
    for left in folder.glob(".step-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    for old in _saved(folder)[:-KEEP]:
        removed = folder / f".step-{old:06d}.tmp"
        os.replace(folder / f"step-{old:06d}", removed)
        shutil.rmtree(removed, ignore_errors=True)


def _saved(folder: Path) -> list[int]:
    if not folder.exists():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name)))
