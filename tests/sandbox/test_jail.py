"""The judge's side of the jail: refusal without a level, limits, and a strict reading of what arrives."""

import contextlib
import dataclasses
import json
import os
import socket
import sys
from pathlib import Path

import pytest
from fixtures.limits import wait_for

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox import bwrap, confine, levels, probe, process, run, session
from lightningrl.sandbox.codec import CodecError
from lightningrl.sandbox.jail import Limits, run_calls
from lightningrl.sandbox.levels import LEVELS, Launch, make_level


@pytest.fixture
def fresh_probe(monkeypatch):
    """Resets what this process has measured and chosen."""
    monkeypatch.setattr(probe, "_report", None)
    monkeypatch.setattr(probe, "_choice", None)
    monkeypatch.setattr(probe, "_faults", {})
    monkeypatch.delenv(probe.VARIABLE, raising=False)


@pytest.fixture
def only_bwrap(monkeypatch, fresh_probe):
    monkeypatch.setattr(probe, "LEVELS", {"bwrap": levels.LEVELS["bwrap"], "none": levels.LEVELS["none"]})


def test_where_no_level_works_nothing_runs(monkeypatch, only_bwrap, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match=r"bwrap: bwrap is not on the PATH.*apt-get install bubblewrap"):
        run_calls("def f(): return 1", "f", [()])


def test_who_has_bubblewrap_is_not_told_to_install_it(monkeypatch, tmp_path):
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho bubblewrap 0.8.0\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert make_level("bwrap").remedy.startswith("allow user namespaces")


def test_the_refusal_names_every_level_with_its_remedy(monkeypatch, fresh_probe):
    monkeypatch.setattr(probe, "measure_fault", lambda name, level: f"no luck with {name}")
    with pytest.raises(SandboxUnavailable) as refusal:
        probe.probe().require()
    for name in ("bwrap", "unshare", "landlock"):
        assert f"{name}: no luck with {name}" in str(refusal.value)
        assert f"{name}: {make_level(name).remedy}" in str(refusal.value)
    assert "none:" not in str(refusal.value)


def test_without_bubblewrap_the_next_level_takes_over(monkeypatch, fresh_probe, tmp_path):
    if probe.fault("unshare") is not None:
        pytest.skip(f"unshare: {probe.fault('unshare')}")
    monkeypatch.setenv("PATH", f"{tmp_path}")
    (tmp_path / "ldd").symlink_to("/usr/bin/ldd")
    assert run_calls("def f(): return 1", "f", [()]).level == "unshare"


