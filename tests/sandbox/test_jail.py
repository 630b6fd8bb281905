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
from skipping import need

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox import confine, levels, probe, process, run, session
from lightningrl.sandbox.codec import CodecError
from lightningrl.sandbox.jail import Limits, run_calls
from lightningrl.sandbox.levels import LEVELS, Launch
from lightningrl.sandbox.probe import find_leak, measure_fault

JAILS = [name for name in LEVELS if name != levels.NO_JAIL]
ONE = ("def f(): return 1", "f", [()])


@pytest.fixture
def fresh_probe(monkeypatch):
    """Resets what this process has measured and chosen."""
    monkeypatch.setattr(probe, "_report", None)
    monkeypatch.setattr(probe, "_choice", None)
    monkeypatch.setattr(probe, "_faults", {})
    monkeypatch.delenv(probe.VARIABLE, raising=False)


@pytest.fixture
def only_bwrap(monkeypatch, fresh_probe):
    monkeypatch.setattr(probe, "LEVELS", {name: LEVELS[name] for name in ("bwrap", "none")})


@pytest.fixture
def fake_bwrap(monkeypatch, tmp_path):
    """Puts a bubblewrap of a version on the PATH, which fails when it is to do anything."""

    def put(version: str) -> None:
        program = f"[ $1 = --version ] && echo bubblewrap {version} && exit\necho bwrap: no namespaces >&2; exit 1\n"
        (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{program}")
        (tmp_path / "bwrap").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return put


def test_where_no_level_works_nothing_runs(monkeypatch, only_bwrap, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match=r"bwrap: bwrap is not on the PATH.*apt-get install bubblewrap"):
        run_calls(*ONE)


def test_the_refusal_names_every_level_with_its_remedy(monkeypatch, fresh_probe):
    monkeypatch.setattr(probe, "measure_fault", lambda level: f"no luck with {level.name}")
    with pytest.raises(SandboxUnavailable) as refusal:
        probe.probe().require()
    for name in JAILS:
        assert f"{name}: no luck with {name}" in str(refusal.value)
        assert f"{name}: {LEVELS[name].remedy}" in str(refusal.value)
    assert "none:" not in str(refusal.value)


def test_without_bubblewrap_the_next_level_takes_over_unless_one_is_named(monkeypatch, fresh_probe, tmp_path):
    need("unshare")
    monkeypatch.setenv("PATH", f"{tmp_path}")
    (tmp_path / "ldd").symlink_to("/usr/bin/ldd")
    assert run_calls(*ONE).level == "unshare"
    probe.choose("bwrap")
    with pytest.raises(SandboxUnavailable, match="bwrap is not on the PATH"):
        run_calls(*ONE)


def test_config_and_environment_choose_the_level(monkeypatch, fresh_probe):
    for name, other in (("unshare", "landlock"), ("landlock", "unshare")):
        need(name)
        probe.choose()
        monkeypatch.setenv(probe.VARIABLE, name)
        assert run_calls(*ONE).level == name
        probe.choose(other)
        assert probe.probe().tried[0][0] == other, "what the config names goes before the environment"


def test_the_environment_cannot_switch_the_jail_off(monkeypatch, fresh_probe):
    for value in ("none", "bare", ""):
        monkeypatch.setenv(probe.VARIABLE, value)
        with pytest.raises(SandboxUnavailable, match=rf"{probe.VARIABLE}={value}: expected one of auto, bwrap"):
            run_calls(*ONE)


def test_no_jail_needs_an_acknowledgement_is_in_the_result_and_is_still_tidy(fresh_probe, monkeypatch):
    """Processes that outlive the verdict end, the scratch folder goes, the environment is empty, root is given up."""
    with pytest.raises(SandboxUnavailable, match=r"sandbox\.acknowledge"):
        probe.choose("none")
    probe.choose("none", acknowledged=True)
    monkeypatch.setenv("LIGHTNINGRL_SECRET", "token")
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
    results = run_calls(source, "f", [()])
    daemon, folder, uid, names = results.calls[0].value
    assert results.level == "none" and not os.path.exists(f"/proc/{daemon}") and not os.path.exists(folder)
    assert uid != 0 and "LIGHTNINGRL_SECRET" not in names
    assert run_calls("import time\ndef f(): time.sleep(60)", "f", [()], limits=Limits(wall_s=0.3)).status == "timeout"


def test_the_survey_tries_every_jail(fresh_probe, monkeypatch):
    monkeypatch.setattr(probe, "measure_fault", lambda level: "not here" if level.name == "bwrap" else None)
    found = [(report.name, report.reason, bool(report.remedy)) for report in probe.survey()]
    assert found == [("bwrap", "not here", True), ("unshare", None, True), ("landlock", None, True)]


def test_a_bubblewrap_that_cannot_start_or_is_old_is_named_with_its_own_remedy(fake_bwrap, only_bwrap):
    fake_bwrap("0.9.0")
    with pytest.raises(SandboxUnavailable, match="did not start: bwrap: no namespaces"):
        run_calls(*ONE)
    assert LEVELS["bwrap"].remedy.startswith("allow user namespaces")
    fake_bwrap("0.4.1")
    assert "0.8 or newer" in (LEVELS["bwrap"].missing() or "")
    assert LEVELS["bwrap"].remedy.startswith("apt-get install bubblewrap")


@pytest.mark.parametrize("name", JAILS)
def test_a_level_that_isolates_nothing_is_turned_down(name):
    """The probe attacks: a level that starts the server on the bare host does not pass."""

    class Bare(type(LEVELS[name])):
        remedy = "none"

        def missing(self):
            return None

        @contextlib.contextmanager
        def launch(self, limits):
            server = os.path.join(os.path.dirname(session.__file__), "server.py")
            # The distribution's Python, if there is one: the server gives up root, and may not read /root/.pyenv then.
            python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
            yield Launch((python, "-S", server), takes_uid=os.getuid() == 0)

    assert "reads the host's /etc/passwd" in str(measure_fault(Bare()))


GOOD = {
    "uid": 65534, "names": [], "readable": [], "changed": [], "environment": ["PATH"], "contacted": [], "outside": [],
    "rights": [], "signals": False, "forks": 0,
}  # fmt: skip
LEAKS = [
    ("uid", 0, "root", JAILS), ("readable", ["/etc/passwd"], "reads the host's /etc/passwd", JAILS),
    ("changed", ["/etc/passwd"], "mode", JAILS), ("environment", ["SECRET"], "SECRET", JAILS),
    ("contacted", ["udp"], "network", JAILS), ("outside", ["/"], "writes outside", JAILS),
    ("rights", ["ptrace"], "ptrace", JAILS), ("forks", 200, "200", JAILS),
    ("names", ["/etc/passwd"], "sees the host's /etc/passwd", ["bwrap"]),
    ("signals", True, "signal the judge", ["landlock"]), ("forks", 1, "starts processes", ["landlock"]),
]  # fmt: skip


@pytest.mark.parametrize("name", JAILS)
def test_each_leak_is_named_where_a_level_guarantees_that_there_is_none(name):
    assert find_leak(GOOD, LEVELS[name]) is None
    for key, value, words, of_levels in LEAKS:
        found = find_leak({**GOOD, key: value}, LEVELS[name])
        assert (found is not None and words in found) is (name in of_levels), (key, found)


def test_the_probe_is_remembered(jail_level):
    assert probe.probe() is probe.probe() and probe.probe().tried[-1] == (jail_level, None)


def test_the_host_s_mounts_are_out_of_the_launcher_s_reach(tmp_path):
    """As root a launcher that has failed to leave the host's mount namespace would cover the host's folders."""
    with pytest.raises(OSError, match="the host's mount namespace"):
        confine.mount_memory(str(tmp_path), 4096, writable=True)
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_results_name_the_level(jail_level):
    results = run_calls("def add(a, b): return a + b", "add", [(1, 2), ("a", "b"), (1, "b")])
    assert [call.value for call in results.calls] == [3, "ab", None] and results.level == jail_level
    assert results.calls[2].message.startswith("TypeError")
    assert run_calls("x = 1\ndef f(): pass", "f", []).status == "ok"
    assert run_calls("x = 1", "f", []).status == "ok"


STDLIB = "bisect collections ctypes datetime decimal fractions hashlib heapq itertools json lzma math random re sqlite3"
STDLIB = f"{STDLIB} ssl statistics string typing zlib".replace(" ", ", ")
HONEST = {
    "a set's order is the same every time": ("def f(): return list({'a', 'b', 'c', 'd', 'e', 'f', 'g'})", None),
    "the main guard stays shut and dataclasses work": (
        "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\ndef f(): return Point(4).x\n"
        "if __name__ == '__main__':\n    raise SystemExit\n", 4,
    ),
    "the standard library is usable": (
        f"def f():\n    import {STDLIB}\n    return hashlib.sha256(b'').hexdigest()[:8]\n", "e3b0c442",
    ),
}  # fmt: skip


@pytest.mark.parametrize("title", HONEST)
def test_honest_programs_find_what_they_expect(title, jail_level):
    source, expected = HONEST[title]
    first, second = (run_calls(source, "f", [()]).calls[0].value for _ in range(2))
    assert first == second and first is not None and expected in (None, first)


def test_arguments_that_are_not_plain_data_are_the_caller_s_error(jail_level):
    with pytest.raises(CodecError):
        run_calls("def f(x): return x", "f", [(object(),)])


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Limits)])
def test_limits_are_positive(field):
    for value in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=field):
            Limits(**{field: value})


