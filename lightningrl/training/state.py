"""Resumable training states on disk: whole or absent, verified before use, the newest two kept.

`<folder>/step-000120/` holds `state.pt` and, written last, `manifest.json` with its sha256. The folder is written under
a temporary name and renamed, so a kill at any moment leaves the previous state.
"""

from __future__ import annotations

import io as bytes_io
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from lightningrl import io
from lightningrl.errors import CheckpointError, StageError

KEEP = 2
_NAME = re.compile(r"step-(\d{6,})")


def save_state(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the state after `step` steps, then prune older ones.

    Raises StageError on a full disk; what was saved before stays.
    """
    final, temporary = folder / f"step-{step:06d}", folder / f".step-{step:06d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    buffer = bytes_io.BytesIO()
    torch.save(state, buffer)
    try:
        io.write_bytes(temporary / "state.pt", buffer.getvalue())
        digest = io.sha256_file(temporary / "state.pt")
        io.write_json(temporary / "manifest.json", {"step": step, "state.pt": digest})
        os.replace(temporary, final)
        io.fsync_dir(folder)
    except OSError as error:
        raise io.disk_error(final, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in _saved(folder)[:-KEEP]:
        shutil.rmtree(folder / f"step-{old:06d}")


def load_state(folder: Path) -> dict[str, Any] | None:
    """The newest state, or None when there is none.

    Raises CheckpointError naming the file when it is damaged: an older state is used only when that folder is removed.
    """
    steps = _saved(folder)
    if not steps:
        return None
    path = folder / f"step-{steps[-1]:06d}"
    remedy = f"Delete {path} to go on from {'the state before it' if len(steps) > 1 else 'the beginning'}."
    try:
        expected = io.read_json(path / "manifest.json")["state.pt"]
        found = io.sha256_file(path / "state.pt")
    except (OSError, KeyError, TypeError, StageError) as error:
        raise CheckpointError(f"the saved state {path} is incomplete: {error}. {remedy}") from None
    if found != expected:
        raise CheckpointError(
            f"{path / 'state.pt'} is damaged (sha256 {found[:12]}, expected {expected[:12]}). {remedy}"
        )
    try:
        return torch.load(path / "state.pt", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path / 'state.pt'} cannot be read: {error}. {remedy}") from None


def _saved(folder: Path) -> list[int]:
    if not folder.exists():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name)))
