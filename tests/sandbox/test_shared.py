"""One jail for one program after another: none can tell that there was one before it, none reaches the one after it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import attacks_between
import pytest
from attacks_between import attempt, expect_nothing_new, look
from fixtures.limits import wait_for
from harness import HONEST, family_of
from skipping import need

from lightningrl.judges.code.judge import CodeJudge
from lightningrl.sandbox import levels, probe, run, seccomp, session
from lightningrl.sandbox.jail import JailPool, Limits, open_dialogue, run_calls, run_script
from lightningrl.types import Example

ROOT = Path(session.__file__).parents[2]
LEVELS = [name for name, level in levels.LEVELS.items() if level.own_pids]
ONE = ("def f(): return 1", "f", [()])


@pytest.fixture(params=LEVELS)
def level(request):
    need(request.param)
    assert probe.shared_fault(request.param) is None
    return request.param


@pytest.fixture
def jails():
    jails = JailPool()
    yield jails
    jails.close()


@pytest.mark.parametrize("group", attacks_between.BETWEEN)
def test_nothing_reaches_the_next_program(group, level):
    attacks_between.run_between(group, level)


def test_programs_share_a_jail_and_look_the_same_but_for_unseeded_draws(level, jails):
    found = [look(level, jails) for _ in range(20)]
    assert all(one == found[0] for one in found)
    expect_nothing_new(level, jails)
    source = "import random, os\ndef f(): return random.random(), os.urandom(8), hash(frozenset('ab'))"
    values = [run_calls(source, "f", [()], level=level, pool=jails).calls[0].value for _ in range(10)]
    assert [len(set(column)) for column in zip(*values, strict=True)] == [10, 10, 1]
    assert len(jails._waiting) == 1 and jails._waiting[0].programs == 31


def test_verdicts_are_those_of_jails_of_their_own(level, jails):
    """The results of programs of all kinds, status and value and message, but for their times and addresses."""
    sources = [
        "def f(x): return [x, {x}, str(x)]", "def f(x): raise ValueError(x)", "def f(x): return f", "def f(x: pass",
        "def f(x): return f(x)", "def f(x): return bytearray(2**30)", "def f(x): return 'x' * 5_000_000",
        "import os\ndef f(x): os._exit(0)", "import sys\nsys.exit()", "def f(x): return 1 if x else exit()",
        "import os\ndef f(x): return os.waitpid(os.fork() or os._exit(x), 0)[1] >> 8", "def f(x): return 10 ** 5000",
        "import threading\ndef f(x): return threading.Thread(target=print).start() or x",
        "import os\ndef f(x):\n    open('a', 'w').write('xy')\n    return os.listdir('.'), open('a').read()",
        "import asyncio\nasync def g(x): return x + 1\ndef f(x): return asyncio.run(g(x))",
        "import os\ndef f(x): os.kill(os.getpid(), 9)", "import os\ndef f(x): os.abort()",
        "import os\ndef f(x): return os.getuid() > 0",
        "import multiprocessing, tempfile, sqlite3, decimal, re, statistics\ndef f(x): return statistics.mean([x, 3])",
    ]  # fmt: skip
    for source in sources:
        alone, shared = (run_calls(source, "f", [(0,), (3,)], level=level, pool=p) for p in (None, jails))
        assert (alone.status, alone.detail, alone.calls) == (shared.status, shared.detail, shared.calls), source
    scripts = [
        "print(input(), exit)", "1 / 0", "exit(3)", "print('x' * 100_000)",
        "import os\npid = os.fork()\npid and os.wait()\nprint(pid > -1, flush=True)",
        "import threading\nthreading.Thread(target=print, args=(7,)).start()",
    ]  # fmt: skip
    for source in scripts:
        alone, shared = (run_script(source, "in\n", level=level, pool=p) for p in (None, jails))
        same = [(r.status, r.exit_code, sorted(r.output.split())) for r in (alone, shared)]
        assert same[0] == same[1], (source, same)


PLAIN = """
import datetime, decimal, re, signal, sqlite3, sys
for module in sorted(sys.stdlib_module_names - {'antigravity', 'this', 'idlelib', 'turtledemo'}):
    try: __import__(module)
    except Exception: pass
datetime.datetime.strptime('2020', '%Y'), decimal.Decimal(2).sqrt(), re.match('a', 'b'), sys.stdin.read()
sqlite3.connect(':memory:').execute('select 1')
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.pause()
print(input.__name__, sorted([3, 1]), file=sys.stderr)
"""


def test_plain_programs_need_no_jail_of_their_own(level, jails):
    """All of the standard library can be imported, and what solutions of problems do can be done."""
    program = attempt(PLAIN, level, jails)
    assert b'"value":"done"' in program.reply and program.leaves_clean, (program.reply, program.ended)


def test_a_program_that_needs_a_jail_of_its_own_says_so_in_a_dialogue(level, jails):
    line = '{"id":"a","op":"call","target":null,"args":[],"kwargs":{}}'
    for source, needs in (("def f(): return 1", False), ("import os\ndef f(): return os.fork()", True)):
        with open_dialogue(source, "f", level=level, pool=jails) as dialogue:
            answer = dialogue.ask(line)
        assert dialogue.was_refused is needs and (answer is None) is needs
    with open_dialogue("def f(): return 1", "f", level=level, pool=jails) as dialogue:
        assert dialogue.ask(line) == '{"id":"a","value":1}' and dialogue.status() == ("ok", "")
    assert len(jails._waiting) == 1 and jails._waiting[0].programs == 3


BABBLE = """
import os
for fd in range(3, 64):
    try: os.write(fd, b'x\\n')
    except OSError: pass
