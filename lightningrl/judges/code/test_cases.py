"""Judge a function by a benchmark's test code: the program runs in a jail, the test code in a test runner.

`setup` and `tests` of the gold data are trusted; they run in one namespace (`judges/code/test_runner.py`), in which the
entry point is a function that calls the jail. Only plain data crosses between the two. One clock runs for everything:
`time_limit_s` + 5 s for the program and all its tests, including the test runner's time; it begins when the program
starts in the jail.

This differs from running test and program in one interpreter: the test does not see changes that a program makes to its
arguments; an instance of a program's class equals nothing but itself, unless the class is derived from a plain type and
inherits its equality, like a named tuple; and test code that passes its own function cannot be judged. None of this
occurs in HumanEval or MBPP.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightningrl.judges.code.gold import TestsGold
from lightningrl.judges.worker import Worker, WorkerLate, WorkerLost
from lightningrl.sandbox.jail import Dialogue, JailPool, Limits, open_dialogue
from lightningrl.sandbox.limits import JailStatus
from lightningrl.sandbox.run import START_LIMIT_S
from lightningrl.sandbox.session import rerun_alone_if_refused

GRACE_S = 5.0
"""The time beyond the time limit. The published 2 s are too few for the official solution of MBPP 123 on a slow
machine, where it takes over 3 s (1.7 s on others)."""
_END_S = 5.0
"""The time for the test runner to finish after the jail's end on a loaded machine."""
_TEST_RUNNER = Path(__file__).with_name("test_runner.py")


@dataclass(frozen=True, slots=True)
class TestOutcome:
    """The result of one test."""

    __test__ = False  # pytest would collect it

    passed: bool
    published: bool | None
    """Whether the published executor would count it as passed; None where this is unknown."""
    message: str


@dataclass(frozen=True, slots=True)
class TestsResult:
    """The results of one program and its tests."""

    __test__ = False

    status: JailStatus
    outcomes: Sequence[TestOutcome]
    """One outcome per test, in order; the last ones may be missing: these tests did not run."""
    level: str
    detail: str
    gold_error: str = ""
    is_lost: bool = False
    """Whether the program, or someone outside, killed a process: judging again may help."""

    def with_fault(self, status: JailStatus, detail: str) -> TestsResult:
        """Returns the results with a fault, unless there was one before."""
        return replace(self, status=status, detail=detail) if self.status == "ok" else self


def make_test_runner() -> Worker:
    """Returns a test runner, which starts at its first use. Its hash seed, and so the order of sets, is the jail's."""
    # -s -S -P and the empty environment isolate as -I does, which itself would ignore PYTHONHASHSEED.
    argv = (sys.executable, "-s", "-S", "-P", "-B", str(_TEST_RUNNER))
    return Worker(argv, {"PATH": os.defpath, "PYTHONHASHSEED": "0", "LANG": "C.UTF-8"})


def limits_of(gold: TestsGold, base: Limits) -> Limits:
    return base if gold.time_limit_s is None else replace(base, wall_s=gold.time_limit_s + GRACE_S)


def run_tests(
    program: str, gold: TestsGold, runner: Worker, limits: Limits, seed: str, pool: JailPool | None = None
) -> TestsResult:
    """Returns the results of all tests, whose random draws use `seed`. Raises SandboxUnavailable if no jail starts."""
    return rerun_alone_if_refused(lambda pool: _run_once(program, gold, runner, limits, seed, pool), pool)


def _run_once(
    program: str, gold: TestsGold, runner: Worker, limits: Limits, seed: str, pool: JailPool | None
) -> tuple[TestsResult, bool]:
    """Returns the results, and whether a jail of the pool refused a system call of the program."""
    limits = limits_of(gold, limits)
    if runner.pid is None:  # its start does not count as the candidate's time
        runner.send({"answer": None}, time.monotonic() + START_LIMIT_S)
    outcomes: list[TestOutcome] = []
    end: dict[str, Any] = {"broken": "", "too_large": False, "gold_error": ""}
    fault: tuple[JailStatus, str] = ("ok", "")
    is_lost = False
    with open_dialogue(program, gold.entry_point, limits=limits, pool=pool) as dialogue:
        if dialogue.load_error is None and dialogue.status()[0] == "ok":
            try:
                end = _check(gold, runner, dialogue, seed, outcomes)
            except WorkerLate:
                fault = "timeout", f"stopped after {limits.wall_s:g} s, in the test"
            except WorkerLost as error:
                fault = "crashed", str(error)
                is_lost = True
        status, detail = dialogue.status()
    if dialogue.load_error is not None:
        detail = f"the program does not load: {dialogue.load_error.message}"
        outcomes = [TestOutcome(False, dialogue.load_error.kind == "SystemExit", detail)] * len(gold.tests)
    elif end["broken"]:
        message = f"the reply channel carried something else: {end['broken']}"
        fault = "output_limit" if end["too_large"] else "crashed", message
    if fault[0] != "ok" and (status == "ok" or is_lost):
        status, detail = fault
    is_lost = is_lost or (status == "crashed" and dialogue.is_lost)
    return TestsResult(status, outcomes, dialogue.level, detail, end["gold_error"], is_lost), dialogue.was_refused


def _check(
    gold: TestsGold, runner: Worker, dialogue: Dialogue, seed: str, outcomes: list[TestOutcome]
) -> dict[str, Any]:
    """Passes lines between test runner and jail until all tests have an outcome; returns the last message."""

    def deadline() -> float:
        return dialogue.deadline + (_END_S if dialogue.is_over else 0)

    job = {"setup": gold.setup, "tests": gold.tests, "entry_point": gold.entry_point, "seed": seed}
    runner.send(job, deadline())
    while True:
        message = runner.receive(deadline())
        if "ask" in message:
            runner.send({"answer": dialogue.ask(message["ask"])}, deadline())
        elif "outcome" in message:
            outcomes.append(TestOutcome(**message["outcome"]))
        else:
            return message
