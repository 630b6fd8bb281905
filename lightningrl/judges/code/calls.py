"""Judge a function by arguments and expected values: all calls run in one jail, and the results are compared here.

The gold data is JSON: `{"entry_point": "f", "tests": [{"args": [...], "expected": ...}, ...]}`; values that JSON does
not have are written as in `lightningrl.sandbox.codec` (`{"$tuple": [1, 2]}`). All tests run in order in one process, so
a program may keep state between calls. Equality is `lightningrl.judges.equality`'s, which is stricter than Python's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightningrl.judges.code.test_cases import TestOutcome, TestsResult
from lightningrl.judges.equality import same
from lightningrl.sandbox.codec import CodecError, dumps, from_json
from lightningrl.sandbox.limits import CallResult, CallResults


@dataclass(frozen=True, slots=True)
class CallsGold:
    """The parsed gold data.

    >>> CallsGold("f", ([1],), (2,)).calls
    ([1],)
    """

    entry_point: str
    calls: tuple[list[Any], ...]
    expected: tuple[Any, ...]


def read_calls(gold: dict[str, Any]) -> CallsGold:
    """Returns the parsed gold data. Raises ValueError for data of another form."""
    tests = gold["tests"]
    for number, test in enumerate(tests):
        if not isinstance(test, dict) or set(test) != {"args", "expected"} or not isinstance(test["args"], list):
            raise ValueError(f'test {number}: expected {{"args": [...], "expected": ...}}')
    try:
        calls = tuple(from_json(test["args"]) for test in tests)
        return CallsGold(gold["entry_point"], calls, tuple(from_json(test["expected"]) for test in tests))
    except CodecError as error:
        raise ValueError(f"a value of the tests: {error}") from error


def compare_calls(gold: CallsGold, results: CallResults) -> TestsResult:
    """Returns the outcome of each test; the published executor has no tests of this form."""
    outcomes = tuple(_compare(*pair) for pair in zip(gold.expected, results.calls, strict=True))
    return TestsResult(results.status, outcomes, results.level, results.detail, "", results.is_lost)


def _compare(expected: Any, call: CallResult) -> TestOutcome:
    if call.error is not None:
        return TestOutcome(False, False, f"{call.error}: {call.message}")
    passed = same(expected, call.value)
    return TestOutcome(passed, passed, "" if passed else f"expected {_short(expected)}, found {_short(call.value)}")


def _short(value: Any) -> str:
    text = dumps(value)
    return text if len(text) <= 80 else text[:80] + "..."
