"""What was appended to a record file is there after any kind of end, and nothing else is."""

from __future__ import annotations

import errno
import os

import pytest

from lightningrl.errors import StageError
from lightningrl.evaluation.records import RecordFile
from lightningrl.types import EvalRecord


def record(uid: str, sample: int = 0, response: str = "4") -> EvalRecord:
    return EvalRecord("base", uid, sample, 0.9, "h", response, "4", True, 1.0, "ok", "", 5, 6, 4, 0, 1, "eos", [2, 4])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "threshold-0.9.jsonl"


def test_what_was_appended_is_read_again(path):
    file = RecordFile(path)
    file.append([record("b/test/0"), record("b/test/0", 1)], "0", {"forwards": 3})
    file.append([record("b/test/1", response="schön\u2028\x0b")], "1", {"forwards": 5})
    again = RecordFile(path)
    assert again.records == file.records and list(again.records) == [("b/test/0", 0), ("b/test/0", 1), ("b/test/1", 0)]
    assert again.engine == {"0": {"forwards": 3}, "1": {"forwards": 5}} and again.damaged == 0


def test_every_torn_end_loses_its_own_lines_only(path):
    file = RecordFile(path)
    file.append([record("b/test/0")], "0", {"forwards": 3})
    kept = path.stat().st_size
    file.append([record("b/test/1")], "1", {"forwards": 5})
    whole = path.read_bytes()
    for size in (*range(kept, len(whole) - 1, 9), len(whole) - 2):
        path.write_bytes(whole[:size])
        torn = RecordFile(path)
        assert "1" not in torn.engine and ("b/test/0", 0) in torn.records
        torn.append([record("b/test/1")], "1", {"forwards": 5})
        fixed = RecordFile(path)
        assert fixed.records == file.records and fixed.engine == file.engine


def test_a_flipped_byte_is_told(path):
    RecordFile(path).append([record("b/test/0"), record("b/test/1")], "0", {"forwards": 3})
    data = bytearray(path.read_bytes())
    data[data.index(b"b/test/0") + 7] ^= 1
    path.write_bytes(data)
    found = RecordFile(path)
    assert found.damaged == 1 and list(found.records) == [("b/test/1", 0)]


def test_a_full_disk_adds_nothing(path, monkeypatch):
    file = RecordFile(path)
    file.append([record("b/test/0")], "0", {"forwards": 3})
    before = path.read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(StageError, match="no space left"):
        patched.setattr(os, "fsync", full)
        file.append([record("b/test/1")], "1", {"forwards": 5})
    assert path.read_bytes() == before and ("b/test/1", 0) not in file.records
    file.append([record("b/test/0", response="new")], "0", {"forwards": 3})  # the last of equal keys counts
    assert RecordFile(path).records["b/test/0", 0].response == "new"
