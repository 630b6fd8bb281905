"""One part of an evaluation as a process of its own: it fills the cache, the evaluation itself gathers it afterwards.

A part leaves its records in the evaluation's cache and a marker that says it is done. How many parts there are is a
machine fact: it changes no record and no key, and what other parts or another number of them have left counts.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from lightningrl.errors import StageError
from lightningrl.pipeline import manifest
from lightningrl.pipeline.plan import Plan
from lightningrl.pipeline.runner import alone, choose_jail, context_of, log, shortest, stopping, timing_file
from lightningrl.pipeline.stage import RESULTS, TIMING, Stage
from lightningrl.pipeline.system import set_thread_environment
from lightningrl.utils import files


def marker(stage: Stage, part: tuple[int, int]) -> Path:
    """Returns the file that says of a part that it is done."""
    return marker_file(stage.experiment, stage.name, stage.key, *part)


def marker_file(experiment: str, name: str, key: str, index: int | str, count: int | str) -> Path:
    """Returns the mark of a part, by the evaluation's name and key."""
    return RESULTS / experiment / "cache" / "parts" / f"{name}-{key}" / f"{index}-of-{count}.json"


def check_made_by(plan: Plan) -> None:
    """Raise StageError where something counts as done that code made, under a pin, which is not asked for any more."""
    count = plan.experiment.resources.evaluate_parts
    for stage in plan:
        manifest.check_code(stage)
        if stage.spec.in_parts and count > 1 and not stage.manifest.is_file():
            check_marks(stage, count)


def check_marks(stage: Stage, count: int) -> None:
    """Raise StageError where a part counts as done whose records are not in the cache of today's code: it was decoded
    by other code, under a pin. A part of what had other content then does not count any more."""
    for path in (marker(stage, (index, count)) for index in range(1, count + 1)):
        if not path.is_file():
            continue
        mark = files.read_json(path)
        if mark.get("inputs", here := manifest.identity(stage)) != here:
            path.unlink()  # of what was there before: its records are kept apart
        elif (cache := Path(mark["cache"])).name != stage.cache.name:
            raise StageError(
                f"{path} says that a part of evaluate {stage.name} is done, but by other code: its records are in "
                f"{cache}, those of today's code go to {stage.cache}. Delete {path.parent} to decode the parts anew, "
                "or check out the code that began them."
            )


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
    if not stage.spec.in_parts:
        raise StageError(f"{stage.kind} {stage.name}: only evaluations are made in parts")
    stage.check_key(key)
    started = time.monotonic()
    budget_s = shortest(max_minutes, plan.experiment.resources.max_minutes)
    index, count = part
    state = stage.cache / f"part-{index}-of-{count}"
    done = marker(stage, part)
    with log(stage, started, part) as report, alone(state, report, budget_s, started, made=state):
        if not manifest.missing(stage):
            manifest.check_code(stage)
            report(f"already finished: {stage.folder}")
        else:
            choose_jail(plan, report)
            for role, source in (*stage.inputs.items(), *stage.after.items()):
                manifest.check_input(role, source)
            set_thread_environment(stage.spec.threads_in(plan.experiment.resources))
            with stopping(budget_s, started) as should_stop:
                from lightningrl.pipeline.stages.evaluate import run_part as run

                run(context_of(stage, plan.experiment, report, should_stop, timing_file(state / TIMING)), part)
        found = {"part": index, "of": count, "cache": stage.cache.as_posix(), "inputs": manifest.identity(stage)}
        files.write_json(done, found)
        report(f"part {index} of {count} is done")
