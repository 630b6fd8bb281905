"""What a stage is given: its config, its inputs' folders, where to write, when to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightningrl.benchmarks.fetch import Origins
from lightningrl.config.section import science


@dataclass(frozen=True, slots=True)
class StageContext:
    """The one argument of every stage's `run`. A stage writes final files into `folder`, and else only its state."""

    config: Mapping[str, Any]
    """What the stage reads of the experiment, exactly what its key holds: validated sections and plain values."""
    inputs: Mapping[str, Path]
    """Folders of the finished upstream stages, by role."""
    folder: Path
    """Where the final files go, written atomically; the runner writes the manifest afterwards."""
    state: Path
    """Resumable, untracked files; survives a kill. Empty at the first start."""
    cache: Path
    """Shared by versions of this stage that differ only in their `sweep`; files here are whole or absent."""
    threads: int
    """CPU threads for torch."""
    origins: Origins
    """Where published files may come from; no part of the key."""
    judge_workers: int
    """Jails at a time."""
    device: str
    """`cpu` or `cuda`; on CUDA each process takes the device of its local rank."""
    checkpoint_activations: bool
    """Compute activations again in the backward instead of keeping them."""
    report: Callable[[str], None]
    """Prints one line of progress."""
    should_stop: Callable[[], bool]
    """True after SIGTERM or at the end of the time budget: save and raise Interrupted."""
    timing: Callable[..., None]
    """Appends one row of volatile figures (seconds, memory) to `state/timing.jsonl`, published as `timing.jsonl`."""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The scientific config and the names of the inputs, whose folders carry their keys, as plain JSON."""
        return {**science(self.config), "inputs": {role: folder.name for role, folder in self.inputs.items()}}
