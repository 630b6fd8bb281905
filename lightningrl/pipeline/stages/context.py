"""What a stage is given: its config, its inputs' folders, where to write, when to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightningrl.benchmarks.fetch import Origins
from lightningrl.config.section import science

Report = Callable[[str], None]
ShouldStop = Callable[[], bool]
Timing = Callable[..., None]
NO_ORIGINS = Origins(None, Path("data.lock.json"))


def silent(*_: Any, **__: Any) -> None:
    """Reports nothing."""


@dataclass(frozen=True, slots=True)
class StageContext:
    """The one argument of every stage's `run`. A stage writes final files into `folder`, and else only its state.

    The first four are enough for what only reads and writes files: to collect, to build a table, to draw a figure.
    """

    config: Mapping[str, Any]
    """What the stage reads of the experiment, exactly what its key holds: validated sections and plain values."""
    inputs: Mapping[str, Path]
    """Folders of the finished upstream stages, by role."""
    folder: Path
    """Where the final files go, written atomically; the runner writes the manifest afterwards."""
    state: Path
    """Resumable, untracked files; survives a kill. Empty at the first start."""
    report: Report = silent
    """Prints one line of progress."""
    cache: Path = Path("cache")
    """Shared by versions of this stage that differ only in their `sweep`; files here are whole or absent."""
    threads: int = 1
    """CPU threads for torch."""
    origins: Origins = NO_ORIGINS
    """Where published files may come from; no part of the key."""
    judge_workers: int = 1
    """Jails at a time."""
    device: str = "cpu"
    """`cpu` or `cuda`; on CUDA each process takes the device of its local rank."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward instead of keeping them."""
    should_stop: ShouldStop = bool
    """True after SIGTERM or at the end of the time budget: save and raise Interrupted."""
    timing: Timing = silent
    """Appends one row of volatile figures (seconds, memory) to `state/timing.jsonl`, published as `timing.jsonl`."""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The scientific config and the names of the inputs, whose folders carry their keys, as plain JSON."""
        return {**science(self.config), "inputs": {role: folder.name for role, folder in self.inputs.items()}}
