"""Function tests, as values and as a benchmark's own code: no way to cheat them, every status, nothing judged twice."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import cheats
import function_cheats
import pytest
from code_examples import CHECK, TESTS, example, judge_one, passes, values

from lightningrl.errors import SandboxUnavailable
from lightningrl.judges.code import data_tests, test_cases
from lightningrl.judges.code import judge as code
from lightningrl.judges.code.gold import read_gold
from lightningrl.judges.code.judge import CodeJudge
from lightningrl.sandbox.jail import Limits
from lightningrl.types import Example

ADD = values(*zip(cheats.CALLS, cheats.EXPECTED, strict=True), entry_point="add")
FORMS = {
    "values": ADD,
    "asserts": example(TESTS, "add", time_limit_s=0.5),
    "check": example([CHECK + "check(add)\n"], "add", time_limit_s=0.5),
}


@pytest.fixture(scope="module")
def judge(jail_level):
    judge = CodeJudge(workers=2, limits=Limits(wall_s=1.5))
    yield judge
    judge.close()


@pytest.fixture
def short_grace(monkeypatch):
    """For programs that run out of time: the grace is not waited for."""
    monkeypatch.setattr(test_cases, "GRACE_S", 0.5)


@pytest.mark.parametrize("form", FORMS)
def test_no_cheat_is_rewarded(form, judge, monkeypatch):
    monkeypatch.setattr(test_cases, "GRACE_S", 2.0)
    everything = cheats.CHEATS if form == "values" else {**cheats.CHEATS, **function_cheats.CHEATS}
    # "True for 1" is right by Python's own ==, which is what test code asks for.
    programs = {title: text for title, text in everything.items() if form == "values" or title != "True for 1"}
    verdicts = judge.judge([FORMS[form]] * (len(programs) + 1), [*programs.values(), cheats.HONEST_RIGHT])
    assert verdicts.pop().correct
    for title, verdict in zip(programs, verdicts, strict=True):
        assert not verdict.correct and verdict.value < 1, (title, verdict)
        allowed = ("wrong", "crashed") if form == "values" else ("wrong", "crashed", "timeout", "output_limit")
        assert verdict.status in allowed, (title, verdict)


def test_honest_programs_get_their_due(judge, jail_level):
    right = judge_one(judge, ADD, f"Here:\n```python\n{cheats.HONEST_RIGHT}```\nDone.")
    assert (right.correct, right.value, right.status) == (True, 1.0, "ok") and right.seconds > 0
    assert right.extracted.strip() == cheats.HONEST_RIGHT.strip() and jail_level in right.detail
    wrong = judge_one(judge, ADD, f"```python\n{cheats.HONEST_WRONG}```")
    assert (wrong.correct, wrong.value, wrong.status) == (False, 0.0, "wrong")
    assert "test 0: expected 5, found -1" in wrong.detail


def test_value_is_the_fraction_of_tests_passed(judge, jail_level):
    by_values, by_code = (
        judge_one(judge, FORMS[form], "def add(a, b): return 5 if a == 2 else 0") for form in ("values", "asserts")
    )
    for verdict in (by_values, by_code):
        assert verdict.value == pytest.approx(2 / 3) and not verdict.correct and verdict.sandbox == jail_level
        assert "2 of 3" in verdict.detail
    assert "gave" in by_code.detail and by_code.compat is False and by_values.compat is None


STATUSES = {
    "unparsable": "```bash\nls\n```",
    "timeout": "def add(a, b):\n    while True: pass",
    "output_limit": "def add(a, b):\n    return 'x' * 2_000_000",
    "crashed": "import os\ndef add(a, b): os._exit(0)",
    "wrong": "```python\ndef add(a, b:",
}


@pytest.mark.parametrize("form", ["values", "asserts"])
@pytest.mark.parametrize("status", STATUSES)
def test_statuses(status, form, judge, short_grace):
    for turn in range(1 if form == "values" else 3):  # not by chance
        gold = example(TESTS, "add", time_limit_s=0.1 + turn / 1000) if form == "asserts" else ADD
        verdict = judge_one(judge, gold, STATUSES[status])
        assert (verdict.status, verdict.correct, verdict.value) == (status, False, 0.0), verdict
    # the next judgement finds its helpers alive
    assert judge_one(judge, example(TESTS, "add", time_limit_s=10), cheats.HONEST_RIGHT).correct


@pytest.mark.parametrize("gold", [ADD, example(TESTS, "add", time_limit_s=0.1)], ids=["values", "asserts"])
def test_answers_before_a_timeout_count_in_the_value_only(gold, judge, short_grace):
    verdict = judge_one(judge, gold, "def add(a, b):\n    while a == 10: pass\n    return a + b")
    assert verdict.status == "timeout" and verdict.value == pytest.approx(2 / 3) and not verdict.correct
    assert verdict.compat is (None if gold is ADD else False)


ONE = [{"args": [], "expected": 1}]
BAD_GOLD = [
    {"entry_point": None}, {}, {"tests": []}, {"entry_point": 3, "tests": ONE}, {"entry_point": "f()", "tests": ONE},
    {"tests": [{"args": 1, "expected": 1}]}, {"tests": [{"args": []}]},
    {"tests": [{"args": [], "expected": {"$set": [[]]}}]},
    {"tests": ["assert f("]}, {"tests": [1]}, {"tests": ["assert f()", {}]}, {"tests": ["x"], "setup": 1},
    {"tests": ["x"], "setup": "def"}, {"tests": ["x"], "time_limit_s": 0}, {"tests": ["x"], "time_limit_s": "1"},
    {"tests": ["assert f() == 1"], "setup": "1 / 0"}, {"tests": ["a\0b"]},
]  # fmt: skip


@pytest.mark.parametrize("gold", BAD_GOLD)
def test_bad_gold_is_no_score(gold, judge):
    verdict = judge_one(judge, Example("b/test/1", (), {"entry_point": "f", **gold}), "def f(): return 1")
    assert (verdict.status, verdict.value, verdict.correct) == ("gold_error", None, False), verdict
    assert "b/test/1" in verdict.detail and verdict.compat is None


def test_tuples_and_sets_can_be_gold(judge):
    one = {"$tuple": [1]}
    gold = values(([3], {"$tuple": [3, {"$set": [3]}]}), ([one], {"$tuple": [one, {"$set": [one]}]}))
    assert judge_one(judge, gold, "def f(x): return (x, {x})").correct
    assert not judge_one(judge, gold, "def f(x): return [x, {x}]").correct


def test_names_of_the_tests_come_from_the_library_then_from_the_program(judge):
    test = "assert f() == sys.getsizeof(())"
    assert passes(judge, "def f(): return ().__sizeof__() + 16", test)
    fake = "class sys:\n    getsizeof = lambda x: -1\ndef f(): return -1"
    assert not passes(judge, fake, test)
    assert not passes(judge, "def f(): return 1", "assert helper(1) == 1")
    assert passes(judge, "def f(): return 1\ndef helper(x): return x", "assert helper(1) == 1")


def test_the_setup_s_helpers_are_not_the_program_s(judge):
    setup = "def double(x):\n    return 2 * x\n\ndef f(x):\n    '''Halve.'''\n"
    test = "def check(candidate):\n    assert double(candidate(4)) == 4\ncheck(f)"
    assert passes(judge, "def f(x): return x // 2", test, setup=setup)
    assert not passes(judge, "def double(x): return 4\ndef f(x): return 0", test, setup=setup)


def test_an_entry_point_may_have_a_builtin_s_name_or_be_a_class(judge):
    assert passes(judge, "def sum(a, b): return 6", "assert sum(10, 15) == 6", entry_point="sum")
    assert passes(judge, "class f:\n    def __init__(self, x): self.x = x", "assert f(3).x == 3")
    assert not passes(judge, "def g(): pass", "assert f() is None")
    assert not passes(judge, "f = 3", "assert f == 3")


def test_random_draws_of_the_tests_are_the_same_every_time(jail_level):
    gold = example(["import random\nassert f(random.randrange(10**9)) is None"])
    details = set()
    for _ in range(2):
        judge = CodeJudge()
        details.add(judge_one(judge, gold, "def f(x): return x").detail)
        judge.close()
    assert len(details) == 1 and "gave" in details.pop()


def test_compat_says_what_the_published_executor_would(judge):
    gold = example(TESTS, "add")
    programs = {
        "import sys\nsys.exit(0)": True, "exit()": True, "def add(a, b): raise SystemExit": True,
        "import os\nos._exit(0)": False, cheats.HONEST_RIGHT: True, cheats.HONEST_WRONG: False, "def add(": False,
        "def add(a, b):\n    if a == 2: exit()\n    return a - b": False,
    }  # fmt: skip
    for program, compat in programs.items():
        verdict = judge_one(judge, gold, program)
        assert verdict.compat is compat and verdict.correct is (program == cheats.HONEST_RIGHT), (program, verdict)


HOSTILE_VALUES = {
    "a power that never ends": ("def f(): return 2**15_000_000", "assert pow(f(), f(), f() + 1) == 1"),
    "a list that fills the memory": ("def f(): return 10**12", "assert len(list(range(f()))) == 1"),
    "a long sum": ("def f(): return 10**12", "assert sum(range(f())) == 1"),
}


@pytest.mark.parametrize("title", HOSTILE_VALUES)
def test_values_that_hurt_the_tests_end_in_time(title, judge, short_grace):
    program, test = HOSTILE_VALUES[title]
    verdict = judge_one(judge, example([test], time_limit_s=0.1), program)
    assert verdict.status in ("timeout", "wrong", "output_limit") and not verdict.correct, verdict
    assert judge_one(judge, example(["assert f() == 1"], time_limit_s=10), "def f(): return 1").correct


def test_two_judgements_at_once_do_not_see_each_other(judge):
    program = "import time\nseen = []\ndef f(x):\n    seen.append(x)\n    time.sleep(0.02)\n    return seen\n"
    golds = [example([f"f({n})"] * 5 + [f"assert f({n}) == [{n}] * 6"]) for n in range(4)]
    assert all(verdict.correct for verdict in judge.judge(golds, [program] * 4))


def test_order_is_kept_and_equal_programs_are_judged_once(jail_level, monkeypatch):
    runs, run = [], data_tests.run_calls
    monkeypatch.setattr(data_tests, "run_calls", lambda *args, **kwargs: runs.append(1) or run(*args, **kwargs))
    judge = CodeJudge(workers=2, memo_size=3)
    right = cheats.HONEST_RIGHT
    responses = [right, cheats.HONEST_WRONG, "", right, f"```python\n{right}\n```"]
    verdicts = judge.judge([ADD] * 5, responses)
    assert [verdict.status for verdict in verdicts] == ["ok", "wrong", "unparsable", "ok", "ok"]
    assert len(runs) == 2
    again = judge.judge([ADD] * 5, responses)
    assert [verdict.status for verdict in again] == [verdict.status for verdict in verdicts] and len(runs) == 2
    assert again[0] is verdicts[0] is verdicts[3] is verdicts[4]
    assert judge.judge([values(([1, 2], 4), entry_point="add")], [right])[0].status == "wrong" and len(runs) == 3
    judge.judge([ADD] * 4, [f"def add(a, b): return {number}" for number in range(4)])
    assert len(judge._memo) == 3
    judge.close()


def test_a_judge_that_cannot_work_raises(monkeypatch):
    def unavailable(*args, **kwargs):
        raise SandboxUnavailable("no level")

    monkeypatch.setattr(data_tests, "run_calls", unavailable)
    judge = CodeJudge()
    with pytest.raises(SandboxUnavailable):
        judge.judge([ADD], [cheats.HONEST_RIGHT])
    with pytest.raises(ValueError, match="1 examples and 2 responses"):
        judge.judge([ADD], ["", ""])
    judge.close()
    with pytest.raises(ValueError, match="0 workers"):
        CodeJudge(workers=0)


def test_killed_helpers_are_replaced_and_the_judgement_repeated(jail_level):
    """Every process that judging starts is killed now and then, in the middle of a batch; none outlives the judge."""
    before = set(children())
    judge = CodeJudge(workers=2)
    programs = [f"import time\ndef add(a, b):\n    time.sleep(0.02)\n    return a + b + {n % 2}" for n in range(30)]
    programs = [f"# {number}\n{program}" for number, program in enumerate(programs)]
    found: list = []
    thread = threading.Thread(target=lambda: found.extend(judge.judge([example(TESTS, "add")] * 30, programs)))
    thread.start()
    killed = {"runner": 0, "jail": 0}
    for turn in range(6):
        time.sleep(0.15)
        kind = "runner" if turn % 2 else "jail"
        for pid in children():
            if (b"runner.py" in command(pid)) == (kind == "runner") and thread.is_alive():
                os.kill(pid, signal.SIGKILL)
                killed[kind] += 1
                break
    thread.join()
    judge.close()
    assert killed["runner"] and killed["jail"], killed
    assert [verdict.correct for verdict in found] == [n % 2 == 0 for n in range(30)], [v.detail for v in found]
    assert set(children()) <= before


def children():
    listing = ""
    for task in Path("/proc/self/task").iterdir():
        listing += " " + (task / "children").read_text()
    return [int(pid) for pid in listing.split()]


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_program_that_kills_its_jail_each_time_is_crashed(judge, monkeypatch):
    runs = []
    run = code.run_tests
    monkeypatch.setattr(code, "run_tests", lambda *args, **kwargs: runs.append(1) or run(*args, **kwargs))
    program = "import os\ndef add(a, b): os.kill(os.getppid(), 9); return os.kill(os.getpid(), 9)"
    verdict = judge_one(judge, example(TESTS, "add"), program)
    assert verdict.status == "crashed" and len(runs) <= 2 and verdict.detail


POISON = {
    "math": (
        "import math\nmath.isclose = lambda *a, **k: True", "import math\nassert math.isclose(f(), 1)", "return 2"
    ),
    "builtins": ("import builtins\nbuiltins.abs = lambda x: 0", "assert abs(f() - 1) < 1e-6", "return 9"),
    "decimal": (
        "import decimal\ndecimal.getcontext().prec = 1",
        "from decimal import Decimal\nassert Decimal(f()) / 7 > 14",
        "return 99",
    ),
}  # fmt: skip


def test_one_problems_test_code_does_not_move_the_next_verdict(jail_level):
    judge = CodeJudge(workers=1)
    for setup, test, body in POISON.values():
        alone = judge_one(judge, example([test]), f"def f(): {body}").correct
        assert judge_one(judge, example(["assert f() == 0"], setup=setup), "def f(): return 0").correct
        assert judge_one(judge, example([test]), f"def f():\n    {body}").correct is alone
    judge.close()


def test_what_a_program_prints_decides_nothing(judge, monkeypatch):
    flood = "import sys\ndef f(x):\n    for _ in range(100):\n        print('x' * 10_000)\n"
    flood += "        print('x' * 10_000, file=sys.stderr)\n    return x"
    assert passes(judge, flood, "assert f(1) == 1", "assert f(2) == 2")
    assert passes(judge, flood + "\nprint('x' * 10**7)", "assert f(1) == 1")
    assert judge_one(judge, values(([1], 1)), flood).correct
    monkeypatch.setattr(test_cases, "GRACE_S", 0.5)
    forever = judge_one(judge, example(["assert f() == 1"], time_limit_s=0.1), "def f():\n    while True: print('x')")
    assert (forever.status, forever.correct) == ("timeout", False)


CRASHES = ["raise ValueError", "exit()", "import os; os._exit(0)", "import os; os.abort()", "1 / 0"]


@pytest.mark.parametrize("crash", CRASHES)
def test_a_crash_is_never_a_pass(crash, judge):
    tests = ["f()", "assert f() is None", "try:\n    f()\nexcept ValueError: pass\nassert f() is None"]
    golds = [*(example([test], time_limit_s=0.1) for test in tests), values(([], None))]
    programs = (f"def f():\n    {crash}", f"def f(): pass\n{crash}")
    verdicts = judge.judge(golds * 2, [program for program in programs for _ in golds])
    assert not any(verdict.correct for verdict in verdicts), verdicts


@pytest.mark.parametrize("where", ["import os; os.kill(os.getppid(), 9)\n", ""])
def test_a_program_cannot_end_its_jail_and_be_right_by_chance(judge, where):
    inside = "" if where else "import os; os.kill(os.getppid(), 9); "
    program = f"{where}def f(x): {inside}return x"
    gold = example(["assert f(1) == 1", "assert f(2) == 2"])
    verdicts = [judge_one(judge, gold, f"# {n}\n{program}") for n in range(8)]
    assert len({(v.correct, v.status, v.value) for v in verdicts}) == 1


def test_the_bound_is_the_published_one_and_what_a_slow_machine_needs():
    gold = read_gold({"entry_point": "f", "tests": ["x"], "time_limit_s": 1})
    assert test_cases.limits_of(gold, Limits()).wall_s == 1 + 2.0 + 3.0


def test_a_handful_of_official_solutions(judge):
    """The whole sets are behind the marker `mirror`; here the tasks that need something special, and two plain ones."""
    rows = json.loads((Path(__file__).parent / "official_solutions.json").read_text())["tasks"]
    golds = [example(row["tests"], row["entry_point"], row["setup"], prefill=row["prefill"]) for row in rows]
    for response in ("solution", "", "\n```python\nexit()\n```", "exit()\n"):
        responses = [row["solution"] if response == "solution" else response for row in rows]
        for row, verdict in zip(rows, judge.judge(golds, responses), strict=True):
            assert verdict.correct is (response == "solution"), (row["task"], verdict)
            assert verdict.value == float(response == "solution"), (row["task"], verdict)
