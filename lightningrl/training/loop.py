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
    """What a run has said of itself, resumed parts included.

    >>> History([{"step": 1, "loss": 0.5}]).samples
    []
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    """Metrics, one a step."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Of the steps that gave one."""

    def write(self, folder: Path) -> None:
        """metrics.jsonl, and samples.jsonl where there are any."""
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
    """Step until done; returns the history of the whole run. Every process of the world calls it, with one `state`.

    fingerprint: the scientific config as JSON data; a state saved under another one is refused. growing: its keys
    whose numbers may rise, `steps` where nothing but the run's end depends on them (`fingerprint.differences`).

    Raises Interrupted after saving when `should_stop` says so; StageError when another process trains in `state`, or
    when the disk is full (the last saved state stays); CheckpointError when the saved state is damaged or of another
    config.
    """
    with lease(state, LEASE, made=state) if world.is_first else nullcontext():
        history = _resume(trainer, state, fingerprint, growing, report, world)
        rows, told = history.rows, time.monotonic()
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
            if trainer.done or time.monotonic() - told > report_every_s:
                report(trainer.describe(result))
                told = time.monotonic()
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
