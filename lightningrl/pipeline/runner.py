"""Runs one stage of a plan: lease, checks, the stage's own code, manifest; and the ways in which it can end early."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Any

from lightningrl.benchmarks.fetch import Origins
from lightningrl.config.experiment import Experiment
from lightningrl.errors import LightningRLError, StageError
from lightningrl.models.families.registry import PLUGGED
from lightningrl.pipeline import again, manifest, system
from lightningrl.pipeline.final_failures import CODE, mark_of, marking
from lightningrl.pipeline.gpu_jobs import set_gpu_environment
from lightningrl.pipeline.plan import Plan
from lightningrl.pipeline.stage import TIMING, Stage
from lightningrl.pipeline.stages.context import Report, ShouldStop, StageContext, Timing, silent
from lightningrl.sandbox.probe import choose
from lightningrl.utils.files import canonical_json, disk_error, read_json, write_bytes, write_json
from lightningrl.utils.launch import launch_id, process
from lightningrl.utils.lease import holder_of, lease, patiently
from lightningrl.utils.registry import resolve

STOP_EARLIER_S = 60.0
"""How long before the end of its time budget a stage is told to save (at most a tenth of the budget)."""


@dataclass
class Budget:
    """The time that a start of a stage may take."""

    seconds: float | None
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, plan: Plan, max_minutes: float | None) -> Budget:
        """Returns the shorter of the budgets of the command line and of the config."""
        minutes = [each for each in (max_minutes, plan.experiment.resources.max_minutes) if each is not None]
        return cls(60.0 * min(minutes) if minutes else None)

    @contextmanager
    def stopping(self) -> Iterator[ShouldStop]:
        """Gives a function that says whether to save and stop: after SIGTERM, or when what comes next might not end in
        time.

        A trainer asks after every step, a sweep before every shard. What lies between two questions, a save included,
        may take as long as the longest so far; it is not begun when the time budget would end before that.
        """
        terminated = threading.Event()
        last, longest, end = None, 0.0, float("inf")
        if self.seconds is not None:
            end = self.started + self.seconds - min(STOP_EARLIER_S, 0.1 * self.seconds)

        def should_stop() -> bool:
            nonlocal last, longest
            now = time.monotonic()
            longest = max(longest, now - (now if last is None else last))
            last = now
            return terminated.is_set() or now + longest >= end

        is_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, lambda *_: terminated.set()) if is_main else None
        try:
            yield should_stop
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)


def run_stage(plan: Plan, stage: Stage, key: str | None = None, max_minutes: float | None = None) -> bool:
    """Makes a stage's results; returns False when they were there already.

    `key` is what the caller planned with; `max_minutes` a time budget beside `resources.max_minutes`. While another
    process works on the folder it waits; when that one has finished, nothing is left to do, and when that one ended
    early, this one goes on from where it stopped. Raises StageError when the key is not that of today's config and
    sources, when an input is missing or damaged, or when the disk is full; Interrupted after SIGTERM or at the end of
    the time budget, with the state saved.
    """
    stage.check_key(key)
    budget = Budget.of(plan, max_minutes)
    rank, size = process()
    if size > 1 and not stage.spec.launched:
        raise StageError(f"{stage.kind} {stage.name} runs as one process, but was launched as {size}; run it alone")
    if rank > 0:
        return _help(plan, stage, budget)
    with alone(stage, stage.folder / "state", budget) as report:
        again.put_back(stage.folder)  # a killed attempt to make it again
        if again.is_finished(stage):
            manifest.check_code(stage)
            manifest.check(stage.folder)
            shutil.rmtree(stage.folder / "state", ignore_errors=True)
            report(f"already finished: {stage.folder}")
            return False
        check_state(stage)
        choose_jail(plan, report)
        with _replacing(stage, report):
            _make(plan, stage, report, budget)
        report(f"finished: {stage.folder}")
    return True


def _help(plan: Plan, stage: Stage, budget: Budget) -> bool:
    """Runs one of the processes beside the first: it computes its share and writes only its part of the state."""
    if not _first_has_begun(stage, budget):
        return False
    check_state(stage)
    choose_jail(plan, silent)
    manifest.check_inputs(stage)
    work(plan, stage, budget)
    return True


def _first_has_begun(stage: Stage, budget: Budget) -> bool:
    """Waits until this launch's first process holds the folder; False when the folder is finished before that."""
    with budget.stopping() as should_stop:
        wait = patiently(silent, should_stop)
        while (holder := holder_of(stage.folder / "state" / "lease")) is None or holder[1] != launch_id():
            if again.is_finished(stage):
                return False
            wait(stage.folder, holder[0] if holder else "the first process of this launch")
    return True


