"""The judge of programs: no cheat is rewarded, honest programs get their due, nothing is judged twice."""

import time

import cheats
import pytest

from lightningrl.errors import SandboxUnavailable
from lightningrl.judges.code import data_tests
from lightningrl.judges.code.judge import CodeJudge
from lightningrl.sandbox.jail import Limits
from lightningrl.types import Example


def example(tests, entry_point="f", uid="mbpp/test/1"):
    return Example(uid, ({"role": "user", "content": "?"},), {"entry_point": entry_point, "tests": tests})


def hidden_tests(*pairs):
    return [{"args": list(args), "expected": expected} for args, expected in pairs]


ADD = example(hidden_tests(*zip(cheats.CALLS, cheats.EXPECTED, strict=True)), "add")


@pytest.fixture(scope="module")
def judge(jail_level):
    judge = CodeJudge(workers=2, limits=Limits(wall_s=1.5))
    yield judge
    judge.close()


def judge_one(judge, gold, response):
    (verdict,) = judge.judge([gold], [response])
    return verdict


@pytest.mark.parametrize("title", cheats.CHEATS)
def test_no_cheat_is_rewarded(title, judge):
    verdict = judge_one(judge, ADD, f"```python\n{cheats.CHEATS[title]}\n```")
    assert not verdict.correct and verdict.status in ("wrong", "crashed") and verdict.value < 1, verdict


def test_honest_programs_get_their_due(judge, jail_level):
    right = judge_one(judge, ADD, f"Here:\n```python\n{cheats.HONEST_RIGHT}```\nDone.")
    assert (right.correct, right.value, right.status) == (True, 1.0, "ok") and right.seconds > 0
    assert right.extracted.strip() == cheats.HONEST_RIGHT.strip() and jail_level in right.detail
    wrong = judge_one(judge, ADD, f"```python\n{cheats.HONEST_WRONG}```")
    assert (wrong.correct, wrong.value, wrong.status) == (False, 0.0, "wrong")
    assert "test 0: expected 5, found -1" in wrong.detail


def test_value_is_the_fraction_of_tests_passed(judge):
    verdict = judge_one(judge, ADD, "def add(a, b): return 5 if a == 2 else 0")
    assert verdict.value == pytest.approx(2 / 3) and not verdict.correct and "2 of 3" in verdict.detail


STATUSES = {
    "unparsable": "```bash\nls\n```",
    "timeout": "def add(a, b):\n    while True: pass",
    "output_limit": "def add(a, b):\n    return 'x' * 2_000_000",
    "crashed": "import os\ndef add(a, b): os._exit(0)",
    "wrong": "```python\ndef add(a, b:",
}


@pytest.mark.parametrize("status", STATUSES)
def test_statuses(status, judge):
    verdict = judge_one(judge, ADD, STATUSES[status])
    assert (verdict.status, verdict.correct, verdict.value) == (status, False, 0.0), verdict


def test_answers_before_a_timeout_count_in_the_value_only(judge):
    verdict = judge_one(judge, ADD, "def add(a, b):\n    while a == 10: pass\n    return a + b")
    assert verdict.status == "timeout" and verdict.value == pytest.approx(2 / 3) and not verdict.correct


BAD_GOLD = [
    {}, {"entry_point": "f"}, {"entry_point": "f", "tests": []}, {"entry_point": 3, "tests": hidden_tests(((), 1))},
    {"entry_point": "f", "tests": [{"args": 1, "expected": 1}]}, {"entry_point": "f", "tests": [{"args": []}]},
    {"entry_point": "f", "tests": [{"args": [], "expected": {"$set": [[]]}}]},
    {"entry_point": "f()", "tests": hidden_tests(((), 1))},
]  # fmt: skip


@pytest.mark.parametrize("gold", BAD_GOLD)
def test_bad_gold_is_no_score(gold, judge):
    verdict = judge_one(judge, Example("b/test/1", (), gold), "def f(): return 1")
    assert (verdict.status, verdict.value, verdict.correct) == (
        "gold_error",
        None,
        False,
    ) and "b/test/1" in verdict.detail


def test_tuples_and_sets_can_be_gold(judge):
    one = {"$tuple": [1]}
    tests = hidden_tests(((3,), {"$tuple": [3, {"$set": [3]}]}), ((one,), {"$tuple": [one, {"$set": [one]}]}))
    assert judge_one(judge, example(tests), "def f(x): return (x, {x})").correct
    assert not judge_one(judge, example(tests), "def f(x): return [x, {x}]").correct


def test_order_is_kept_and_equal_programs_are_judged_once(jail_level, monkeypatch):
    runs = []

    def counted(program, *args, **kwargs):
        runs.append(program)
        return run(program, *args, **kwargs)

    run = data_tests.run_calls
    monkeypatch.setattr(data_tests, "run_calls", counted)
    judge = CodeJudge(workers=2)
    responses = [
        cheats.HONEST_RIGHT,
        cheats.HONEST_WRONG,
        "",
        cheats.HONEST_RIGHT,
        f"```python\n{cheats.HONEST_RIGHT}\n```",
    ]
    verdicts = judge.judge([ADD] * 5, responses)
    assert [verdict.status for verdict in verdicts] == ["ok", "wrong", "unparsable", "ok", "ok"]
    assert len(runs) == 2
    again = judge.judge([ADD] * 5, responses)
    assert [verdict.status for verdict in again] == [verdict.status for verdict in verdicts] and len(runs) == 2
    assert again[0] is verdicts[0] is verdicts[3] is verdicts[4]
    other = example(hidden_tests(((1, 2), 4)), "add")
    assert judge.judge([other], responses[:1])[0].status == "wrong" and len(runs) == 3
    judge.close()


def test_the_memo_is_bounded(jail_level):
    judge = CodeJudge(memo_size=2)
    judge.judge([ADD] * 4, [f"def add(a, b): return {number}" for number in range(4)])
    assert len(judge._memo) == 2
    judge.close()


def test_a_judge_that_cannot_work_raises(monkeypatch):
    def unavailable(*args, **kwargs):
        raise SandboxUnavailable("no level")

    monkeypatch.setattr(data_tests, "run_calls", unavailable)
    judge = CodeJudge()
    with pytest.raises(SandboxUnavailable):
        judge.judge([ADD], [cheats.HONEST_RIGHT])
    judge.close()


def test_uneven_batches_and_no_workers_are_refused():
    judge = CodeJudge()
    with pytest.raises(ValueError, match="1 examples and 2 responses"):
        judge.judge([ADD], ["", ""])
    judge.close()
    with pytest.raises(ValueError, match="0 workers"):
        CodeJudge(workers=0)


def test_throughput_is_shown(jail_level, capsys):
    judge = CodeJudge(workers=2)
    responses = [f"def add(a, b): return a + b + {number}" for number in range(60)]
    start = time.perf_counter()
    verdicts = judge.judge([ADD] * len(responses), responses)
    seconds = time.perf_counter() - start
    judge.close()
    with capsys.disabled():
        print(f"\n{len(responses) / seconds:.0f} judgements of 3 calls a second, 2 workers")
    assert [verdict.correct for verdict in verdicts] == [True] + [False] * 59
