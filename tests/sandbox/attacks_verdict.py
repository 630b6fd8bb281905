"""Attacks on the verdict, and what honest programs may expect: values, sources, threads, neighbours."""

import contextlib
import threading
import time
from dataclasses import replace
from pathlib import Path

import cheats
from harness import (
    LONG,
    SHORT,
    by_the_clock,
    check,
    expect_an_honest_program_to_be_right,
    family_of,
    jail_processes,
    level,
    orphaned_zombies,
    outcome_of,
    run_calls,
    run_script,
    running,
    value_of,
)


@check
def the_kernel_would_end_the_candidate_first():
    scores = set()
    with running("import time\ndef attack(): time.sleep(900)\n") as judgement:
        while judgement.is_alive() and scores != {1000}:  # while the jail begins, there is none, or another
            scores.clear()
            for pid in jail_processes():
                with contextlib.suppress(OSError):
                    scores.add(int(Path(f"/proc/{pid}/oom_score_adj").read_text()))
    assert scores == {1000}


@check
def two_judgements_do_not_see_each_other():
    source = """
import os, time
def attack(me, has_folder):
    if has_folder: open(me, "w").close()
    time.sleep(0.3)
    others = set(range(max(2, os.getpid() - 40), os.getpid() + 40)) - {os.getpid(), os.getppid()}
    touched = [pid for pid in others if name(os.kill, pid, 0) == "succeeded"]
    return [file for file in os.listdir(".") if len(file) == 1] if has_folder else [me], touched
"""
    has_folder = level().work_folder is not None
    found = {}
    run = lambda me: found.update({me: value_of(source, me, has_folder)})  # noqa: E731
    threads = [threading.Thread(target=run, args=(me,)) for me in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a": (["a"], []), "b": (["b"], [])}, found


@check
def a_neighbour_s_forks_do_not_count():
    flood = """
import os, time
def attack():
    try:
        while True:
            if os.fork() == 0: time.sleep(900)
    except OSError: time.sleep(900)
"""
    threads = """
import threading, time
def attack():
    threads = [threading.Thread(target=time.sleep, args=(0.2,)) for _ in range(10)]
    for t in threads: t.start()
    return len(threads)
"""
    many = LONG.processes // 2 if level().has_processes else 1
    with running(flood) as neighbour:
        while neighbour.is_alive() and len(family_of(jail_processes())) < many:
            time.sleep(0.02)
        assert value_of(threads) == 10 and neighbour.is_alive()


@by_the_clock
def no_zombie_is_left_for_the_host_s_init():
    for _ in range(20):  # another's killed jails on this machine may leave one meanwhile; ours would each time
        time.sleep(0.2)  # what earlier checks left, such as killed servers
        before = orphaned_zombies()
        for body in ("return 1", "os._exit(0)", "os.abort()", "time.sleep(9)", "print('x' * 100_000)"):
            outcome_of(f"import os, time\ndef attack(): {body}\n", replace(LONG, wall_s=0.3))
        time.sleep(0.1)
        left = orphaned_zombies() - before
        if not left:
            return
    raise AssertionError(f"zombies left, in every round: {left}")


@check
def scripts_are_held_as_functions_are():
    source = """
import os, sys
def can(attempt, *args):
    try: attempt(*args)
    except OSError: return 0
    return 1
reached = can(os.listdir, "/etc"), can(open, "/etc/passwd"), can(os.execv, "/bin/sh", ["sh"])
print(sys.stdin.read(), *reached, os.getuid())
"""
    result = run_script(source, "input")
    assert result.status == "ok" and result.output.split()[:4] == ["input", "0", "0", "0"], result
    assert int(result.output.split()[4]) != 0
    assert run_script("while True: pass", "", SHORT).status == "timeout"


@check
def hostile_sources_are_load_errors():
    sources = {
        "x = '\ud800'\ndef attack(): return 1": "UnicodeEncodeError",
        "def attack(): return 1\0": "",
        "#" * 10_000_000: "MemoryError: the program has 100",
        "def other(): return 1": "NameError",
        "attack = 3": "TypeError",
        "def attack(: pass": "SyntaxError",
        "class Bad(BaseException):\n    def __str__(self): raise SystemExit\nraise Bad": "an exception",
        "": "NameError",
    }
    for source, message in sources.items():
        results = outcome_of(source)
        assert results.status == "ok" and results.calls[0].error == "load_error", (source[:40], results)
        assert results.calls[0].message.startswith(message), results


@check
def honest_programs_are_right_whatever_a_call_does_to_the_others():
    honest = run_calls(cheats.HONEST_RIGHT, "add", cheats.CALLS)
    assert [call.value for call in honest.calls] == cheats.EXPECTED and honest.status == "ok"
    shared = [1, 2]
    source = "def f(x):\n    x.append(3)\n    return x\n"
    assert [call.value for call in run_calls(source, "f", [(shared,), (shared,)]).calls] == [[1, 2, 3]] * 2
    assert shared == [1, 2]
    results = run_calls("import os\ndef f(x):\n    return x if x < 2 else os._exit(0)\n", "f", [(1,), (2,), (1,)])
    assert results.status == "crashed" and [call.error for call in results.calls] == [None, "not_run", "not_run"]


@check
def no_cheat_is_rewarded():
    for title, source in cheats.CHEATS.items():
        values = [call.value for call in run_calls(source, "add", cheats.CALLS, SHORT).calls]
        assert [type(value) for value in values] != [int] * 3 or values != cheats.EXPECTED, title
        expect_an_honest_program_to_be_right()
