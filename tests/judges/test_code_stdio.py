"""Programs that read and print: each test in a jail of its own, the output compared here."""

import pytest
from fixtures.small_benchmarks import load

from lightningrl.judges.code import data_tests
from lightningrl.judges.code.data_tests import same_words
from lightningrl.judges.code.judge import CodeJudge
from lightningrl.types import Example

TESTS = [{"input": f"{a} {b}\n", "output": f"{a + b}\n"} for a, b in ((1, 2), (-3, 3), (10, 5))]
RIGHT = "a, b = map(int, input().split())\nprint(a + b)"


@pytest.fixture(scope="module")
def judge(jail_level):
    judge = CodeJudge(workers=2)
    yield judge
    judge.close()


def judge_one(judge, program, tests=TESTS, time_limit_s=1):
    gold = {"stdin_tests": tests, "time_limit_s": time_limit_s}
    example = Example("b/test/1", ({"role": "user", "content": "?"},), gold)
    return judge.judge([example], [f"```python\n{program}\n```"])[0]


HONEST = {
    "input": RIGHT,
    "sys.stdin": "import sys\na, b = map(int, sys.stdin.read().split())\nsys.stdout.write(str(a + b))",
    "a main guard": "def main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()",
    "open(0)": "print(sum(map(int, open(0).read().split())))",
    "exit at the end": RIGHT + "\nexit()",
    "other white space": "print('', *[sum(map(int, input().split()))], '', sep='\\n')",
    "noise on stderr": "import sys\nprint('debug', file=sys.stderr)\n" + RIGHT,
}


@pytest.mark.parametrize("title", HONEST)
def test_honest_programs_get_their_due(judge, title, jail_level):
    verdict = judge_one(judge, HONEST[title])
    assert (verdict.correct, verdict.value, verdict.status, verdict.compat) == (True, 1.0, "ok", True), verdict
    assert verdict.sandbox == jail_level


CRASHES = {
    "an exception": "1 / 0", "an exit code": "import sys\nsys.exit(3)", "a message": "exit('failed')",
    "a signal": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "past the end of input": "input()",
    "a syntax error": "def", "no memory": "bytearray(1 << 40)",
}  # fmt: skip


@pytest.mark.parametrize("title", CRASHES)
def test_a_crash_is_never_a_pass(judge, title):
    """With the right answer before it, and where nothing is to be printed. The published rule asks for no end."""
    before = "" if title == "a syntax error" else f"{RIGHT}\nimport sys; sys.stdout.flush()\n"
    verdict = judge_one(judge, f"{before}{CRASHES[title]}")
    assert (verdict.correct, verdict.value, verdict.status, verdict.compat) == (False, 0.0, "wrong", bool(before)), (
        verdict
    )
    assert "the program crashed (exit code" in verdict.detail
    verdict = judge_one(judge, CRASHES[title], [{"input": "", "output": ""}])
    assert (verdict.correct, verdict.compat) == (False, True), verdict


@pytest.mark.parametrize("end", ["", "exit()", "import sys\nsys.exit(0)", "quit()", "raise SystemExit"])
def test_a_normal_end_with_nothing_to_print_is_a_pass(judge, end):
    assert judge_one(judge, end or "x = 1", [{"input": "", "output": ""}]).correct


def test_integers_of_any_length_can_be_read_and_printed(judge):
    tests = [{"input": "9" * 5000, "output": "1" + "0" * 5000}]
    assert judge_one(judge, "print(int(input()) + 1)", tests).correct


CHEATS = {
    "exit": "import sys\nsys.exit(0)",
    "_exit": "import os\nos._exit(0)",
    "nothing": "pass",
    "a forged verdict": "print('PASSED')\nprint('True')\nprint('{\"passed\": true}')",
    "every answer": "print(*range(-100, 100))",
    "files": "import glob\nprint(*[open(f).read() for f in glob.glob('/box/*') + glob.glob('/jail/*.json')])",
    "descriptors": "import os\nfor fd in range(64):\n    try: os.write(fd, b'3\\n')\n"
    "    except OSError: pass\nos._exit(0)",
    "stdin closed": "import os\nos.close(0)\nprint(input())",
    "past the end of input": "input()\nprint(input())",
    "reads forever": "import time\nwhile True: time.sleep(1)",
    "an object's text": "class E:\n    def __eq__(s, o): return True\n    def __str__(s): return ''\nprint(E())",
    "stdout replaced": "import sys, io\nsys.stdout = io.StringIO()\n" + RIGHT,
    "a child that prints later": "import os, time\nif os.fork() == 0:\n    time.sleep(30)\n    print(3)",
}


@pytest.mark.parametrize("title", CHEATS)
def test_no_cheat_is_rewarded(judge, title):
    verdict = judge_one(judge, CHEATS[title], time_limit_s=0.6)
    assert not verdict.correct and verdict.value < 1, verdict
    # The descriptors' "3" is the first test's right answer, as if printed: a guess, not a cheat.
    assert verdict.value == (pytest.approx(1 / 3) if title == "descriptors" else 0.0), verdict


def test_value_is_the_fraction_of_the_tests(judge):
    verdict = judge_one(judge, "a, b = map(int, input().split())\nprint(a + b if a > 0 else 7)")
    assert verdict.value == pytest.approx(2 / 3) and verdict.status == "wrong" and "test 1" in verdict.detail


def test_tests_do_not_see_each_other(judge):
    program = "import os\nprint(3 if not os.path.exists('seen') else 4)\nopen('seen', 'w').close()"
    assert judge_one(judge, program, [{"input": "", "output": "3"}] * 3).correct


def test_output_without_end_is_stopped(judge):
    verdict = judge_one(judge, "while True: print('x' * 1000)")
    assert (verdict.status, verdict.value) == ("output_limit", 0.0)


def test_long_right_output_is_no_flood(judge):
    tests = [{"input": "30000", "output": " ".join(map(str, range(30_000)))}]
    assert judge_one(judge, "print(*range(int(input())))", tests).correct


def test_all_tests_together_have_a_bound(judge, monkeypatch):
    monkeypatch.setattr(data_tests, "TOTAL_S", 1.0)
    verdict = judge_one(judge, "import time\ntime.sleep(0.5)\nprint(input())", [{"input": "1", "output": "1"}] * 20)
    assert verdict.status == "timeout" and 0 < verdict.value < 1 and "all tests" in verdict.detail


@pytest.mark.parametrize(
    "tests", [[], {}, [{"input": "1"}], [{"input": 1, "output": "1"}], [{"input": "", "output": "", "x": 1}], ["1"]]
)
def test_bad_gold_is_no_score(judge, tests):
    verdict = judge_one(judge, RIGHT, tests)
    assert (verdict.status, verdict.value) == ("gold_error", None)


def test_words_are_compared_blanks_are_not():
    assert same_words("1 2\n3\n", " 1\t2 3") and same_words("", "\n")
    assert not same_words("1", "1.0") and not same_words("a", "A") and not same_words("12", "1 2")


def test_a_benchmark_with_such_tests(judge):
    sums, twice = (e for split in load("primeintellect").values() for e in split)
    programs = {"print the sum": "print(sum(map(int, input().split())))", "twice": "s = input()\nprint(s)\nprint(s)"}
    found = judge.judge([sums, twice, sums], [*(f"```python\n{p}\n```" for p in programs.values()), "exit()"])
    assert [verdict.correct for verdict in found] == [True, True, False]
