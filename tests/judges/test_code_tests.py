"""Function tests as a benchmark's own code: no way to cheat them, every status, and no process left behind."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import cheats
import function_cheats
import pytest
from code_examples import CHECK, TESTS, example, judge_one, passes

from lightningrl.judges.code import judge as code
from lightningrl.judges.code import test_cases
from lightningrl.judges.code.judge import CodeJudge
from lightningrl.types import Example


@pytest.fixture(scope="module")
def judge(jail_level):
    judge = CodeJudge(workers=2)
    yield judge
    judge.close()


@pytest.mark.parametrize("tests", [TESTS, [CHECK + "check(add)\n"]], ids=["asserts", "check"])
def test_no_cheat_is_rewarded(tests, judge):
    everything = {**cheats.CHEATS, **function_cheats.CHEATS}
    # "True for 1" is right by Python's own ==, which is what these tests ask for.
    programs = [source for title, source in everything.items() if title != "True for 1"]
    gold = example(tests, "add", time_limit_s=0.5)
    verdicts = judge.judge([gold] * (len(programs) + 1), [*programs, cheats.HONEST_RIGHT])
    assert verdicts.pop().correct
    for title, verdict in zip([title for title in everything if title != "True for 1"], verdicts, strict=True):
        assert not verdict.correct and verdict.value < 1, (title, verdict)
        assert verdict.status in ("wrong", "crashed", "timeout", "output_limit"), (title, verdict)


def test_value_is_the_fraction_of_the_asserts(judge, jail_level):
    verdict = judge_one(judge, example(TESTS, "add"), "def add(a, b): return 5 if a == 2 else 0")
    assert verdict.value == pytest.approx(2 / 3) and not verdict.correct and verdict.sandbox == jail_level
    assert "2 of 3" in verdict.detail and "gave" in verdict.detail and verdict.compat is False


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


STATUSES = {
    "timeout": "def add(a, b):\n    while True: pass",
    "output_limit": "def add(a, b):\n    return 'x' * 2_000_000",
    "crashed": "import os\ndef add(a, b): os._exit(0)",
    "wrong": "def add(a, b:",
    "unparsable": "```bash\nls\n```",
}


@pytest.mark.parametrize("status", STATUSES)
def test_statuses(status, judge):
    for _ in range(3):  # not by chance
        verdict = judge_one(judge, example(TESTS, "add", time_limit_s=0.1 + time.monotonic() % 0.01), STATUSES[status])
        assert (verdict.status, verdict.correct, verdict.value) == (status, False, 0.0), verdict
    # the next judgement finds its helpers alive
    assert judge_one(judge, example(TESTS, "add"), cheats.HONEST_RIGHT).correct


def test_answers_before_a_timeout_count_in_the_value_only(judge):
    gold = example(TESTS, "add", time_limit_s=0.1)
    verdict = judge_one(judge, gold, "def add(a, b):\n    while a == 10: pass\n    return a + b")
    assert verdict.status == "timeout" and verdict.value == pytest.approx(2 / 3) and verdict.compat is False


HOSTILE_VALUES = {
    "a power that never ends": ("def f(): return 2**15_000_000", "assert pow(f(), f(), f() + 1) == 1"),
    "a list that fills the memory": ("def f(): return 10**12", "assert len(list(range(f()))) == 1"),
    "a long sum": ("def f(): return 10**12", "assert sum(range(f())) == 1"),
}


@pytest.mark.parametrize("title", HOSTILE_VALUES)
def test_values_that_hurt_the_tests_end_in_time(title, judge):
    program, test = HOSTILE_VALUES[title]
    verdict = judge_one(judge, example([test], time_limit_s=0.1), program)
    assert verdict.status in ("timeout", "wrong", "output_limit") and not verdict.correct, verdict
    assert passes(judge, "def f(): return 1", "assert f() == 1")


BAD_GOLD = [
    {"tests": ["assert f("]}, {"tests": [1]}, {"tests": ["assert f()", {}]}, {"tests": ["x"], "setup": 1},
    {"tests": ["x"], "setup": "def"}, {"tests": ["x"], "time_limit_s": 0}, {"tests": ["x"], "time_limit_s": "1"},
    {"tests": ["assert f() == 1"], "setup": "1 / 0"}, {"tests": ["a\0b"]},
]  # fmt: skip


@pytest.mark.parametrize("gold", BAD_GOLD)
def test_bad_gold_is_no_score(gold, judge):
    bad = Example("b/test/1", (), {"entry_point": "f", **gold})
    verdict = judge_one(judge, bad, "def f(): return 1")
    assert (verdict.status, verdict.value, verdict.compat) == ("gold_error", None, None), verdict
    assert "b/test/1" in verdict.detail


def test_two_judgements_at_once_do_not_see_each_other(judge):
    program = "import time\nseen = []\ndef f(x):\n    seen.append(x)\n    time.sleep(0.02)\n    return seen\n"
    golds = [example([f"f({n})"] * 5 + [f"assert f({n}) == [{n}] * 6"]) for n in range(4)]
    assert all(verdict.correct for verdict in judge.judge(golds, [program] * 4))


def test_killed_helpers_are_replaced_and_the_judgement_repeated(jail_level):
    """Every process that judging starts is killed now and then, in the middle of a batch."""
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


def test_a_program_that_kills_its_jail_each_time_is_crashed(judge, monkeypatch):
    runs = []
    run = code.run_tests
    monkeypatch.setattr(code, "run_tests", lambda *args, **kwargs: runs.append(1) or run(*args, **kwargs))
    gold = example(TESTS, "add")
    program = "import os\ndef add(a, b): os.kill(os.getppid(), 9); return os.kill(os.getpid(), 9)"
    verdict = judge_one(judge, gold, program)
    assert verdict.status == "crashed" and len(runs) <= 2 and verdict.detail


def test_no_helper_outlives_the_judge(jail_level):
    before = set(children())
    judge = CodeJudge(workers=2)
    assert judge_one(judge, example(TESTS, "add"), cheats.HONEST_RIGHT).correct
    judge.close()
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


@pytest.mark.parametrize("title", POISON)
def test_one_problems_test_code_does_not_move_the_next_verdict(jail_level, title):
    setup, test, body = POISON[title]
    judge = CodeJudge(workers=1)
    alone = judge_one(judge, example([test]), f"def f(): {body}").correct
    assert judge_one(judge, example(["assert f() == 0"], setup=setup), "def f(): return 0").correct
    assert judge_one(judge, example([test]), f"def f():\n    {body}").correct is alone
    judge.close()


def test_what_a_program_prints_decides_nothing(judge):
    flood = "import sys\ndef f(x):\n    for _ in range(100):\n        print('x' * 10_000)\n"
    flood += "        print('x' * 10_000, file=sys.stderr)\n    return x"
    assert passes(judge, flood, "assert f(1) == 1", "assert f(2) == 2")
    assert passes(judge, flood + "\nprint('x' * 10**7)", "assert f(1) == 1")
    gold = {"entry_point": "f", "tests": [{"args": [1], "expected": 1}]}
    assert judge_one(judge, Example("b/test/1", (), gold), flood).correct
    forever = judge_one(judge, example(["assert f() == 1"], time_limit_s=0.1), "def f():\n    while True: print('x')")
    assert (forever.status, forever.correct) == ("timeout", False)


CRASHES = ["raise ValueError", "exit()", "import os; os._exit(0)", "import os; os.abort()", "1 / 0"]


@pytest.mark.parametrize("crash", CRASHES)
@pytest.mark.parametrize(
    "test", ["f()", "assert f() is None", "try:\n    f()\nexcept ValueError: pass\nassert f() is None"]
)
def test_a_crash_is_never_a_pass(crash, test, judge):
    assert not judge_one(judge, example([test], time_limit_s=0.1), f"def f():\n    {crash}").correct
    assert not judge_one(judge, example([test], time_limit_s=0.1), f"def f(): pass\n{crash}").correct
    gold = {"entry_point": "f", "tests": [{"args": [], "expected": None}]}
    for program in (f"def f():\n    {crash}", f"def f(): pass\n{crash}"):
        assert not judge_one(judge, Example("b/test/1", (), gold), program).correct


@pytest.mark.parametrize("where", ["import os; os.kill(os.getppid(), 9)\n", ""])
def test_a_program_cannot_end_its_jail_and_be_right_by_chance(judge, where):
    inside = "" if where else "import os; os.kill(os.getppid(), 9); "
    program = f"{where}def f(x): {inside}return x"
    gold = example(["assert f(1) == 1", "assert f(2) == 2"])
    verdicts = [judge_one(judge, gold, f"# {n}\n{program}") for n in range(8)]
    assert len({(v.correct, v.status, v.value) for v in verdicts}) == 1


def test_the_bound_is_the_published_one_and_what_a_slow_machine_needs(jail_level):
    gold = test_cases.read_tests({"entry_point": "f", "tests": ["x"], "time_limit_s": 1})
    assert gold.limits(CodeJudge()._limits).wall_s == 1 + 2.0 + 3.0


def test_a_handful_of_official_solutions(judge):
    """The whole sets are behind the marker `mirror`; here the tasks that need something special, and two plain ones."""
    rows = json.loads((Path(__file__).parent / "official_solutions.json").read_text())["tasks"]
    golds = [example(row["tests"], row["entry_point"], row["setup"], prefill=row["prefill"]) for row in rows]
    for response in ("solution", "", "\n```python\nexit()\n```", "exit()\n"):
        responses = [row["solution"] if response == "solution" else response for row in rows]
        for row, verdict in zip(rows, judge.judge(golds, responses), strict=True):
            assert verdict.correct is (response == "solution"), (row["task"], verdict)
            assert verdict.value == float(response == "solution"), (row["task"], verdict)
