"""Attacks that use up the machine: memory, processes, time, output, disk."""

import time

from harness import (
    SHORT,
    by_the_clock,
    check,
    guarantees,
    outcome_of,
    own_limits,
    run_calls,
    run_script,
    value_of,
    wait_until_gone,
)


@check
def memory_is_bounded():
    assert value_of("def attack():\n    return name(bytearray, 3 * 2**30)\n") == "MemoryError"


@check
def memory_outside_the_address_space_is_refused():
    source = """
def attack():
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    return name(os.memfd_create, "x"), libc.shmget(0, 1 << 20, 0o1600)
"""
    assert value_of(source) == ("PermissionError", -1)


@check
def forks_are_bounded_and_none_is_left():
    limits = own_limits()
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
    found = value_of(source, limits=limits)
    assert 1 <= found < limits.processes if guarantees().has_processes else found == 0
    wait_until_gone(limits)


@check
def daemons_end_with_the_judgement():
    limits = own_limits()
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
    if guarantees().has_processes:
        assert value_of(source, limits=limits) == "judged"
    else:
        assert outcome_of(source, limits).calls[0].message.startswith("PermissionError")
    wait_until_gone(limits)


def _is_stopped_in_time(source: str) -> None:
    limits = own_limits(wall_s=0.5)
    start = time.monotonic()
    results = outcome_of(source, limits)
    assert results.status == "timeout" and results.calls[0].error == "not_run", results
    assert limits.wall_s <= time.monotonic() - start
    wait_until_gone(limits)


@by_the_clock
def endless_loops_that_swallow_exceptions_are_stopped():
    _is_stopped_in_time("""
def attack():
    while True:
        try:
            while True: pass
        except BaseException: pass
""")


@by_the_clock
def ignored_signals_do_not_help():
    _is_stopped_in_time("""
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def attack():
    while True: time.sleep(1)
""")


@by_the_clock
def sleep_at_import_is_stopped():
    _is_stopped_in_time("import time\ntime.sleep(60)\ndef attack(): return 1\n")


@by_the_clock
def a_stopped_process_is_stopped():
    _is_stopped_in_time("import os, signal\ndef attack(): os.kill(os.getpid(), signal.SIGSTOP)\n")


@check
def what_a_function_prints_is_dropped():
    for stream in (1, 2):
        source = f"import os\ndef attack():\n    for _ in range(200): os.write({stream}, bytes(2**20))\n    return 1\n"
        assert value_of(source) == 1
    assert value_of("import sys\ndef attack():\n    print('x' * 10**7)\n    return sys.stdin.read()\n") == ""


@by_the_clock
def printing_forever_is_stopped():
    _is_stopped_in_time("def attack():\n    while True: print('x' * 10_000)\n")


@check
def what_a_script_prints_is_bounded():
    results = run_script("while True: print('x' * 10_000)\n", "")
    assert results.status == "output_limit" and len(results.output) <= SHORT.output_bytes, results.status
    assert run_script("import sys\nfor _ in range(100): print('x' * 10_000, file=sys.stderr)\n", "").output == ""


@check
def the_end_of_a_script_is_known():
    ends = {"": 0, "exit()": 0, "raise SystemExit": 0, "1 / 0": 1, "exit(3)": 3, "exit('words')": 1}
    ends["import os\nos.kill(os.getpid(), 9)"] = -9
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
    assert outcome_of("def attack(): return 'x' * 5_000_000\n").calls[0].error == "not_plain_data"
    results = run_calls("def attack(): return 'x' * 2_000_000\n", "attack", [()] * 3)
    assert results.status == "output_limit", results.detail


@check
def python_recursion_is_an_error():
    results = outcome_of("def attack(): return attack()\n")
    assert results.calls[0].message.startswith("RecursionError"), results


@check
def c_stack_overflow_is_a_crash():
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
    if guarantees().work_folder is None:
        assert (first, second, files) == ("PermissionError", "PermissionError", 0)
    else:
        assert (first, second) == ("OSError", "OSError") and 50 < files <= 65


@check
def many_threads_and_many_empty_files_are_bounded():
    source = """
def attack():
    import os, threading, time
    threading.stack_size(32768)
    stop, count = threading.Event(), 0
    try:
        while count < 1000:
            threading.Thread(target=stop.wait).start()
            count += 1
    except RuntimeError: pass
    stop.set()
    return count
"""
    assert value_of(source) < 16 + 256
