"""Judge programs by hidden tests: the program runs in a jail, and its results are compared outside.

There are three forms of gold data (`gold`): a benchmark's own test code is run by `test_cases`; values, and the outputs
of programs that read and print, are compared by `data_tests`.

Every value of HumanEval's 164 and MBPP's 974 tasks crosses as plain data or, in MBPP 367, 601 and 927, as a reference
to an object that stays in the jail; test code never runs in a jail with the program.

`compat` is the published executor's verdict on the same program, as far as it is known without running that executor: a
SystemExit during the loading of the program passes every test, one inside a test passes that test. It is an
approximation: that executor also rewards objects that equal everything, and programs that reach into it. It has no
output limit, and no tests of the second form (None).
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from lightningrl.errors import SandboxUnavailable
from lightningrl.judges.code.data_tests import judge_calls, judge_stdio
from lightningrl.judges.code.gold import CallsGold, Gold, StdioGold, read_gold
from lightningrl.judges.code.program import extract_program
from lightningrl.judges.code.test_cases import TestsResult, make_test_runner, run_tests
from lightningrl.judges.protocol import PooledJudge
from lightningrl.sandbox.jail import JailPool, Limits
from lightningrl.types import Example, Verdict
from lightningrl.utils.files import canonical_json


class CodeJudge(PooledJudge):
    """A judge that runs programs in parallel jails; see `lightningrl.judges.protocol.Judge`.

    A verdict's `value` is the fraction of passed tests; `correct`: all passed within the limits. A program is judged
    once for equal gold data, and its verdict is remembered, even a timeout, which costs most to judge again. `judge`
    raises SandboxUnavailable when no jail is available.
    """

    graded = True
    needs_jail = True

    def __init__(
        self, workers: int = 1, limits: Limits | None = None, memo_size: int = 16_384, *, shares_jails: bool = True
    ) -> None:
        """Uses `workers` jails at the same time, about one per core, and remembers `memo_size` verdicts.

        `limits` are those of each judgement; the gold data may replace the wall time. With `shares_jails` a jail runs
        one program after another if its level allows it, for the same verdicts at a tenth of the cost.
        """
        super().__init__(workers, memo_size, make_test_runner)
        self._limits = limits or Limits()
        self._jails = JailPool() if shares_jails else None

    def close(self) -> None:
        """Waits for running judgements, and ends the jails and test runners."""
        if self._jails is not None:
            self._jails.close()  # before their threads end; jails in use end when they return
        super().close()

    def _read(self, example: Example, response: str) -> _Job | Verdict:
        start = time.monotonic()
        try:
            gold = read_gold(example.gold)
            gold_text = canonical_json(example.gold)
        except ValueError as error:
            return _gold_error(example.uid, str(error), time.monotonic() - start)
        turn = example.messages[-1] if example.messages else {}
        prefill = turn["content"] if turn.get("role") == "assistant" else ""
        program = extract_program(response, prefill, gold.entry_point)
        if program is None:
            compat = None if isinstance(gold, CallsGold) else False
            seconds = time.monotonic() - start
            return Verdict(False, 0.0, "unparsable", detail="no block of Python", seconds=seconds, compat=compat)
        parts = (gold_text, program)
        key = "".join(hashlib.sha256(part.encode(errors="surrogatepass")).hexdigest() for part in parts)
        return _Job(key, example.uid, program, gold)

    def _decide(self, job: _Job) -> Verdict:
        start = time.monotonic()
        result = _retry_if_lost(lambda: self._run(job))
        return _verdict(job, result, time.monotonic() - start)

    def _run(self, job: _Job) -> TestsResult:
        if isinstance(job.gold, CallsGold):
            return judge_calls(job.program, job.gold, self._limits, self._jails)
        if isinstance(job.gold, StdioGold):
            return judge_stdio(job.program, job.gold, self._limits, self._jails)
        with self._worker() as runner:
            return run_tests(job.program, job.gold, runner, self._limits, job.key[:64], self._jails)


@dataclass(frozen=True, slots=True)
class _Job:
    key: str
    """The hash of the gold data (64 hexadecimal digits), then that of the program."""
    uid: str
    program: str
    gold: Gold


def _gold_error(uid: str, error: str, seconds: float) -> Verdict:
    return Verdict(False, None, "gold_error", detail=f"gold data of {uid}: {error}", seconds=seconds)


def _retry_if_lost(attempt: Callable[[], TestsResult]) -> TestsResult:
    """Repeats a judgement once if a jail or test runner was killed, as the program itself may have done.

    A jail that is killed before its first line looks like one that cannot start.
    """
    try:
        result = attempt()
    except SandboxUnavailable:
        return attempt()
    return attempt() if result.is_lost else result


def _verdict(job: _Job, result: TestsResult, seconds: float) -> Verdict:
    if result.gold_error:
        return _gold_error(job.uid, result.gold_error, seconds)
    outcomes, total = result.outcomes, len(job.gold.tests)
    count = sum(outcome.passed for outcome in outcomes)
    is_correct = count == total and result.status == "ok"
    detail = f"{count} of {total} tests passed [{result.level}]"
    if not is_correct:
        number = next((i for i, outcome in enumerate(outcomes) if not outcome.passed), len(outcomes))
        message = outcomes[number].message if number < len(outcomes) else "not run"
        why = result.detail or f"test {number}: {message}"
        detail += f"; {re.sub('0x[0-9a-f]{6,}', '0x...', why)}"  # addresses differ from run to run
    return Verdict(
        correct=is_correct,
        # Scheduling decides which answers arrive before a flood is stopped: none of them counts.
        value=0.0 if result.status == "output_limit" else count / total,
        status=("ok" if is_correct else "wrong") if result.status == "ok" else result.status,
        extracted=job.program,
        detail=detail,
        seconds=seconds,
        compat=_compat(job, result),
        sandbox=result.level,
    )


def _compat(job: _Job, result: TestsResult) -> bool | None:
    if isinstance(job.gold, CallsGold) or result.status == "output_limit":
        return None
    found = [outcome.published for outcome in result.outcomes]
    if result.status != "ok" or False in found or len(found) < len(job.gold.tests):
        return False
    return None if None in found else True
