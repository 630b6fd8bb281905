"""Runs one stage of a plan: lease, checks, the stage's own code, manifest; and the ways in which it can end early."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightningrl.benchmarks.fetch import Origins
from lightningrl.config.experiment import Experiment
from lightningrl.errors import LightningRLError, StageError
from lightningrl.models.families.registry import PLUGGED
from lightningrl.pipeline import again, manifest, system
from lightningrl.pipeline.plan import Plan
from lightningrl.pipeline.stage import TIMING, Stage
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.sandbox.probe import choose
from lightningrl.utils.files import canonical_json, disk_error, read_json, read_jsonl, write_bytes, write_json
from lightningrl.utils.launch import launch_id, process
from lightningrl.utils.lease import holder_of, lease, patiently
from lightningrl.utils.registry import resolve

CODE = "code.json"
"""In a state's folder: the digest of the code that left it."""
STOP_EARLIER_S = 60.0
"""How long before the end of its time budget a stage is told to save (at most a tenth of the budget)."""


def run_stage(plan: Plan, stage: Stage, key: str | None = None, max_minutes: float | None = None) -> bool:
    """Make a stage's results; False when they were there already.

    `key` is what the caller planned with; `max_minutes` a time budget beside `resources.max_minutes`. While another
    process works on the folder it waits; when that one has finished, nothing is left to do, and when that one ended
    early, this one goes on from where it stopped. Raises StageError when the key is not that of today's config and
    sources, when an input is missing or damaged, or when the disk is full; Interrupted after SIGTERM or at the end of
    the time budget, with the state saved.
    """
    stage.check_key(key)
    started = time.monotonic()
    budget_s = shortest(max_minutes, plan.experiment.resources.max_minutes)
    rank, size = process()
    if size > 1 and not stage.spec.launched:
        raise StageError(f"{stage.kind} {stage.name} runs as one process, but was launched as {size}; run it alone")
    if rank > 0:
        return _help(plan, stage, budget_s, started)
    try:
        with log(stage, started) as report, alone(stage.folder / "state", report, budget_s, started):
            again.put_back(stage.folder)  # a killed attempt to make it again
            if again.is_finished(stage):
                manifest.check_code(stage)
                manifest.check(stage.folder)
                shutil.rmtree(stage.folder / "state", ignore_errors=True)
                report(f"already finished: {stage.folder}")
                return False
            check_state(stage)
            choose_jail(plan, report)
            with replacing(stage, report):
                _make(stage, plan.experiment, report, budget_s, started)
            report(f"finished: {stage.folder}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_error(Path(error.filename or stage.folder), error) from error
    return True


def _help(plan: Plan, stage: Stage, budget_s: float | None, started: float) -> bool:
    """One of the processes beside the first: it computes its share and writes nothing but its part of the state."""
    if not _first_has_begun(stage, budget_s, started):
        return False
    check_state(stage)
    choose_jail(plan, lambda line: None)
    for role, source in (*stage.inputs.items(), *stage.after.items()):
        manifest.check_input(role, source)
    system.set_thread_environment(stage.spec.threads_in(plan.experiment.resources))
    with stopping(budget_s, started) as should_stop:
        entry = resolve(f"{stage.spec.module}:run")
        entry(context_of(stage, plan.experiment, lambda line: None, should_stop, lambda **row: None))
    return True


def _first_has_begun(stage: Stage, budget_s: float | None, started: float) -> bool:
    """Wait until this launch's first process holds the folder; False when the folder is finished before that."""
    with stopping(budget_s, started) as should_stop:
        wait = patiently(lambda line: None, should_stop)
        while (holder := holder_of(stage.folder / "state" / "lease")) is None or holder[1] != launch_id():
            if again.is_finished(stage):
                return False
            wait(stage.folder, holder[0] if holder else "the first process of this launch")
    return True


@contextmanager
def alone(
    state: Path, report: Callable[[str], None], budget_s: float | None, started: float, made: Path | None = None
) -> Iterator[None]:
    """Hold the lease of a state's folder, after waiting for whoever has it; Interrupted when told to stop before."""
    with ExitStack() as held:
        with stopping(budget_s, started) as should_stop:
            held.enter_context(lease(state, made=made, wait=patiently(report, should_stop)))
        yield


@contextmanager
def replacing(stage: Stage, report: Callable[[str], None]) -> Iterator[None]:
    """Keep a finished stage's results until the new ones are finished, and put them back when that fails."""
    if not manifest.missing(stage):
        why = again.reason(stage)
        report(f"making it again, {why}; the old results are kept in {again.set_aside(stage)} until it is finished")
    try:
        yield
    except BaseException:
        if again.put_back(stage.folder):
            report("the old results are back in their place")
        raise


def choose_jail(plan: Plan, report: Callable[[str], None]) -> None:
    """The level of the config for this process; it is tried when the first program is to be judged."""
    sandbox = plan.experiment.sandbox
    choose(sandbox.level, acknowledged=sandbox.level == "none")  # the config holds the sentence, or was not loaded
    if sandbox.level == "none":
        report("the config runs model-written code without a jail; records will say `none`")


def _make(
    stage: Stage, experiment: Experiment, report: Callable[[str], None], budget_s: float | None, started: float
) -> None:
    inputs = {role: manifest.check_input(role, source) for role, source in sorted(stage.inputs.items())}
    for role, source in stage.after.items():
        manifest.check_input(role, source)
    stage.manifest.unlink(missing_ok=True)  # an output was deleted by hand: not finished until it is made again
    _remove_temporaries(stage.folder)
    threads = stage.spec.threads_in(experiment.resources)
    system.set_thread_environment(threads)
    write_json(stage.folder / "state" / CODE, {"live": stage.live_code})
    timing = timing_file(stage.folder / "state" / TIMING)
    timing(event="start", pid=os.getpid(), host=socket.gethostname(), at=_now(), code=stage.live_code)
    with stopping(budget_s, started) as should_stop:
        entry = resolve(f"{stage.spec.module}:run")
        entry(context_of(stage, experiment, report, should_stop, timing))
    timing(event="end", seconds=time.monotonic() - started, peak_memory_bytes=system.peak_memory_bytes(), at=_now())
    _finish(stage, threads, started, inputs)


def check_state(stage: Stage) -> None:
    """Raise StageError where another code than today's has left a state: under a pin the key does not tell them apart.

    A state without a word of its code is accepted.
    """
    state = stage.folder / "state"
    if not (state / CODE).is_file() or not any(_is_progress(path) for path in state.iterdir()):
        return
    live = read_json(state / CODE).get("live")
    if live != stage.live_code:
        raise StageError(
            f"{state} was left by other code (digest {str(live)[:12]}) than today's ({stage.live_code[:12]}): "
            f"{stage.kind} {stage.name} was begun under a pin, or is pinned now. Check out the code that began it and "
            f"run the same command; or delete {state} to begin anew; or, to go on from it by today's code, delete "
            f"{state / CODE} (the starts in the manifest say which code each ran)."
        )


def _is_progress(path: Path) -> bool:
    return path.name not in (CODE, TIMING) and not path.name.endswith("lease") and not path.name.startswith(".")


def context_of(
    stage: Stage,
    experiment: Experiment,
    report: Callable[[str], None],
    should_stop: Callable[[], bool],
    timing: Callable[..., None],
) -> StageContext:
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


def _finish(stage: Stage, threads: int, started: float, inputs: Mapping[str, Any]) -> None:
    """Publish the timing, write the manifest, drop the state: in this order, so a kill in between costs nothing.

    inputs: as `manifest.check_input` found them before the stage read them.
    """
    timing = stage.folder / "state" / TIMING
    rows = list(read_jsonl(timing))
    write_bytes(stage.folder / TIMING, timing.read_bytes())
    run = {
        "command": sys.argv,
        "starts": [row for row in rows if row.get("event") == "start"],
        "seconds_of_last_start": time.monotonic() - started,
        "peak_memory_bytes": system.peak_memory_bytes(),
        "finished": _now(),
    }
    manifest.write(stage, run, threads, inputs)
    shutil.rmtree(stage.folder / "state", ignore_errors=True)


def _remove_temporaries(folder: Path) -> None:
    """What a killed predecessor left between writing and renaming. The lease makes sure that nobody is writing."""
    for path in list(folder.rglob(".*.tmp")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def log(stage: Stage, started: float, part: tuple[int, int] | None = None) -> Iterator[Callable[[str], None]]:
    """A function that shows a line of progress with the seconds so far, and writes it to the stage's two logs: one of
    all its starts, one of this start, which Snakemake deletes before each and shows the end of after a failure."""
    last, who = stage.last_log(part), f"{stage.kind} {stage.name}" + (" {}/{}".format(*part) if part else "")
    try:
        stage.log.parent.mkdir(parents=True, exist_ok=True)
        last.unlink(missing_ok=True)  # another start may still write to it
        files = [open(path, "a", encoding="utf-8") for path in (stage.log, last)]
    except OSError as error:
        raise disk_error(stage.log, error) from error
    with files[0], files[1]:

        def write(text: str) -> None:
            for file in files:
                file.write(text)
                file.flush()

        def report(line: str) -> None:
            text = f"[{who} {time.monotonic() - started:7.1f} s] {line}\n"
            sys.stderr.write(text)
            sys.stderr.flush()
            write(text)

        try:
            yield report
        except LightningRLError as error:
            write(f"{type(error).__name__}: {error}\n")
            raise
        except Exception:  # any: it is only noted
            write(traceback.format_exc())
            raise


def timing_file(path: Path) -> Callable[..., None]:
    def append(**row: Any) -> None:
        try:
            _drop_torn_line(path)
            with open(path, "a", encoding="utf-8") as file:
                file.write(canonical_json(row) + "\n")
        except OSError as error:
            raise disk_error(path, error) from error

    return append


def _drop_torn_line(path: Path) -> None:
    """Cut off what a kill left of a last line without its end."""
    if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        with open(path, "r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)


def shortest(*max_minutes: float | None) -> float | None:
    """The time budget in seconds, where any is set."""
    budgets = [60.0 * minutes for minutes in max_minutes if minutes is not None]
    return min(budgets, default=None)


@contextmanager
def stopping(budget_s: float | None, started: float) -> Iterator[Callable[[], bool]]:
    """A function that says whether to save and stop: after SIGTERM, or when what comes next might not end in time.

    A trainer asks after every step, a sweep before every shard. What lies between two questions, a save included, may
    take as long as the longest so far; it is not begun when the time budget would end before that.
    """
    asked = threading.Event()
    turns: list[float] = []
    """When it was asked last, and the longest turn."""

    def should_stop() -> bool:
        now = time.monotonic()
        turns[:] = [now, max(turns[1], now - turns[0])] if turns else [now, 0.0]
        return asked.is_set() or (budget_s is not None and now + turns[1] >= started + budget_s - margin_s)

    margin_s = 0.0 if budget_s is None else min(STOP_EARLIER_S, 0.1 * budget_s)
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield should_stop
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
