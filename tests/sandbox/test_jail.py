"""The judge's side of the jail: refusal without a level, limits, and a strict reading of what arrives."""

import dataclasses
import os
import sys

import pytest

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox import bwrap, probe, session
from lightningrl.sandbox.codec import CodecError
from lightningrl.sandbox.jail import Limits, run_calls
from lightningrl.sandbox.levels import LEVELS, Launch, make_level


@pytest.fixture
def fresh_probe(monkeypatch):
    monkeypatch.setattr(probe, "_report", None)


def test_without_bubblewrap_nothing_runs(monkeypatch, fresh_probe, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match=r"bwrap: bwrap is not on the PATH.*apt-get install bubblewrap"):
        run_calls("def f(): return 1", "f", [()])


def test_a_bubblewrap_that_cannot_start_is_named(monkeypatch, fresh_probe, tmp_path):
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


def test_a_bubblewrap_that_isolates_nothing_is_turned_down(monkeypatch, fresh_probe):
    """The probe attacks: a level that starts the server on the bare host does not pass."""

    class Bare(bwrap.Bubblewrap):
        def launch(self, limits):
            return BareLaunch()

    monkeypatch.setattr(probe, "make_level", lambda name: Bare())
    ((_, reason),) = probe.probe().tried
    assert reason is not None and "sees the host's /etc/passwd" in reason, reason
    assert probe.probe().level is None


class BareLaunch:
    def __enter__(self):
        server = os.path.join(os.path.dirname(session.__file__), "server.py")
        # The distribution's Python, if there is one: the server gives up root, and may not read /root/.pyenv then.
        python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
        return Launch((python, "-S", server), (), 65534 if os.getuid() == 0 else None)

    def __exit__(self, *error):
        return None


GOOD = {
    "uid": 65534, "host_files": [], "environment": ["PATH"], "network": False, "outside": [], "forks": 14,
}  # fmt: skip


def test_each_leak_is_named():
    assert probe._leak(GOOD, 16) is None
    leaks = {"uid": 0, "host_files": ["/etc/passwd"], "environment": ["SECRET"], "network": True, "outside": ["/"]}
    words = {"uid": "root", "host_files": "/etc/passwd", "environment": "SECRET", "network": "network", "outside": "/"}
    for key, value in {**leaks, "forks": 200}.items():
        reason = probe._leak({**GOOD, key: value}, 16)
        assert reason is not None and words.get(key, "processes") in reason


def test_the_probe_is_remembered(jail_level):
    assert probe.probe() is probe.probe() and probe.probe().tried == (("bwrap", None),)


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
