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
REPORT_S = 10.0


@dataclass(slots=True)
class History:
    """The metrics and samples of a run, including the steps before it was resumed."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """The metrics of each step."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """The samples of those steps that returned one."""


def train(
    trainer: Trainer, state: Path, *, save_every: int, fingerprint: Mapping[str, Any],
    report: Callable[[str], None], timing: Callable[..., None], should_stop: Callable[[], bool],
    growing: Collection[str] = (), world: World = World(),  # noqa: B008 (frozen)
) -> History:  # fmt: skip
    """Trains until the trainer is done; returns the history of the whole run.

    Every process of the world calls it with the same folder `state`. fingerprint: the scientific config as JSON data; a
    state that was saved under another one is refused. growing: its keys whose numbers may rise, such as `steps` where
    nothing but the run's end depends on them.

    Raises Interrupted, after saving, when `should_stop` says so; StageError when another process trains in `state` or
    the disk is full (the last saved state stays); CheckpointError when the saved state is damaged or belongs to another
    config.
    """
    with lease(state, LEASE, made=state) if world.is_first else nullcontext():
        world.barrier()
        saved = load_state(state, fingerprint=fingerprint, growing=growing, world=world)
        history = History(saved["rows"], saved["samples"]) if saved else History()
        rows, samples = history.rows, history.samples
        if saved:
            trainer.load_state_dict(saved["trainer"])
            report(f"resumed after step {len(rows)}")
        reported = time.monotonic()
        while not trainer.done:
            start = time.monotonic()
            result = trainer.step()
            rows.append(dict(result.metrics))
            if result.sample is not None:
                samples.append(dict(result.sample))
            timing(step=len(rows), seconds=time.monotonic() - start, **result.timing)
            stopping = world.any(should_stop()) and not trainer.done
            if stopping or trainer.done or len(rows) % save_every == 0:
                content = {"trainer": trainer.state_dict(), "rows": rows, "samples": samples}
                save_state(state, len(rows), content, fingerprint=fingerprint, world=world)
                if world.is_first:
                    files.write_jsonl(state / "metrics.jsonl", rows)
                    if samples:
                        files.write_jsonl(state / "samples.jsonl", samples)
            if stopping:
                raise Interrupted(f"stopped after step {len(rows)}; run the same command again to go on from there")
            if trainer.done or time.monotonic() - reported > REPORT_S:
                report(trainer.describe(result))
                reported = time.monotonic()
    return history