NOT_RUN = ["not_run", "not_run"]
LOADED = b'{"loaded":true}'
ANSWERS = {
    "nothing": ([], NOT_RUN, False, False),
    "one answer": ([LOADED, b'{"id":0,"value":1}'], [None, "not_run"], False, False),
    "all answers": ([LOADED, b'{"id":0,"value":1}', b'{"id":1,"value":1}'], [None, None], True, False),
    "a load error": ([b'{"load_error":"x","type":"y"}'], ["load_error", "load_error"], True, False),
    "a load error of another form": ([b'{"load_error":"x","type":1}'], NOT_RUN, False, True),
    "answers before it has loaded": ([b'{"id":0,"value":1}', b'{"id":1,"value":1}'], NOT_RUN, False, True),
    "an exception": (
        [LOADED, b'{"id":0,"error":"exception","type":"y","message":"x"}'], ["exception", "not_run"], False, False,
    ),
    "text": ([LOADED, b"True"], NOT_RUN, False, True),
    "bytes": ([LOADED, b"\xff\x00"], NOT_RUN, False, True),
    "the wrong order": ([LOADED, b'{"id":1,"value":1}'], NOT_RUN, False, True),
    "True for 0": ([LOADED, b'{"id":false,"value":1}'], NOT_RUN, False, True),
    "more keys": ([LOADED, b'{"id":0,"value":1,"passed":true}'], NOT_RUN, False, True),
    "its own error kind": ([LOADED, b'{"id":0,"error":"passed","type":"y","message":"x"}'], NOT_RUN, False, True),
    "a message that is a list": (
        [LOADED, b'{"id":0,"error":"exception","type":"y","message":[]}'], NOT_RUN, False, True,
    ),
    "an answer after the last": ([LOADED, *(b'{"id":%d,"value":1}' % i for i in range(3))], [None, None], True, True),
    "a late load error": (
        [LOADED, b'{"id":0,"value":1}', b'{"load_error":"x","type":"y"}'], [None, "not_run"], False, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("title", ANSWERS)
def test_answers_are_read_strictly(title):
    lines, errors, is_complete, is_broken = ANSWERS[title]
    results, complete, broken = session._read_answers(lines, 2)
    assert [call.error for call in results] == errors and (complete, broken is not None) == (is_complete, is_broken)


def test_an_end_and_output_that_arrive_together_are_both_read():
    """Both channels are ready at the first look: reading the end empties the reply, which is then read again."""
    jail = FakeJail()
    with contextlib.closing(run.ProgramRun(jail, "script", b"\n", Limits(output_bytes=2))) as program:  # type: ignore[arg-type]
        os.write(jail.descriptors[1], b'{"ready":1}\n\nx')
        jail.inside.send(b'{"ended":0,"clean":false}')
        wait_for(lambda: len(program._selector.select(0)) == 2, "both channels")
        program.wait_for_end()
    assert program.ending == "exit" and program.output == b"\nx"


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
