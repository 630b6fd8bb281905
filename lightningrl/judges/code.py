"""Judge programs by hidden tests: the program runs in a jail, its answers are compared here.

`example.gold = {"entry_point": "f", "tests": [{"args": [...], "expected": ...}, ...]}`, JSON data; values that JSON
lacks are written as in `lightningrl.sandbox.codec` (`{"$tuple": [1, 2]}`). All tests run in one jail, in order, in
one process: state that a program keeps between calls is kept. Programs that read stdin are not judged here.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lightningrl.io import canonical_json
from lightningrl.judges.equality import same
from lightningrl.judges.protocol import check_lengths
from lightningrl.sandbox.codec import CodecError, dumps, from_json
from lightningrl.sandbox.jail import CallResults, Limits, run_calls
from lightningrl.types import Example, Verdict

_FENCE = re.compile(r" {0,3}```[ \t]*(\w*)[^`]*")
_PYTHON_TAGS = ("python", "python3", "py")


class CodeJudge:
    """Judges function-style programs in parallel jails. See `lightningrl.judges.protocol.Judge`."""

    graded = True
    needs_jail = True

    def __init__(self, workers: int = 1, limits: Limits | None = None, memo_size: int = 16_384) -> None:
        """`workers`: jails at a time, about one a core. `memo_size`: verdicts remembered, by (program, gold data)."""
        if workers < 1:
            raise ValueError(f"found {workers} workers: expected 1 or more")
        self._limits = limits or Limits()
        self._memo: OrderedDict[str, Verdict] = OrderedDict()
        self._memo_size = memo_size
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="code-judge")

    def judge(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Verdict]:
        """Verdicts in order. `value` is the fraction of tests passed; `correct`: all passed and no limit was broken.

        A program is judged once for equal gold data, and its verdict remembered, a timeout's too: it is the dearest
        to judge again. Raises SandboxUnavailable when no jail can be had.
        """
        check_lengths(examples, responses)
        jobs = [self._read_job(example, response) for example, response in zip(examples, responses, strict=True)]
        pending: dict[str, Future[Verdict]] = {}
        for job in jobs:
            if isinstance(job, _Job) and job.key not in self._memo and job.key not in pending:
                pending[job.key] = self._pool.submit(self._judge_program, job)
        try:
            fresh = {key: future.result() for key, future in pending.items()}
        finally:
            for future in pending.values():
                future.cancel()
        known = {**self._memo, **fresh}
        for key, verdict in fresh.items():
            self._memo[key] = verdict
            if len(self._memo) > self._memo_size:
                self._memo.popitem(last=False)
        return [known[job.key] if isinstance(job, _Job) else job for job in jobs]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _read_job(self, example: Example, response: str) -> _Job | Verdict:
        start = time.monotonic()
        try:
            entry_point, calls, expected = _read_gold(example.gold)
        except ValueError as error:
            detail = f"gold data of {example.uid}: {error}"
            return Verdict(False, None, "gold_error", detail=detail, seconds=time.monotonic() - start)
        program = extract_program(response)
        if program is None:
            detail = "no complete code block"
            return Verdict(False, 0.0, "unparsable", detail=detail, seconds=time.monotonic() - start)
        parts = (canonical_json(example.gold), program)
        key = "".join(hashlib.sha256(part.encode(errors="surrogatepass")).hexdigest() for part in parts)
        return _Job(key, program, entry_point, calls, expected)

    def _judge_program(self, job: _Job) -> Verdict:
        results = run_calls(job.program, job.entry_point, job.calls, limits=self._limits)
        return _verdict(job, results)


@dataclass(frozen=True, slots=True)
class _Job:
    key: str
    program: str
    entry_point: str
    calls: tuple[list[Any], ...]
    expected: tuple[Any, ...]


def extract_program(response: str) -> str | None:
    """The last complete ```python block, else the last complete block without a language; a text without any fence
    is itself the program. None: fences, but no such block, or nothing but blanks. Linear in the text.

    >>> extract_program("It is\\n```python\\nx = 1\\n```\\n")
    'x = 1'
    """
    blocks: dict[bool, str] = {}
    has_fence, tag, start = False, None, 0
    lines = response.split("\n")
    for number, line in enumerate(lines):
        fence = _FENCE.fullmatch(line)
        if fence is None:
            continue
        has_fence = True
        if tag is None or fence[1]:  # a fence with a language always opens: the block before it was not closed
            tag, start = fence[1].lower(), number + 1
        else:
            if tag in ("", *_PYTHON_TAGS):
                blocks[tag != ""] = "\n".join(lines[start:number])
            tag = None
    program = blocks.get(True, blocks.get(False)) if has_fence else response
    return program if program is not None and program.strip() else None


def _read_gold(gold: dict[str, Any]) -> tuple[str, tuple[list[Any], ...], tuple[Any, ...]]:
    """Entry point, arguments and expected values. Raises ValueError when the gold data is not as documented."""
    entry_point, tests = gold.get("entry_point"), gold.get("tests")
    if not isinstance(entry_point, str) or not entry_point.isidentifier():
        raise ValueError(f"entry_point is {entry_point!r}: expected a function's name")
    if not isinstance(tests, list) or not tests:
        raise ValueError("tests: expected a list with at least one test")
    for number, test in enumerate(tests):
        if not isinstance(test, dict) or set(test) != {"args", "expected"} or not isinstance(test["args"], list):
            raise ValueError(f'test {number}: expected {{"args": [...], "expected": ...}}')
    try:
        calls = tuple(from_json(test["args"]) for test in tests)
        return entry_point, calls, tuple(from_json(test["expected"]) for test in tests)
    except CodecError as error:
        raise ValueError(f"a value of the tests: {error}") from error


def _verdict(job: _Job, results: CallResults) -> Verdict:
    passed = [
        call.error is None and same(expected, call.value)
        for expected, call in zip(job.expected, results.calls, strict=True)
    ]
    fraction = sum(passed) / len(passed)
    is_correct = all(passed) and results.status == "ok"
    detail = f"{sum(passed)} of {len(passed)} tests passed [{results.level}]"
    if not is_correct:
        why = results.detail or _first_failure(job, results, passed.index(False))
        detail += f"; {re.sub('0x[0-9a-f]{6,}', '0x...', why)}"  # addresses differ from run to run
    return Verdict(
        correct=is_correct,
        # Which answers arrived before a flood was stopped is a matter of scheduling: none of them counts.
        value=0.0 if results.status == "output_limit" else fraction,
        status=("ok" if is_correct else "wrong") if results.status == "ok" else results.status,
        extracted=job.program,
        detail=detail,
        seconds=results.seconds,
    )


def _first_failure(job: _Job, results: CallResults, number: int) -> str:
    call = results.calls[number]
    if call.error is not None:
        return f"test {number}: {call.error}: {call.message}"
    return f"test {number}: expected {_short(job.expected[number])}, found {_short(call.value)}"


def _short(value: Any) -> str:
    text = dumps(value)
    return text if len(text) <= 80 else text[:80] + "..."