def test_a_named_level_that_does_not_hold_is_not_replaced(monkeypatch, fresh_probe, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    probe.choose("bwrap")
    with pytest.raises(SandboxUnavailable, match="bwrap is not on the PATH"):
        run_calls("def f(): return 1", "f", [()])


@pytest.mark.parametrize("name", ["unshare", "landlock"])
def test_config_and_environment_choose_the_level(monkeypatch, fresh_probe, name):
    if probe.fault(name) is not None:
        pytest.skip(f"{name}: {probe.fault(name)}")
    monkeypatch.setenv(probe.VARIABLE, name)
    assert run_calls("def f(): return 1", "f", [()]).level == name
    other = {"unshare": "landlock", "landlock": "unshare"}[name]
    probe.choose(other)
    assert probe.probe().tried[0][0] == other, "what the config names goes before the environment"


def test_the_environment_cannot_switch_the_jail_off(monkeypatch, fresh_probe):
    for value in ("none", "bare", ""):
        monkeypatch.setenv(probe.VARIABLE, value)
        with pytest.raises(SandboxUnavailable, match=rf"{probe.VARIABLE}={value}: expected one of auto, bwrap"):
            run_calls("def f(): return 1", "f", [()])


def test_no_jail_needs_an_acknowledgement_and_is_in_the_result(fresh_probe):
    with pytest.raises(SandboxUnavailable, match=r"sandbox\.acknowledge"):
        probe.choose("none")
    probe.choose("none", acknowledged=True)
    assert run_calls("def f(): return 1", "f", [()]).level == "none"


def test_no_jail_is_still_tidy(fresh_probe, monkeypatch):
    """Processes that outlive the verdict end, the scratch folder goes, the environment is empty, root is given up."""
    monkeypatch.setenv("LIGHTNINGRL_SECRET", "token")
    probe.choose("none", acknowledged=True)
    source = """
import os, time
def f():
    open("x", "w").write("x")
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write_end, str(os.getpid()).encode())
            time.sleep(60)
        os._exit(0)
    return int(os.read(read_end, 20)), os.getcwd(), os.getuid(), sorted(os.environ)
"""
    daemon, folder, uid, names = run_calls(source, "f", [()]).calls[0].value
    assert not os.path.exists(f"/proc/{daemon}") and not os.path.exists(folder)
    assert uid != 0 and "LIGHTNINGRL_SECRET" not in names
    assert run_calls("import time\ndef f(): time.sleep(60)", "f", [()], limits=Limits(wall_s=0.3)).status == "timeout"


def test_the_survey_tries_every_jail(fresh_probe, monkeypatch, tmp_path):
    monkeypatch.setattr(probe, "measure_fault", lambda name, level: "not here" if name == "bwrap" else None)
    found = [(report.name, report.holds, bool(report.remedy)) for report in probe.survey()]
    assert found == [("bwrap", False, True), ("unshare", True, True), ("landlock", True, True)]


def test_a_bubblewrap_that_cannot_start_is_named(monkeypatch, only_bwrap, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo bubblewrap 0.9.0 && exit\necho bwrap: no namespaces >&2; exit 1\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxUnavailable, match="did not start: bwrap: no namespaces"):
        run_calls("def f(): return 1", "f", [()])


def test_an_old_bubblewrap_is_named(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho bubblewrap 0.4.1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "0.8 or newer" in (bwrap.Bubblewrap().missing() or "")


@pytest.mark.parametrize("name", ["bwrap", "unshare", "landlock"])
def test_a_level_that_isolates_nothing_is_turned_down(name):
    """The probe attacks: a level that starts the server on the bare host does not pass."""

    class Bare:
        remedy = "none"
        guarantees = make_level(name).guarantees

        def missing(self):
            return None

        def launch(self, limits):
            return BareLaunch()

    assert "reads the host's /etc/passwd" in str(probe.measure_fault(name, Bare()))


class BareLaunch:
    def __enter__(self):
        server = os.path.join(os.path.dirname(session.__file__), "server.py")
        # The distribution's Python, if there is one: the server gives up root, and may not read /root/.pyenv then.
        python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
        return Launch((python, "-S", server), (), takes_uid=os.getuid() == 0)

    def __exit__(self, *error):
        return None


GOOD = {
    "uid": 65534, "names": [], "readable": [], "changed": [], "environment": ["PATH"], "contacted": [], "outside": [],
    "rights": [], "signals": False, "forks": 0,
}  # fmt: skip
LEAKS = {
    "uid": (0, "root"), "readable": (["/etc/passwd"], "reads the host's /etc/passwd"),
    "changed": (["/etc/passwd"], "mode"), "environment": (["SECRET"], "SECRET"), "contacted": (["udp"], "network"),
    "outside": (["/"], "writes outside"), "rights": (["ptrace"], "ptrace"), "forks": (200, "processes"),
}  # fmt: skip


@pytest.mark.parametrize("level", ["bwrap", "unshare", "landlock"])
def test_each_leak_is_named(level):
    guarantees = make_level(level).guarantees
    assert probe._leak(GOOD, 16, guarantees) is None
    for key, (value, words) in LEAKS.items():
        assert words in str(probe._leak({**GOOD, key: value}, 16, guarantees))


def test_levels_are_held_to_their_own_guarantees():
    strong, weak = make_level("bwrap").guarantees, make_level("landlock").guarantees
    for leak, words in (({"names": ["/etc/passwd"]}, "sees the host's /etc/passwd"),):
        assert words in str(probe._leak(GOOD | leak, 16, strong)) and probe._leak(GOOD | leak, 16, weak) is None
    for leak, words in (({"signals": True}, "signal the judge"), ({"forks": 1}, "starts processes")):
        assert words in str(probe._leak(GOOD | leak, 16, weak)) and probe._leak(GOOD | leak, 16, strong) is None


def test_the_probe_is_remembered(jail_level):
    assert probe.probe() is probe.probe() and probe.probe().tried[-1] == (jail_level, None)


@pytest.mark.parametrize("level", ["bwrap", "unshare", "landlock"])
def test_starting_a_jail_costs_little(level):
    """`pytest -s` prints the medians. The bound is generous: the machine may be busy."""
    if probe.fault(level) is not None:
        pytest.skip(f"{level}: {probe.fault(level)}")
    times = sorted(run_calls("def f(): return 1", "f", [()], level=level).seconds for _ in range(20))
    sys.stdout.write(f"\n{level}: a judgement of one empty call takes {1000 * times[10]:.0f} ms (median of 20)\n")
    assert times[10] < 1.0


def test_the_host_s_mounts_are_out_of_the_launcher_s_reach(tmp_path):
    """As root a launcher that has failed to leave the host's mount namespace would cover the host's folders."""
    with pytest.raises(OSError, match="the host's mount namespace"):
        confine.mount_memory(str(tmp_path), 4096, writable=True)
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_every_level_can_be_made():
    for name in LEVELS:
        assert make_level(name).remedy


def test_results_name_the_level_and_time(jail_level):
    results = run_calls("def add(a, b): return a + b", "add", [(1, 2), ("a", "b"), (1, "b")])
    assert [call.value for call in results.calls] == [3, "ab", None] and results.level == jail_level
    assert results.calls[2].message.startswith("TypeError") and 0 < results.seconds < 20


def test_no_calls_still_load_the_program(jail_level):
    assert run_calls("x = 1\ndef f(): pass", "f", []).status == "ok"


def test_a_set_s_order_is_the_same_every_time(jail_level):
    source = "def f(): return list({'a', 'b', 'c', 'd', 'e', 'f', 'g'})"
    assert len({tuple(run_calls(source, "f", [()]).calls[0].value) for _ in range(4)}) == 1


def test_the_main_guard_stays_shut_and_dataclasses_work(jail_level):
    source = """
from dataclasses import dataclass
@dataclass
class Point:
    x: int
def f(x): return Point(x).x
if __name__ == "__main__":
    raise SystemExit
"""
    assert run_calls(source, "f", [(4,)]).calls[0].value == 4


def test_the_standard_library_is_usable(jail_level):
    names = "bisect collections ctypes datetime decimal fractions hashlib heapq itertools json lzma math random re"
    names += " sqlite3 ssl statistics string typing zlib"
    source = f"def f():\n    import {', '.join(names.split())}\n    return hashlib.sha256(b'').hexdigest()[:8]\n"
    assert run_calls(source, "f", [()]).calls[0].value == "e3b0c442"


def test_arguments_that_are_not_plain_data_are_the_caller_s_error(jail_level):
    with pytest.raises(CodecError):
        run_calls("def f(x): return x", "f", [(object(),)])


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Limits)])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_limits_are_positive(field, value):
    with pytest.raises(ValueError, match=field):
        Limits(**{field: value})


