"""One part of an evaluation as a process of its own: it fills the cache, the evaluation itself gathers it afterwards.

A part leaves its records in the evaluation's cache and a marker that says it is done. How many parts there are is a
machine fact: it changes no record and no key, and what other parts or another number of them have left counts.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from lightningrl import io
from lightningrl.errors import StageError
from lightningrl.lease import lease
from lightningrl.provenance import manifest
from lightningrl.provenance.plan import Plan
from lightningrl.provenance.runner import choose_jail, context_of, log, shortest, stopping, threads_of, timing_file
from lightningrl.provenance.stage import RESULTS, TIMING, Stage
from lightningrl.provenance.system import set_thread_environment


def marker(stage: Stage, part: tuple[int, int]) -> Path:
    """Of a part that is done, by the evaluation's name and key."""
    index, count = part
    return RESULTS / stage.experiment / "cache" / "parts" / f"{stage.name}-{stage.key}" / f"{index}-of-{count}.json"


def read_part(text: str) -> tuple[int, int]:
    """`2/8` as (2, 8).

    >>> read_part("2/8")
    (2, 8)

    Raises StageError for anything else.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= part[0] <= part[1] or part[1] == 1:
        raise StageError(f"--part: found {text!r}, expected which of how many, at least two, like 2/8")
    return part


def run_part(
    plan: Plan, stage: Stage, key: str | None, part: tuple[int, int], max_minutes: float | None = None
) -> None:
    """Decode one part. Raises what `run_stage` does."""
    if stage.kind != "evaluate":
        raise StageError(f"{stage.kind} {stage.name}: only evaluations are made in parts")
    stage.check_key(key)
    started = time.monotonic()
    index, count = part
    state = stage.cache / f"part-{index}-of-{count}"
    done = marker(stage, part)
    with log(stage, started, part) as report, lease(state, made=state):
        if not manifest.missing(stage):
            report(f"already finished: {stage.folder}")
        else:
            choose_jail(plan, report)
            for role, source in (*stage.inputs.items(), *stage.after.items()):
                manifest.check_input(role, source)
            resources = plan.experiment.resources
            set_thread_environment(threads_of(resources, stage.kind))
            with stopping(shortest(max_minutes, resources.max_minutes), started) as should_stop:
                from lightningrl.stages.evaluate import run_part as run

                run(context_of(stage, plan.experiment, report, should_stop, timing_file(state / TIMING)), part)
        io.write_json(done, {"part": index, "of": count, "cache": stage.cache.as_posix()})
        report(f"part {index} of {count} is done")
