"""Tests that are data: calls with expected values, and inputs with expected outputs. Results are compared here.

The gold data of calls is JSON: `{"entry_point": "f", "tests": [{"args": [...], "expected": ...}, ...]}`; values that
JSON does not have are written as in `lightningrl.sandbox.codec` (`{"$tuple": [1, 2]}`). All calls run in order in one
process, so a program may keep state between them. Equality is `lightningrl.judges.equality`'s, which is stricter than
Python's.

That of programs which read and print is `{"stdin_tests": [{"input": text, "output": text}, ...], "time_limit_s": 1}`;
each test has its own run in a jail. The rule is the published one: two outputs are equal when their words are, so
blanks and line breaks do not matter, but case, signs and digits do. A program passes a test only if it ends normally:
one that prints the right answer and then raises an exception, dies of a signal or exits with another code than 0 has
crashed. (The published executor and `compat` compare the words alone.) `time_limit_s` applies to each test from the
start of the program, `TOTAL_S` to all tests; later tests are not run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lightningrl.judges.code.test_cases import TestOutcome, TestsResult, read_time_limit
from lightningrl.judges.equality import same
from lightningrl.sandbox.codec import CodecError, dumps, from_json
from lightningrl.sandbox.jail import JailPool, Limits, run_calls, run_script
from lightningrl.sandbox.limits import CallResult, ScriptResult

TOTAL_S = 30.0
"""The wall time for all stdin tests of one program."""


@dataclass(frozen=True, slots=True)
class CallsGold:
    entry_point: str
    tests: tuple[tuple[list[Any], Any], ...]
    """Pairs of arguments and expected value."""


@dataclass(frozen=True, slots=True)
class StdioGold:
    tests: tuple[tuple[str, str], ...]
    """Pairs of input and expected output."""
    time_limit_s: float | None
    entry_point: None = None


def read_calls(gold: dict[str, Any]) -> CallsGold:
    """Returns the parsed gold data. Raises ValueError for data of another form."""
    for number, test in enumerate(gold["tests"]):
        if not isinstance(test, dict) or set(test) != {"args", "expected"} or not isinstance(test["args"], list):
            raise ValueError(f'test {number}: expected {{"args": [...], "expected": ...}}')
    try:
        tests = tuple((from_json(test["args"]), from_json(test["expected"])) for test in gold["tests"])
    except CodecError as error:
        raise ValueError(f"a value of the tests: {error}") from error
    return CallsGold(gold["entry_point"], tests)


def read_stdio(gold: dict[str, Any]) -> StdioGold:
    """Returns the parsed gold data. Raises ValueError for data of another form."""
    tests = gold["stdin_tests"]
    if not isinstance(tests, list) or not tests:
        raise ValueError("stdin_tests: expected a list with at least one test")
    for number, test in enumerate(tests):
        is_dict = isinstance(test, dict) and set(test) == {"input", "output"}
        if not is_dict or not all(isinstance(text, str) for text in test.values()):
            raise ValueError(f'stdin test {number}: expected {{"input": text, "output": text}}')
    return StdioGold(tuple((test["input"], test["output"]) for test in tests), read_time_limit(gold))


def judge_calls(program: str, gold: CallsGold, limits: Limits, pool: JailPool | None = None) -> TestsResult:
    """Returns the outcomes of all calls in one jail. Raises SandboxUnavailable when it does not start."""
    calls = [args for args, _ in gold.tests]
    results = run_calls(program, gold.entry_point, calls, limits=limits, pool=pool)
    outcomes = [_compare_value(expected, call) for (_, expected), call in zip(gold.tests, results.calls, strict=True)]
    return TestsResult(results.status, outcomes, results.level, results.detail, is_lost=results.is_lost)


def _compare_value(expected: Any, call: CallResult) -> TestOutcome:
    if call.error is not None:
        return TestOutcome(False, None, f"{call.error}: {call.message}")
    passed = same(expected, call.value)
    return TestOutcome(passed, None, f"expected {_short(dumps(expected))}, found {_short(dumps(call.value))}")


def judge_stdio(program: str, gold: StdioGold, limits: Limits, pool: JailPool | None = None) -> TestsResult:
    """Returns the outcomes of the tests in jails of `pool`. Raises SandboxUnavailable when a jail does not start."""
    result = TestsResult("ok", [], "", "")
    stop = time.monotonic() + TOTAL_S
    for stdin, expected in gold.tests:
        if result.outcomes and time.monotonic() > stop:
            return result.with_fault("timeout", f"all tests: stopped after {TOTAL_S:g} s")
        # The program may print twice the expected output.
        output_bytes = max(limits.output_bytes, 2 * len(expected.encode(errors="surrogatepass")))
        wall_s = gold.time_limit_s or limits.wall_s
        run = run_script(program, stdin, limits=replace(limits, output_bytes=output_bytes, wall_s=wall_s), pool=pool)
        outcomes = [*result.outcomes, _compare_output(expected, run)]
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
