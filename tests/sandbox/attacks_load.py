"""Attacks that use up the machine: memory, processes, time, output, disk."""

import functools
import time
from dataclasses import replace

from harness import (
    BY_THE_CLOCK,
    CHECKS,
    LONG,
    SHORT,
    check,
    level,
    outcome_of,
    run_calls,
    run_script,
    value_of,
    wait_until_gone,
)


@check
def memory_is_bounded_also_outside_the_address_space():
    source = """
def attack():
    import ctypes, os
    shared = ctypes.CDLL(None, use_errno=True).shmget(0, 1 << 20, 0o1600)
    return name(bytearray, 3 * 2**30), name(os.memfd_create, "x"), shared
"""
    assert value_of(source) == ("MemoryError", "PermissionError", -1)


@check
def forks_are_bounded_and_none_is_left():
    source = """
def attack():
    import os, time
    count = 0
    try:
        while count < 200:
            if os.fork() == 0:
                time.sleep(60)
            count += 1
    except OSError:
        pass
    return count
"""
    found = value_of(source)
    assert 1 <= found < LONG.processes if level().has_processes else found == 0
    wait_until_gone()


@check
def daemons_end_with_the_judgement():
    source = """
def attack():
    import os, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in range(64):
                try: os.close(fd)
                except OSError: pass
            time.sleep(60)
        os._exit(0)
    return "judged"
"""
    if level().has_processes:
        assert value_of(source) == "judged"
    else:
        assert outcome_of(source).calls[0].message.startswith("PermissionError")
    wait_until_gone()


ENDLESS = {
    "endless loops that swallow exceptions": """
def attack():
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
    "ignored signals": """
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def attack():
    while True: time.sleep(1)
""",
    "sleep at import": "import time\ntime.sleep(60)\ndef attack(): return 1\n",
    "a stopped process": "import os, signal\ndef attack(): os.kill(os.getpid(), signal.SIGSTOP)\n",
    "printing": "def attack():\n    while True: print('x' * 10_000)\n",
}


def _is_stopped_in_time(source: str) -> None:
    limits = replace(LONG, wall_s=0.5)
    start = time.monotonic()
    results = outcome_of(source, limits)
    assert results.status == "timeout" and results.calls[0].error == "not_run", results
    assert limits.wall_s <= time.monotonic() - start
    wait_until_gone()


for _title, _source in ENDLESS.items():
    CHECKS[f"stopped in time: {_title}"] = functools.partial(_is_stopped_in_time, _source)
    BY_THE_CLOCK.add(f"stopped in time: {_title}")


@check
def what_a_function_prints_is_dropped_and_what_a_script_prints_is_bounded():
    source = """
def attack():
    import os, sys
    for stream in (1, 2):
        for _ in range(200): os.write(stream, bytes(2**20))
    print('x' * 10**7)
    return sys.stdin.read()
"""
    assert value_of(source) == ""
    results = run_script("while True: print('x' * 10_000)\n", "")
    assert results.status == "output_limit" and len(results.output) <= SHORT.output_bytes, results.status
    assert run_script("import sys\nfor _ in range(100): print('x' * 10_000, file=sys.stderr)\n", "").output == ""


@check
def the_end_of_a_script_is_known():
    ends = {"": 0, "exit()": 0, "1 / 0": 1, "exit(3)": 3, "exit('words')": 1, "import os\nos.kill(os.getpid(), 9)": -9}
    for source, code in ends.items():
        result = run_script(source, "")
        assert (result.status, result.exit_code) == ("ok", code), (source, result)


@check
def replies_are_bounded():
    flood = """
import os
for fd in range(3, 64):
    try:
        while True: os.write(fd, bytes(2**16))
    except OSError: pass
"""
    assert outcome_of(flood).status == "output_limit"
    source = "def attack(size): return 'x' * size\n"
    assert outcome_of(source, LONG, 5_000_000).calls[0].error == "not_plain_data"
    results = run_calls(source, "attack", [(2_000_000,)] * 3)
    assert results.status == "output_limit", results.detail


@check
def recursion_is_an_error_and_a_stack_overflow_a_crash():
    results = outcome_of("def attack(): return attack()\n")
    assert results.calls[0].message.startswith("RecursionError"), results
    source = """
import sys
sys.setrecursionlimit(10**9)
class A:
    def __getattr__(self, name): return getattr(self, name + "x")
def attack():
    nested = []
    for _ in range(10**6): nested = [nested]
    return repr(nested), A().y
"""
    results = outcome_of(source)
    assert results.status in ("crashed", "timeout") or results.calls[0].error == "exception", results


@check
def big_files_are_refused():
    source = """
def attack():
    import os
    def big():
        with open("big", "wb") as file:
            for _ in range(1024): file.write(bytes(2**20))
    first = name(big)
    if os.path.exists("big"): os.remove("big")
    def many():
        for number in range(100):
            with open(str(number), "wb") as file: file.write(bytes(2**20))
    return first, name(many), sum(entry.isdigit() for entry in os.listdir(".")) if os.getcwd() != "/" else 0
"""
    first, second, files = value_of(source)
    if level().work_folder is None:
        assert (first, second, files) == ("PermissionError", "PermissionError", 0)
    else:
        assert (first, second) == ("OSError", "OSError") and 50 < files <= 65


@check
def threads_work_are_bounded_and_do_not_hold_the_verdict():
    source = """
def attack():
    import threading, time
    found, count, stop = [], 0, threading.Event()
    threads = [threading.Thread(target=found.append, args=(i,)) for i in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    threading.stack_size(32768)
    threading.Thread(target=time.sleep, args=(60,)).start()
    try:
        while count < 1000:
            threading.Thread(target=stop.wait).start()
            count += 1
    except RuntimeError: pass
    stop.set()
    return sorted(found), count
"""
    found, count = value_of(source)
    assert found == [0, 1, 2, 3] and 2 < count < 16 + 256
