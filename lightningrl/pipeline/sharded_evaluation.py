"""One part of an evaluation as a process of its own: it fills the cache, the evaluation itself gathers it afterwards.

A part leaves its records in the evaluation's cache and a marker that says it is done. How many parts there are is a
machine fact: it changes no record and no key, and what other parts or another number of them have left counts.
"""

from __future__ import annotations

import re
from pathlib import Path

from lightningrl.errors import StageError
from lightningrl.pipeline import manifest
from lightningrl.pipeline.plan import Plan
from lightningrl.pipeline.runner import Budget, alone, choose_jail, timing_file, work
from lightningrl.pipeline.stage import RESULTS, TIMING, Stage
from lightningrl.utils.files import read_json, write_json


def marker(stage: Stage, part: tuple[int, int]) -> Path:
    """Returns the file that says of a part that it is done."""
    return marker_file(stage.experiment, stage.name, stage.key, *part)


def marker_file(experiment: str, name: str, key: str, index: int | str, count: int | str) -> Path:
    """Returns the mark of a part, by the evaluation's name and key."""
    return RESULTS / experiment / "cache" / "parts" / f"{name}-{key}" / f"{index}-of-{count}.json"


def check_made_by(plan: Plan) -> None:
    """Raises StageError where something counts as done that code made, under a pin, which is not asked for any more."""
    count = plan.experiment.resources.evaluate_parts
    for stage in plan:
        manifest.check_code(stage)
        if stage.spec.in_parts and count > 1 and not stage.manifest.is_file():
            check_marks(stage, count)


def check_marks(stage: Stage, count: int) -> None:
    """Raises StageError where a part counts as done whose records are not in the cache of today's code: it was decoded
    by other code, under a pin. A part of what had other content then does not count any more."""
    for path in (marker(stage, (index, count)) for index in range(1, count + 1)):
        if not path.is_file():
            continue
        mark = read_json(path)
        if mark.get("inputs", here := manifest.identity(stage)) != here:
            path.unlink()  # of what was there before: its records are kept apart
        elif (cache := Path(mark["cache"])).name != stage.cache.name:
            raise StageError(
                f"{path} says that a part of evaluate {stage.name} is done, but by other code: its records are in "
                f"{cache}, those of today's code go to {stage.cache}. Delete {path.parent} to decode the parts anew, "
                "or check out the code that began them."
            )


def read_part(text: str) -> tuple[int, int]:
    """Returns `2/8` as (2, 8); raises StageError for anything else.

    >>> read_part("2/8")
    (2, 8)
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    index, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= index <= count or count == 1:
        raise StageError(f"--part: found {text!r}, expected which of how many, at least two, like 2/8")
    return index, count


def run_part(
    plan: Plan, stage: Stage, key: str | None, part: tuple[int, int], max_minutes: float | None = None
) -> None:
    """Decodes one part. Raises what `run_stage` does."""
    if not stage.spec.in_parts:
        raise StageError(f"{stage.kind} {stage.name}: only evaluations are made in parts")
    stage.check_key(key)
    index, count = part
    state = stage.cache / f"part-{index}-of-{count}"
    with alone(stage, state, budget := Budget.of(plan, max_minutes), part) as report:
        if not manifest.missing(stage):
            manifest.check_code(stage)
            report(f"already finished: {stage.folder}")
        else:
            choose_jail(plan, report)
            manifest.check_inputs(stage)
            work(plan, stage, budget, report, timing_file(state / TIMING), part)
        found = {"part": index, "of": count, "cache": stage.cache.as_posix(), "inputs": manifest.identity(stage)}
        write_json(marker(stage, part), found)
        report(f"part {index} of {count} is done")
