"""The loop around every trainer: resume, step, save, stop. A kill at any moment costs at most `save_every` steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightningrl.errors import Interrupted
from lightningrl.training.protocol import Trainer
from lightningrl.training.state import load_state, save_state
from lightningrl.training.world import World
from lightningrl.utils import files
from lightningrl.utils.lease import lease

LEASE = "training.lease"


@dataclass(slots=True)
class History:
    """The metrics and samples of a run, including the steps before it was resumed."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """The metrics of each step."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """The samples of those steps that returned one."""

    def write(self, folder: Path) -> None:
        """Writes metrics.jsonl, and samples.jsonl if there are samples."""
        files.write_jsonl(folder / "metrics.jsonl", self.rows)
        if self.samples:
            files.write_jsonl(folder / "samples.jsonl", self.samples)


def train(
    trainer: Trainer,
    state: Path,
    *,
    save_every: int,
    fingerprint: Mapping[str, Any],
    report: Callable[[str], None],
    timing: Callable[..., None],
    should_stop: Callable[[], bool],
    growing: Collection[str] = (),
    report_every_s: float = 10.0,
    world: World = World(),  # noqa: B008 (frozen)
) -> History:
    """Trains until the trainer is done; returns the history of the whole run.

    Every process of the world calls it with the same folder `state`. fingerprint: the scientific config as JSON data; a
    state that was saved under another one is refused. growing: its keys whose numbers may rise, such as `steps` where
    nothing but the run's end depends on them (`fingerprint.differences`).

    Raises Interrupted, after saving, when `should_stop` says so; StageError when another process trains in `state` or
    the disk is full (the last saved state stays); CheckpointError when the saved state is damaged or belongs to another
    config.
    """
    with lease(state, LEASE, target=state) if world.is_first else nullcontext():
        history = _resume(trainer, state, fingerprint, growing, report, world)
        rows, reported = history.rows, time.monotonic()
        while not trainer.done:
            start = time.monotonic()
            result = trainer.step()
            rows.append(dict(result.metrics))
            if result.sample is not None:
                history.samples.append(dict(result.sample))
            timing(step=len(rows), seconds=time.monotonic() - start, **result.timing)
            stopping = world.any(should_stop()) and not trainer.done
            if stopping or trainer.done or len(rows) % save_every == 0:
                content = {"trainer": trainer.state_dict(), "rows": rows, "samples": history.samples}
                parts = {"rank": world.rank, "world": world.size, "barrier": world.barrier}
                save_state(state, len(rows), content, fingerprint=fingerprint, **parts)
                if world.is_first:
                    history.write(state)
            if stopping:
                raise Interrupted(f"stopped after step {len(rows)}; run the same command again to go on from there")
            if trainer.done or time.monotonic() - reported > report_every_s:
                report(trainer.describe(result))
                reported = time.monotonic()
    return history


def _resume(
    trainer: Trainer,
    state: Path,
    fingerprint: Mapping[str, Any],
    growing: Collection[str],
    report: Callable[[str], None],
    world: World,
) -> History:
    world.barrier()
    saved = load_state(state, fingerprint=fingerprint, growing=growing, rank=world.rank, world=world.size)
    if saved is None:
        return History()
    trainer.load_state_dict(saved["trainer"])
    report(f"resumed after step {len(saved['rows'])}")
    return History(saved["rows"], saved["samples"])
