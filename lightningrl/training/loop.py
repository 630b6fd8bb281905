"""The loop around every trainer: resume, step, save, stop. A kill at any moment costs at most `save_every` steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightningrl import io
from lightningrl.errors import Interrupted
from lightningrl.training.protocol import Trainer
from lightningrl.training.state import load_state, save_state


def train(
    trainer: Trainer,
    state: Path,
    *,
    save_every: int,
    report: Callable[[str], None],
    timing: Callable[..., None],
    should_stop: Callable[[], bool],
    report_every_s: float = 10.0,
) -> list[dict[str, Any]]:
    """Step until done; returns the metrics rows of the whole run, resumed parts included.

    Raises Interrupted after saving when `should_stop` says so.
    """
    rows: list[dict[str, Any]] = []
    saved = load_state(state)
    if saved is not None:
        trainer.load_state_dict(saved["trainer"])
        rows = saved["rows"]
        report(f"resumed after step {len(rows)}")
    told = time.monotonic()
    while not trainer.done:
        start = time.monotonic()
        result = trainer.step()
        rows.append(dict(result.metrics))
        timing(step=len(rows), seconds=time.monotonic() - start, **result.timing)
        stopping = should_stop() and not trainer.done
        if stopping or trainer.done or len(rows) % save_every == 0:
            save_state(state, len(rows), {"trainer": trainer.state_dict(), "rows": rows})
            io.write_jsonl(state / "metrics.jsonl", rows)
        if stopping:
            raise Interrupted(f"stopped after step {len(rows)}; run the same command again to go on from there")
        if trainer.done or time.monotonic() - told > report_every_s:
            report(trainer.describe(result))
            told = time.monotonic()
    return rows