def f(): pass
"""


def test_a_jail_is_used_again_only_after_an_ordinary_end(level, jails):
    endings = {
        "def f(): return 1": True, "def f(): return 1 / 0": True, "import os\ndef f(): os.fork()": True,
        "import os\ndef f(): os._exit(0)": False, "def f(): return [" + "'x' * 3_000_000, " * 2 + "]": True,
        "def f(": True, BABBLE: False,
    }  # fmt: skip
    for source, is_kept in endings.items():
        run_calls(source, "f", [()], level=level, pool=jails)
        assert bool(jails._waiting) is is_kept, source
    run_calls("def f():\n    while True: pass", "f", [()], level=level, pool=jails, limits=Limits(wall_s=0.3))
    assert not jails._waiting


def test_a_jail_is_retired(level):
    jails = JailPool(programs_a_jail=3)
    pids = [run_calls("import os\ndef f(): return os.getpid()", "f", [()], level=level, pool=jails).calls[0].value
            for _ in range(4)]  # fmt: skip
    assert pids == [2, 3, 4, 2] and not jails.close()


def test_a_jail_is_not_that_of_another_folder_or_thread(level, jails):
    """It dies with the thread that made it, and must not take another's program with it."""
    for size in (64, 32, 64):
        run_calls(*ONE, level=level, pool=jails, limits=Limits(disk_bytes=size * 2**20))
    assert sorted(jail.programs for jail in jails._waiting) == [1, 2]
    source = "import time\ndef f(): return time.sleep(0.2)"
    for _ in range(3):
        thread = threading.Thread(target=run_calls, args=(source, "f", [()]), kwargs={"level": level, "pool": jails})
        thread.start()
        thread.join()
        assert run_calls(source, "f", [()], level=level, pool=jails).status == "ok"
    assert sorted(jail.programs for jail in jails._waiting) == [1, 5]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_jail_that_does_not_answer_is_replaced(how, level, jails, monkeypatch):
    monkeypatch.setattr(run, "_USED_LIMIT_S", 0.3)
    for _ in range(2):
        assert run_calls(HONEST, "add", [(2, 3)], level=level, pool=jails).calls[0].value == 5
        for pid in family_of([jails._waiting[0]._process.pid]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)


def test_a_closed_pool_keeps_nothing(level, jails):
    run_calls(*ONE, level=level, pool=jails)
    pids = family_of([jails._waiting[0]._process.pid])
    jails.close()
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "the jail's end, without a zombie")
    run_calls(*ONE, level=level, pool=jails)
    assert not jails._waiting


def is_alive(pid):
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("name", "what"),
    [(n, w) for n in levels.LEVELS for w in ("idle", "busy", "alone") if n in LEVELS or w == "alone"],
)
def test_a_judge_killed_leaves_no_process(name, what, tmp_path):
    """As root the program's change of uid must not save the jail, which bubblewrap ties to its parent by a signal."""
    need(name)
    program = f"""
import time
from lightningrl.sandbox import probe
from lightningrl.sandbox.jail import JailPool, Limits, run_calls
probe.require({name!r}), probe.shared_fault({name!r})
pool = None if {what!r} == "alone" else JailPool()
if {what!r} == "idle":
    run_calls("def f(): return 1", "f", [()], level={name!r}, pool=pool)
    print("up", flush=True)
    time.sleep(900)
print("up", flush=True)
run_calls("import time\\ndef f(): time.sleep(900)", "f", [()], limits=Limits(wall_s=900), level={name!r}, pool=pool)
"""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    judge = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    assert judge.stdout is not None and judge.stdout.readline() == b"up\n"
    least = 3 if what == "idle" else 4
    wait_for(lambda: len(family_of([judge.pid])) >= least, "the judge, the level's command, the parent, the program")
    time.sleep(0.3)  # as long as the last of them needs to become what it is
    pids = family_of([judge.pid]) - {judge.pid}
    judge.kill()
    judge.wait()
    judge.stdout.close()
    wait_for(lambda: not any(map(is_alive, pids)), "the end of the jail")


def test_the_judge_s_jails_end_with_it(jail_level):
    tests = [{"args": [2, 3], "expected": 5}]
    add = Example("b/test/1", ({"role": "user", "content": "?"},), {"entry_point": "add", "tests": tests})
    judge = CodeJudge(workers=2)
    verdicts = judge.judge([add] * 6, [f"def add(a, b): return a + b + {n}" for n in range(6)])
    assert [verdict.correct for verdict in verdicts] == [True] + [False] * 5
    assert judge._jails is not None
    waiting = [jail._process.pid for jail in judge._jails._waiting]
    assert bool(waiting) is (probe.shared_fault(jail_level) is None)
    judge.close()
    assert not any(is_alive(pid) for pid in waiting)


HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_of_system_calls_are_the_kernel_s(machine):
    """Compares them with the headers of this machine, where they are installed; those may lack the newest calls."""
    if not os.path.exists(HEADERS[machine]):
        pytest.skip("no kernel headers here (linux-libc-dev)")
    numbers = {}
    for line in Path(HEADERS[machine]).read_text().splitlines():
        match = re.match(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", line)
        if match:
            numbers.setdefault({"fstatat": "newfstatat"}.get(match[1], match[1]), int(match[2]))
    calls = seccomp.read_calls(machine)
    assert {name for name, (group, _) in calls.items() if group in ("plain", "examined")} <= numbers.keys()
    assert [(name, number) for name, (_, number) in calls.items() if numbers.get(name, number) != number] == []
