"""Judge a program that reads stdin and prints: each test has its own run in a jail, and its output is compared here.

The gold data is `{"stdin_tests": [{"input": text, "output": text}, ...], "time_limit_s": 1}`. The rule is the published
one: two outputs are equal when their words are (`" ".join(text.split())`), so blanks and line breaks do not matter, but
case, signs and digits do. A program passes a test only if it ends normally: one that prints the right answer and then
raises an exception, dies of a signal or exits with another code than 0 has crashed. (The published executor and
`compat` compare the words alone.) `time_limit_s` applies to each test from the start of the program, `TOTAL_S` to all
tests; later tests are not run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from lightningrl.judges.code.test_cases import TestOutcome, TestsResult, read_time_limit
from lightningrl.sandbox.jail import JailPool, Limits, run_script
from lightningrl.sandbox.limits import JailStatus, ScriptResult

TOTAL_S = 30.0
"""The wall time for all tests of one program."""


@dataclass(frozen=True, slots=True)
class StdioGold:
    """The parsed gold data.

    >>> StdioGold((("1 2", "3"),), 1.0).limits(Limits(), "3").wall_s
    1.0
    """

    tests: tuple[tuple[str, str], ...]
    """Pairs of input and expected output."""
    time_limit_s: float | None

    def limits(self, base: Limits, expected: str) -> Limits:
        """Returns the limits for one test: the program may print up to twice the expected output, if that is more."""
        output_bytes = max(base.output_bytes, 2 * len(expected.encode(errors="surrogatepass")))
        return replace(base, output_bytes=output_bytes, wall_s=self.time_limit_s or base.wall_s)


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


def run_stdio(program: str, gold: StdioGold, limits: Limits, pool: JailPool | None = None) -> TestsResult:
    """Returns the outcomes of all tests in jails of `pool`. Raises SandboxUnavailable when a jail does not start."""
    outcomes: list[TestOutcome] = []
    level, first_fault, is_lost = "", ("ok", ""), False
    stop = time.monotonic() + TOTAL_S
    for stdin, expected in gold.tests:
        if outcomes and time.monotonic() > stop:
            if first_fault[0] == "ok":
                first_fault = ("timeout", f"all tests: stopped after {TOTAL_S:g} s")
            outcomes += [TestOutcome(False, False, "not run")] * (len(gold.tests) - len(outcomes))
            break
        result = run_script(program, stdin, limits=gold.limits(limits, expected), pool=pool)
        level = result.level
        outcomes.append(_compare(expected, result))
        if result.status != "ok" and first_fault[0] == "ok":
            first_fault = (result.status, result.detail)
        if result.is_lost:
            is_lost = True
            outcomes += [TestOutcome(False, False, "not run")] * (len(gold.tests) - len(outcomes))
            break
    status: JailStatus = first_fault[0]  # pyright: ignore[reportAssignmentType]
    return TestsResult(status, tuple(outcomes), level, first_fault[1], "", is_lost)


def _compare(expected: str, result: ScriptResult) -> TestOutcome:
    if result.status != "ok":
        return TestOutcome(False, False, result.detail)
    is_same = same_words(expected, result.output)
    message = "" if is_same else f"expected {_short(expected)}, found {_short(result.output)}"
    if result.exit_code != 0:
        message = f"the program crashed (exit code {result.exit_code})" + (f"; {message}" if message else "")
    return TestOutcome(not message, is_same, message)


def same_words(expected: str, found: str) -> bool:
    """Whether two outputs consist of the same words.

    >>> same_words("1 2\\n3", "1 2 3\\n"), same_words("1", "1.0")
    (True, False)
    """
    return expected.split() == found.split()


def _short(text: str) -> str:
    return ascii(text) if len(text) <= 80 else ascii(text[:80]) + "..."