@contextmanager
def alone(stage: Stage, state: Path, budget: Budget, part: tuple[int, int] | None = None) -> Iterator[Report]:
    """Holds the lease of a state's folder, after waiting for whoever has it, and gives the function that reports.

    Raises Interrupted when told to stop before, and StageError where the disk is full.
    """
    try:
        target = state if part else stage.folder
        with _log(stage, budget.started, part) as report, ExitStack() as held:
            with budget.stopping() as should_stop:
                held.enter_context(lease(state, target=target, wait=patiently(report, should_stop)))
            yield report
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT):
            raise
        raise disk_error(Path(error.filename or stage.folder), error) from error


@contextmanager
def _replacing(stage: Stage, report: Report) -> Iterator[None]:
    """Keeps a finished stage's results until the new ones are finished, and puts them back when that fails."""
    if not manifest.missing(stage):
        why = again.reason(stage)
        report(f"making it again, {why}; the old results are kept in {again.set_aside(stage)} until it is finished")
    try:
        yield
    except BaseException:
        if again.put_back(stage.folder):
            report("the old results are back in their place")
        raise


def choose_jail(plan: Plan, report: Report) -> None:
    """Chooses the level of the config for this process; it is tried when the first program is to be judged."""
    level = plan.experiment.sandbox.level
    choose(level, acknowledged=level == "none")  # the config holds the sentence, or was not loaded
    if level == "none":
        report("the config runs model-written code without a jail; records will say `none`")


def _make(plan: Plan, stage: Stage, report: Report, budget: Budget) -> None:
    inputs = manifest.check_inputs(stage)
    stage.manifest.unlink(missing_ok=True)  # an output was deleted by hand: not finished until it is made again
    _remove_temporaries(stage.folder)
    write_json(stage.folder / "state" / CODE, {"live": stage.live_code})
    timing = timing_file(stage.folder / "state" / TIMING)
    timing(event="start", pid=os.getpid(), host=socket.gethostname(), at=_now(), code=stage.live_code)
    work(plan, stage, budget, report, timing)
    seconds, memory, now = time.monotonic() - budget.started, system.peak_memory_bytes(), _now()
    timing(event="end", seconds=seconds, peak_memory_bytes=memory, at=now)
    # In this order, so that a kill in between costs nothing: the timing, the manifest, the state.
    whole = (stage.folder / "state" / TIMING).read_bytes()
    write_bytes(stage.folder / TIMING, whole)
    starts = [row for row in map(json.loads, whole.splitlines()) if row.get("event") == "start"]
    run = {"command": sys.argv, "starts": starts, "seconds_of_last_start": seconds, "peak_memory_bytes": memory}
    run |= {"finished": now, "plugins": plan.experiment.plugins}
    manifest.write(stage, run, stage.spec.threads_in(plan.experiment.resources), inputs)
    shutil.rmtree(stage.folder / "state", ignore_errors=True)


def work(
    plan: Plan, stage: Stage, budget: Budget, report: Report = silent, timing: Timing = silent,
    part: tuple[int, int] | None = None,
) -> None:  # fmt: skip
    """Runs the stage's own code: its module's `run`, or `run_part` for a part."""
    resources = plan.experiment.resources
    system.set_thread_environment(stage.spec.threads_in(resources))
    if resources.device == "cuda" and stage.spec.job:
        set_gpu_environment(os.environ)
    with budget.stopping() as should_stop, marking(stage, part):
        run = resolve(f"{stage.spec.module}:{'run_part' if part else 'run'}")
        run(context_of(stage, plan.experiment, report, should_stop, timing), *([part] if part else []))


