"""Saved states: whole or absent, verified, the newest two kept, a full disk said and survived."""

import errno
import subprocess
from pathlib import Path

import pytest
import torch

from lightningrl import io
from lightningrl.errors import CheckpointError, StageError
from lightningrl.training import state as state_module
from lightningrl.training.state import load_state, save_state


def content(step):
    return {
        "trainer": {"weights": torch.full((3,), float(step)), "list": [step, "a", None, True]},
        "rows": [{"step": step}],
    }


def assert_is(step, found):
    assert torch.equal(found["trainer"]["weights"], content(step)["trainer"]["weights"])
    assert found["trainer"]["list"] == [step, "a", None, True] and found["rows"] == [{"step": step}]


@pytest.fixture
def folder(tmp_path):
    save_state(tmp_path / "state", 2, content(2))
    save_state(tmp_path / "state", 4, content(4))
    return tmp_path / "state"


def test_a_state_round_trips_with_dtypes_and_bits(tmp_path):
    saved = {"a": torch.randn(5, dtype=torch.float64), "b": torch.randn(5).bfloat16(), "c": torch.tensor([1e-45, -0.0])}
    save_state(tmp_path, 1, saved)
    for name, tensor in load_state(tmp_path).items():
        assert tensor.dtype == saved[name].dtype and torch.equal(tensor, saved[name])
        assert torch.equal(torch.signbit(tensor), torch.signbit(saved[name]))


def test_nothing_saved_is_none(tmp_path):
    assert load_state(tmp_path / "never made") is None
    assert load_state(tmp_path) is None


def test_the_newest_state_is_loaded_by_number_not_by_name(tmp_path):
    for step in (9, 1_000_000, 999_999):
        save_state(tmp_path, step, content(step))
    assert_is(1_000_000, load_state(tmp_path))


def test_pruning_keeps_the_newest_two(folder):
    for step in (6, 8, 10):
        save_state(folder, step, content(step))
        assert sorted(p.name for p in folder.iterdir()) == [f"step-{step - 2:06d}", f"step-{step:06d}"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [flip, lambda p: p.write_bytes(p.read_bytes()[:-7]), lambda p: p.write_bytes(b"")],
                         ids=["flipped bit", "truncated", "empty"])  # fmt: skip
def test_a_damaged_state_is_an_error_that_names_the_file_and_what_to_delete(folder, damage):
    damage(folder / "step-000004" / "state.pt")
    with pytest.raises(
        CheckpointError, match=r"step-000004/state\.pt is damaged .*Delete .*step-000004 to go on from"
    ) as e:
        load_state(folder)
    assert str(folder) in str(e.value)


@pytest.mark.parametrize("name", ["manifest.json", "state.pt"])
def test_a_missing_file_is_an_error_that_names_it(folder, name):
    (folder / "step-000004" / name).unlink()
    with pytest.raises(CheckpointError, match=rf"step-000004 is incomplete: .*{name}.*Delete .*step-000004"):
        load_state(folder)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "\xff"])
def test_a_damaged_manifest_is_an_error_that_names_the_state(folder, text):
    (folder / "step-000004" / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"step-000004 is incomplete"):
        load_state(folder)


def test_deleting_the_damaged_state_as_told_goes_on_from_the_one_before(folder):
    flip(folder / "step-000004" / "state.pt")
    with pytest.raises(CheckpointError, match="from the state before it"):
        load_state(folder)
    for path in (folder / "step-000004").iterdir():
        path.unlink()
    (folder / "step-000004").rmdir()
    assert_is(2, load_state(folder))
    flip(folder / "step-000002" / "state.pt")
    with pytest.raises(CheckpointError, match="from the beginning"):
        load_state(folder)


def test_a_state_that_is_no_torch_file_is_an_error(folder):
    path = folder / "step-000004"
    (path / "state.pt").write_bytes(b"not torch")
    io.write_json(path / "manifest.json", {"step": 4, "state.pt": io.sha256_file(path / "state.pt")})
    with pytest.raises(CheckpointError, match=r"step-000004/state\.pt cannot be read"):
        load_state(folder)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_kill_at_any_write_leaves_the_previous_state(folder, monkeypatch, at):
    """BaseException stands for the kill: after the state file, after the manifest, before the rename."""

    class Killed(BaseException):
        pass

    calls = []

    def dying(original):
        def call(*arguments):
            calls.append(original.__name__)
            if len(calls) == at:
                raise Killed
            return original(*arguments)

        return call

    monkeypatch.setattr(state_module.io, "sha256_file", dying(io.sha256_file))
    monkeypatch.setattr(state_module.io, "write_json", dying(io.write_json))
    monkeypatch.setattr(state_module.io, "fsync_dir", dying(io.fsync_dir))
    with pytest.raises(Killed):
        save_state(folder, 6, content(6))
    monkeypatch.undo()
    assert_is(4, load_state(folder))
    save_state(folder, 6, content(6))
    assert_is(6, load_state(folder))


def test_what_a_kill_left_behind_is_not_a_state_and_does_not_stop_the_next_save(folder):
    """SIGKILL runs no cleanup: a half-written temporary folder stays."""
    left = folder / ".step-000006.tmp"
    left.mkdir()
    (left / "state.pt").write_bytes(b"half")
    assert_is(4, load_state(folder))
    save_state(folder, 6, content(6))
    assert_is(6, load_state(folder))
    assert not left.exists()


MESSAGE = r"cannot write .*: no space left on the disk \(.* free\).* free some space and run the same command again"


@pytest.mark.parametrize("number", [1, 3, 5])
def test_full_disk_is_a_stage_error_and_the_previous_state_stays(folder, monkeypatch, number):
    """ENOSPC at the n-th fsync: of the state file, of the manifest, of the folder after the rename of the manifest."""
    count, original = [], io.os.fsync

    def full(handle):
        count.append(handle)
        if len(count) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(handle)

    monkeypatch.setattr(io.os, "fsync", full)
    if number == 5:  # durable but for the last folder entry: the new state is complete
        with pytest.raises(StageError, match=MESSAGE):
            save_state(folder, 6, content(6))
        monkeypatch.undo()
        assert_is(6, load_state(folder))
        return
    with pytest.raises(StageError, match=MESSAGE):
        save_state(folder, 6, content(6))
    monkeypatch.undo()
    assert_is(4, load_state(folder))
    assert sorted(p.name for p in folder.iterdir()) == ["step-000002", "step-000004"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB; needs root."""
    path: Path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_disk_that_is_really_full_keeps_the_states_it_has(small_disk):
    big = {"trainer": torch.zeros(100_000), "rows": []}  # 400 kB: two fit into 1 MB, three do not
    save_state(small_disk, 1, big)
    save_state(small_disk, 2, big)
    with pytest.raises(StageError, match=MESSAGE):
        save_state(small_disk, 3, big)
    assert sorted(p.name for p in small_disk.iterdir()) == ["step-000001", "step-000002"]
    assert torch.equal(load_state(small_disk)["trainer"], big["trainer"])
    with pytest.raises(StageError, match=r"metrics\.jsonl"):
        io.write_jsonl(small_disk / "metrics.jsonl", [{"x": "y" * 1000}] * 500)
    assert not any(p.name.endswith(".tmp") for p in small_disk.iterdir())
