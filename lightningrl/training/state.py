"""Resumable training states on disk: whole or absent, verified before use, the newest two kept.

`<folder>/step-000120/` holds `state-<rank>-of-<world>.pt`, one file a process, and, written last, `manifest.json` with
their sizes and hashes, the step, the versions and the fingerprint of the config. The folder is written under a
temporary name, all of it is fsynced, and then it is renamed: a kill at any moment leaves the previous state.
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
    """Write this rank's part of the state after `step` steps; rank 0 makes it valid, then prunes older ones.

    All `world` processes call it, on one shared folder, and wait for each other in `barrier`. When one fails it raises
    and does not arrive: whoever launched them must end the rest, and nothing counts as saved. fingerprint: the
    scientific config as JSON data. Tensors are streamed to the file: no copy of the state is made in memory, but for
    one tensor at a time of those on a device.

    Raises StageError on a full disk; what was saved before stays.
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
    """This rank's part of the newest state, tensors on the CPU; None when there is no state.

    Raises CheckpointError naming the file when it is damaged: an older state is used only when that folder is removed.
    Also when the state was saved under another `fingerprint`, naming the keys with both values (None: not compared;
    `growing`: see `fingerprint.differences`), or by another number of processes.
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
            f"under, or begin anew in another folder than {folder}."
        )
    try:
        return torch.load(path / state_manifest.file_name(rank, world), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        name = state_manifest.file_name(rank, world)
        raise CheckpointError(f"{path / name} cannot be read: {error}. {remedy}") from None


class _Sink:
    """The file that torch.save writes to. Keeps its first OSError for later: torch's C++ writer would hide it."""

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
        """What torch.save asks for; the file is flushed once, at its end."""


def _stream(state: dict[str, Any], path: Path) -> None:
    """Raises OSError, of a full disk too."""
    with open(path, "wb") as file:
        sink = _Sink(file)
        torch.save(state, sink)  # pyright: ignore[reportArgumentType] - wants an IO[bytes], uses write and flush
        if sink.error is not None:
            raise sink.error
        file.flush()
        os.fsync(file.fileno())


def _prune(folder: Path) -> None:
    """Remove all states but the newest, each whole or not at all, and what killed predecessors left half-removed."""
    for left in folder.glob(".step-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    for old in _saved(folder)[:-KEEP]:
        going = folder / f".step-{old:06d}.tmp"
        os.replace(folder / f"step-{old:06d}", going)
        shutil.rmtree(going, ignore_errors=True)


def _saved(folder: Path) -> list[int]:
    if not folder.exists():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name)))