READY_AND = {
    "nothing": ([], ["not_run", "not_run"], False, False),
    "one answer": ([b'{"call":0,"value":1}'], [None, "not_run"], False, False),
    "all answers": ([b'{"call":0,"value":1}', b'{"call":1,"value":1}'], [None, None], True, False),
    "a load error": ([b'{"load_error":"x"}'], ["load_error", "load_error"], True, False),
    "an exception": ([b'{"call":0,"error":"exception","message":"x"}'], ["exception", "not_run"], False, False),
    "text": ([b"True"], ["not_run", "not_run"], False, True),
    "bytes": ([b"\xff\x00"], ["not_run", "not_run"], False, True),
    "the wrong order": ([b'{"call":1,"value":1}'], ["not_run", "not_run"], False, True),
    "True for 0": ([b'{"call":false,"value":1}'], ["not_run", "not_run"], False, True),
    "more keys": ([b'{"call":0,"value":1,"passed":true}'], ["not_run", "not_run"], False, True),
    "its own error kind": ([b'{"call":0,"error":"passed","message":"x"}'], ["not_run", "not_run"], False, True),
    "a message that is a list": ([b'{"call":0,"error":"exception","message":[]}'], ["not_run", "not_run"], False, True),
    "an answer after the last": ([b'{"call":%d,"value":1}' % i for i in range(3)], [None, None], True, True),
    "a late load error": ([b'{"call":0,"value":1}', b'{"load_error":"x"}'], [None, "not_run"], False, True),
}


@pytest.mark.parametrize("title", READY_AND)
def test_answers_are_read_strictly(title):
    lines, errors, is_complete, is_broken = READY_AND[title]
    results, complete, broken = session._read_answers(lines, 2)
    assert [call.error for call in results] == errors and (complete, broken is not None) == (is_complete, is_broken)


def test_an_end_and_output_that_arrive_together_are_both_read():
    """All channels are ready at the first look: reading the end empties the others, which are then read again."""
    jail = FakeJail()
    with contextlib.closing(run.ProgramRun(jail, b"\n", Limits())) as program:  # type: ignore[arg-type]
        _, reply, output = jail.descriptors
        os.write(reply, b'{"ready":1}\n{"call":0,"value":1}\n')
        os.write(output, b"x")
        jail.inside.send(b'{"ended":0,"clean":false}')
        wait_for(lambda: len(program._selector.select(0)) == 3, "all channels")
        program.advance(lambda: False)
    assert program.ending == "exit" and bytes(program.output) == b"x" and program.reply.count(b"\n") == 2


class FakeJail:
    """The judge's side of a jail, whose inside the test plays."""

    programs = 0

    def __init__(self):
        self.outside, self.inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def fileno(self):
        return self.outside.fileno()

    def send(self, program_filter, descriptors):
        self.descriptors = [os.dup(descriptor) for descriptor in descriptors]

    def receive(self):
        return process.Ended(*json.loads(self.outside.recv(99)).values())
