"""Small states to save, load and damage, for the tests of states and of chosen weights."""

import errno

import torch

from lightningrl.utils import files

HEAD = "lm_head.weight"


def content(step):
    return {
        "trainer": {"weights": torch.full((3,), float(step)), "list": [step, "a", None, True]},
        "rows": [{"step": step}],
    }


def assert_is(step, found):
    assert torch.equal(found["trainer"]["weights"], content(step)["trainer"]["weights"])
    assert found["trainer"]["list"] == [step, "a", None, True] and found["rows"] == [{"step": step}]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def writes(data):
    return lambda path: path.write_bytes(data)


MESSAGE = r"cannot write .*: no space left on the disk \(.* free\).* free some space and run the same command again"


def weights(value):
    return {"lm_head.weight": torch.full((3,), float(value), dtype=torch.bfloat16)}


def full_disk_at(monkeypatch, number):
    """Makes the disk full at the n-th fsync from now on."""
    count, original = [], files.os.fsync

    def full(handle):
        count.append(handle)
        if len(count) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(handle)

    monkeypatch.setattr(files.os, "fsync", full)