def check_state(stage: Stage) -> None:
    """Raises StageError where another code than today's has left a state: under a pin the key does not tell them apart.

    A state without a word of its code is accepted.
    """
    state = stage.folder / "state"
    names = [path.name for path in state.glob("[!.]*")]
    if CODE not in names or all(name in (CODE, TIMING) or name.endswith("lease") for name in names):
        return
    live = read_json(state / CODE).get("live")
    if live != stage.live_code:
        raise StageError(
            f"{state} was left by other code (digest {str(live)[:12]}) than today's ({stage.live_code[:12]}): "
            f"{stage.kind} {stage.name} was begun under a pin, or is pinned now. Check out the code that began it and "
            f"run the same command; or delete {state} to begin anew; or, to resume from it with today's code, delete "
            f"{state / CODE} (the starts in the manifest say which code each ran)."
        )


def context_of(
    stage: Stage, experiment: Experiment, report: Report, should_stop: ShouldStop, timing: Timing
) -> StageContext:
    """Returns what the stage's own code is given."""
    resources, data = experiment.resources, experiment.data
    PLUGGED.clear()  # of another stage of this process
    PLUGGED.update((role[7:], each) for role, each in stage.members.items() if role.startswith("family/"))
    return StageContext(
        config={**stage.config, "members": dict(stage.members)},
        inputs={role: source.folder for role, source in stage.inputs.items()},
        folder=stage.folder,
        state=stage.folder / "state",
        cache=stage.cache / f"of-{manifest.identity(stage)}",
        threads=stage.spec.threads_in(resources),
        origins=Origins(Path(data.mirror) if data.mirror else None, Path(data.lock), data.require_pins),
        judge_workers=resources.judge_workers,
        device=resources.device,
        checkpoint_activations=resources.checkpoint_activations,
        report=report,
        should_stop=should_stop,
        timing=timing,
    )


def _remove_temporaries(folder: Path) -> None:
    """Removes what a killed predecessor left between writing and renaming; by the lease, nobody is writing."""
    for path in list(folder.rglob(".*.tmp")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _log(stage: Stage, started: float, part: tuple[int, int] | None) -> Iterator[Report]:
    """Gives a function that shows a line of progress with the seconds so far, and writes it to the stage's two logs:
    one of all its starts, one of this start, which Snakemake deletes before each and shows the end of after a
    failure."""
    last, who = stage.last_log(part), f"{stage.kind} {stage.name}" + (" {}/{}".format(*part) if part else "")
    try:
        stage.log.parent.mkdir(parents=True, exist_ok=True)
        last.unlink(missing_ok=True)  # another start may still write to it
        mark_of(last).unlink(missing_ok=True)
        files = [open(path, "a", encoding="utf-8") for path in (stage.log, last)]
    except OSError as error:
        raise disk_error(stage.log, error) from error

    def write(text: str) -> None:
        for file in files:
            file.write(text)
            file.flush()

    def report(line: str) -> None:
        text = f"[{who} {time.monotonic() - started:7.1f} s] {line}\n"
        sys.stderr.write(text)
        sys.stderr.flush()
        write(text)

    with files[0], files[1]:
        try:
            yield report
        except LightningRLError as error:
            write(f"{type(error).__name__}: {error}\n")
            raise
        except Exception:  # any: it is only noted
            write(traceback.format_exc())
            raise


def timing_file(path: Path) -> Timing:
    """Returns the function that appends a row to a file of timings."""

    def append(**row: Any) -> None:
        try:
            with open(path, "ab+") as file:
                file.seek(0)
                whole = file.read().rpartition(b"\n")  # what follows the last newline was torn by a kill
                file.truncate(len(whole[0] + whole[1]))
                file.write(canonical_json(row).encode() + b"\n")
        except OSError as error:
            raise disk_error(path, error) from error

    return append


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
