"""Failures that another attempt cannot help: a mark beside the log tells Snakemake, which then makes none.

A time limit, a lost node or too little of the node's memory are what the attempts of a cluster's job are for. But a
model that does not fit on its GPUs, a checkpoint of another family, or a decoder that its family cannot have, would
wait in the queue four times, each time asking for more, to end in the same way. The mark goes when the stage is started
again, by whomever.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightningrl.errors import CheckpointError, ConfigError, StartError
from lightningrl.pipeline.stage import LOGS, TIMING, Stage
from lightningrl.utils.files import write_text

CODE = "code.json"
"""In a state's folder: the digest of the code that left it."""


def mark_of(last_log: Path) -> Path:
    """Returns the mark beside the log of a stage's last start, or of a part's."""
    return last_log.with_suffix(".no-retry")


def reason_in(mark: Path) -> str:
    """Returns what a mark says, or nothing where there is none. A listing sees what another node has just written."""
    is_there = mark.parent.is_dir() and mark.name in os.listdir(mark.parent)
    return mark.read_text(encoding="utf-8").strip() if is_there else ""


def forget_marks(experiment: str) -> None:
    """Removes what earlier runs have left: they were told, and may have fixed it."""
    for mark in LOGS.joinpath(experiment).rglob("*.no-retry"):
        mark.unlink(missing_ok=True)


@contextmanager
def marking(stage: Stage, part: tuple[int, int] | None = None) -> Iterator[None]:
    """Leaves the mark when the block fails in a way that another attempt cannot help.

    Raises StartError in place of torch's error where a GPU's memory is full before anything has been saved.
    """
    try:
        yield
    except Exception as error:  # any: it is looked at and raised
        final = _final(error, stage)
        if final is None:
            raise
        write_text(mark_of(stage.last_log(part)), f"{type(final).__name__}: {final}\n")
        if final is error:
            raise
        raise final from error


def _final(error: Exception, stage: Stage) -> Exception | None:
    """Returns the error that ends all attempts, None where the next one may succeed."""
    if isinstance(error, ConfigError):
        return error
    if isinstance(error, CheckpointError):
        is_of_a_disk = isinstance(error.__context__, OSError)
        return None if is_of_a_disk else error
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, torch.OutOfMemoryError) or _has_saved(stage):
        return None
    said = str(error).partition("\n")[0]
    return StartError(
        f"{stage.kind} {stage.name}: a GPU's memory was full before anything was saved, as it will be in every attempt "
        f"({said}). Ask for more GPUs or larger ones (resources.jobs), lower decoding.memory_mb "
        "or the run's microbatch_positions, or set resources.checkpoint_activations; `lightningrl plan` says what is "
        "needed. Then run the same command again."
    )


def _has_saved(stage: Stage) -> bool:
    """Whether this start or an earlier one has left something to go on from."""
    found = [*(stage.folder / "state").rglob("*"), *stage.cache.rglob("*")]
    names = [path.name for path in found if path.is_file()]
    return any(name not in (CODE, TIMING) and not name.endswith("lease") for name in names)
