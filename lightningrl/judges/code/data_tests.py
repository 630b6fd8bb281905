"""Tests that are data: calls with expected values, and inputs with expected outputs. Results are compared here.

All calls run in order in one process, so a program may keep state between them. Equality is
`lightningrl.judges.equality`'s, which is stricter than Python's.

Each test of a program that reads and prints has its own run in a jail. The rule is the published one: two outputs are
equal when their words are, so blanks and line breaks do not matter, but case, signs and digits do. A program passes a
test only if it ends normally: one that prints the right answer and then raises an exception, dies of a signal or exits
with another code than 0 has crashed. (The published executor and `compat` compare the words alone.) `time_limit_s`
applies to each test from the start of the program, `TOTAL_S` to all tests; later tests are not run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lightningrl.judges.code.gold import CallsGold, StdioGold
from lightningrl.judges.code.test_cases import TestOutcome, TestsResult
from lightningrl.judges.equality import same
from lightningrl.sandbox.codec import dumps
from lightningrl.sandbox.jail import JailPool, Limits, run_calls, run_script
from lightningrl.sandbox.limits import CallResult, ScriptResult

TOTAL_S = 30.0
"""The wall time for all stdin tests of one program."""


def judge_calls(program: str, gold: CallsGold, limits: Limits, pool: JailPool | None = None) -> TestsResult:
    """Returns the outcomes of all calls in one jail. Raises SandboxUnavailable when it does not start."""
    results = run_calls(program, gold.entry_point, [test.args for test in gold.tests], limits=limits, pool=pool)
    outcomes = [_compare_value(test.expected, call) for test, call in zip(gold.tests, results.calls, strict=True)]
    return TestsResult(results.status, outcomes, results.level, results.detail, is_lost=results.is_lost)


def _compare_value(expected: Any, call: CallResult) -> TestOutcome:
    if call.error is not None:
        return TestOutcome(False, None, f"{call.error}: {call.message}")
    passed = same(expected, call.value)
    message = "" if passed else f"expected {_short(dumps(expected))}, found {_short(dumps(call.value))}"
    return TestOutcome(passed, None, message)


def judge_stdio(program: str, gold: StdioGold, limits: Limits, pool: JailPool | None = None) -> TestsResult:
    """Returns the outcomes of the tests in jails of `pool`. Raises SandboxUnavailable when a jail does not start."""
    result = TestsResult("ok", [], "", "")
    stop = time.monotonic() + TOTAL_S
    for test in gold.tests:
        if result.outcomes and time.monotonic() > stop:
            return result.with_fault("timeout", f"all tests: stopped after {TOTAL_S:g} s")
        # The program may print twice the expected output.
        output_bytes = max(limits.output_bytes, 2 * len(test.output.encode(errors="surrogatepass")))
        wall_s = gold.time_limit_s or limits.wall_s
        run = run_script(
            program, test.input, limits=replace(limits, output_bytes=output_bytes, wall_s=wall_s), pool=pool
        )
        outcomes = [*result.outcomes, _compare_output(test.output, run)]
        result = replace(result, outcomes=outcomes, level=run.level, is_lost=run.is_lost)
        if run.status != "ok":
            result = result.with_fault(run.status, run.detail)
        if run.is_lost:
            break
    return result


def _compare_output(expected: str, result: ScriptResult) -> TestOutcome:
    if result.status != "ok":
        return TestOutcome(False, False, result.detail)
    is_same = same_words(expected, result.output)
    message = "" if is_same else f"expected {_short(expected, ascii)}, found {_short(result.output, ascii)}"
    if result.exit_code != 0:
        message = f"the program crashed (exit code {result.exit_code})" + (f"; {message}" if message else "")
    return TestOutcome(not message, is_same, message)


def same_words(expected: str, found: str) -> bool:
    """Whether two outputs consist of the same words.

    >>> same_words("1 2\\n3", "1 2 3\\n"), same_words("1", "1.0")
    (True, False)
    """
    return expected.split() == found.split()


def _short(text: str, shown: Callable[[str], str] = str) -> str:
    return shown(text) if len(text) <= 80 else shown(text[:80]) + "..."
