"""Saved states: whole or absent, verified, the newest two kept, of one config, by one or many processes."""

import dataclasses
import errno
import json
import re
import shutil
import threading
import tracemalloc
from collections.abc import Callable

import pytest
import torch
from fixtures.killing import save_and_die
from states import MESSAGE, assert_is, content, flip, full_disk_at, names, weights, writes

from lightningrl.errors import CheckpointError, StageError
from lightningrl.training import hashed_file
from lightningrl.training.chosen_file import Chosen
from lightningrl.training.state import load_state, save_state, versions
from lightningrl.training.world import World
from lightningrl.utils import files

FILE = "state-0-of-1.pt"


@pytest.fixture
def folder(tmp_path):
    save_state(tmp_path / "state", 2, content(2))
    save_state(tmp_path / "state", 4, content(4))
    return tmp_path / "state"


def test_a_state_round_trips_with_dtypes_and_bits_and_nothing_saved_is_none(tmp_path):
    assert load_state(tmp_path / "never made") is None and load_state(tmp_path) is None
    saved = {"a": torch.randn(5, dtype=torch.float64), "b": torch.randn(5).bfloat16(), "c": torch.tensor([1e-45, -0.0])}
    save_state(tmp_path, 1, saved)
    for name, tensor in load_state(tmp_path).items():
        assert tensor.dtype == saved[name].dtype and torch.equal(tensor, saved[name])
        assert torch.equal(torch.signbit(tensor), torch.signbit(saved[name]))


def test_the_newest_two_by_number_not_by_name_are_kept_and_the_newest_is_loaded(tmp_path):
    for step in (9, 1_000_000, 999_999):
        save_state(tmp_path, step, content(step))
    assert names(tmp_path) == ["step-1000000", "step-999999"]
    assert_is(1_000_000, load_state(tmp_path))


INCOMPLETE, DAMAGED = r"step-000004 is incomplete: .*{name}.*Delete", r"step-000004/{name} is damaged .*Delete"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (FILE, flip, DAMAGED),
        (FILE, lambda path: path.write_bytes(path.read_bytes()[:-7]), DAMAGED),
        (FILE, writes(b""), DAMAGED),
        (FILE, lambda path: path.unlink(), INCOMPLETE),
        ("manifest.json", lambda path: path.unlink(), INCOMPLETE),
        *(("manifest.json", writes(text), r"{name} is damaged.*Delete") for text in (b"", b"{", b"{}", b"[]", b"\xff")),
    ],
)
def test_a_damaged_state_is_an_error_that_names_the_file_and_what_to_delete(folder, name, damage, message):
    damage(folder / "step-000004" / name)
    with pytest.raises(CheckpointError, match=message.format(name=re.escape(name)) + r" .*/step-000004 to resume") as e:
        load_state(folder)
    assert str(folder) in str(e.value)


def test_no_flipped_byte_of_a_manifest_goes_unseen(tmp_path):
    """Every byte, its lowest bit."""
    save_state(tmp_path, 4, content(4), fingerprint={"run": {"kl": 0.01, "name": "a"}})
    path = tmp_path / "step-000004" / "manifest.json"
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=r"step-000004"):
            load_state(tmp_path)
    path.write_bytes(whole)
    assert_is(4, load_state(tmp_path))


def test_the_manifest_says_step_files_versions_and_fingerprint(tmp_path):
    save_state(tmp_path, 7, content(7), fingerprint={"seed": 3})
    found = files.read_json(tmp_path / "step-000007" / "manifest.json")
    path = tmp_path / "step-000007" / FILE
    assert found["files"] == {FILE: {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}}
    assert (found["step"], found["fingerprint"]) == (7, {"seed": 3})
    assert found["fingerprint_sha256"] == files.sha256_text('{"seed":3}')
    assert found["versions"] == {"lightningrl": versions()["lightningrl"], "torch": torch.__version__}


def reseal(path, **changes):
    """Change a manifest and make its own hash right again."""
    manifest = json.loads(path.read_text()) | changes
    manifest.pop("sha256")
    files.write_json(path, manifest | {"sha256": files.sha256_text(files.canonical_json(manifest))})


@pytest.mark.parametrize("name", ["../step-000002/state-0-of-1.pt", "state.pt", "state-0-of-2.pt", "/etc/passwd"])
def test_a_manifest_that_names_another_file_is_an_error_that_names_both(folder, name):
    path = folder / "step-000004" / "manifest.json"
    reseal(path, files={name: json.loads(path.read_text())["files"][FILE]})
    with pytest.raises(CheckpointError, match=rf"manifest\.json names {re.escape(name)}, expected {FILE}.*Delete"):
        load_state(folder)


def test_a_state_of_another_step_or_that_is_no_torch_file_is_an_error_and_another_torch_is_said(folder, caplog):
    path = folder / "step-000004"
    reseal(path / "manifest.json", versions={"lightningrl": "0.0.1", "torch": "1.0"})
    assert_is(4, load_state(folder))
    assert "not bit for bit the same run" in caplog.text
    (path / FILE).write_bytes(b"not torch")
    reseal(path / "manifest.json", files={FILE: {"bytes": 9, "sha256": files.sha256_file(path / FILE)}})
    with pytest.raises(CheckpointError, match=r"step-000004/state-0-of-1\.pt cannot be read"):
        load_state(folder)
    path.rename(folder / "step-000009")
    with pytest.raises(CheckpointError, match=r"step-000009/manifest\.json is of step 4, expected 9"):
        load_state(folder)


def test_deleting_the_damaged_state_as_told_goes_on_from_the_one_before(folder):
    flip(folder / "step-000004" / FILE)
    with pytest.raises(CheckpointError, match="from the state before it"):
        load_state(folder)
    shutil.rmtree(folder / "step-000004")
    assert_is(2, load_state(folder))
    flip(folder / "step-000002" / FILE)
    with pytest.raises(CheckpointError, match="from the beginning"):
        load_state(folder)


def test_what_a_kill_left_behind_is_not_a_state_and_does_not_stop_the_next_save(folder):
    """SIGKILL runs no cleanup: a half-written folder stays, or an old state between its renaming and its removal."""
    left = folder / ".step-000006.tmp"
    left.mkdir()
    (left / FILE).write_bytes(b"half")
    (folder / "step-000002").rename(folder / ".step-000002.tmp")
    assert_is(4, load_state(folder))
    save_state(folder, 6, content(6))
    assert_is(6, load_state(folder))
    assert names(folder) == ["step-000004", "step-000006"]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_full_disk_is_a_stage_error_and_the_previous_state_stays(folder, monkeypatch, number):
    """ENOSPC at the n-th fsync: of the state file, the manifest, the temporary folder, the folder after the rename.
    After the last the new state is complete, durable but for its folder entry."""
    full_disk_at(monkeypatch, number)
    with pytest.raises(StageError, match=MESSAGE):
        save_state(folder, 6, content(6))
    monkeypatch.undo()
    assert_is(6 if number == 4 else 4, load_state(folder))
    assert number == 4 or names(folder) == ["step-000002", "step-000004"]


def test_a_disk_that_fills_up_inside_a_tensor_is_said_and_leaves_nothing(folder, monkeypatch):
    """A write of torch's own that fails: its C++ writer would turn the OSError into something else."""

    class Full(hashed_file.Sink):
        written = 0

        def write(self, data):
            Full.written += len(data)
            if Full.written > 100_000:
                self.error = self.error or OSError(errno.ENOSPC, "No space left on device")
            return len(data)

    monkeypatch.setattr(hashed_file, "Sink", Full)
    with pytest.raises(StageError, match=MESSAGE):
        save_state(folder, 6, {"trainer": torch.zeros(100_000), "rows": []})
    assert_is(4, load_state(folder))
    assert names(folder) == ["step-000002", "step-000004"]


def test_saving_makes_no_second_copy_of_the_state(tmp_path):
    """40 MB of tensors; what Python allocates beside them is bounded by a few MB. (Before: the whole of it.)"""
    big = {"trainer": [torch.zeros(2_500_000) for _ in range(4)], "rows": []}
    tracemalloc.start()
    try:
        save_state(tmp_path, 1, big)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


SAVED = {"run": {"steps": 4, "kl": 0.01, "decay": False, "save_every": 2, "role": "after"}, "seed": 0, "names": ["a"]}


@pytest.mark.parametrize(
    ("run", "rest", "growing", "changes"),
    [
        ({"kl": 0.1, "gamma": [1, 2]}, {"seed": 1}, [],
         "run.gamma was nothing, is [1,2]; run.kl was 0.01, is 0.1; seed was 0, is 1."),
        ({}, {}, [], None),
        ({"save_every": 5, "role": "rival"}, {"resources": {"max_minutes": 3}, "names": ("a",)}, [], None),
        # A decaying rate is a function of `steps`: the loop cannot know, so its caller must.
        ({"steps": 8}, {}, ["run.steps"], None),
        ({"steps": 8}, {}, [], "run.steps was 4, is 8."),
        ({"steps": 3}, {}, ["run.steps"], "run.steps was 4, is 3."),
        ({"steps": "8"}, {}, ["run.steps"], 'run.steps was 4, is "8".'),
        ({"steps": None}, {}, ["run.steps"], "run.steps was 4, is null."),
    ],
)  # fmt: skip
def test_another_config_is_refused_naming_every_changed_key_with_both_values(tmp_path, run, rest, growing, changes):
    """Keys that change no number may differ; a run may grow but not shrink, and only where its caller says so."""
    save_state(tmp_path, 4, content(4), fingerprint=SAVED)
    now = {**SAVED, "run": SAVED["run"] | run, **rest}
    assert_is(4, load_state(tmp_path))
    if changes is None:
        assert_is(4, load_state(tmp_path, fingerprint=now, growing=growing))
        return
    message = re.escape(f"step-000004 is of another config: {changes} Go on") + f".* another folder than {tmp_path}"
    with pytest.raises(CheckpointError, match=message):
        load_state(tmp_path, fingerprint=now, growing=growing)


@dataclasses.dataclass(frozen=True)
class Rank(World):
    """A process of a world of threads."""

    wait: Callable = int

    def barrier(self):
        self.wait()


def save_as(size, folder, step, failing=None):
    """As many threads as ranks, each with its own part; the errors by rank."""
    barrier, errors = threading.Barrier(size), {}

    def part(rank):
        try:
            if rank == failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            save_state(folder, step, content(step + rank), world=Rank(rank, size, barrier.wait))
        except Exception as error:
            errors[rank] = error
            barrier.abort()  # what a launcher does to the others

    threads = [threading.Thread(target=part, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_many_ranks_write_a_file_each_under_one_manifest(tmp_path):
    """One that fails leaves no state, but the one before; a part that is short is seen by all."""
    assert save_as(3, tmp_path, 10) == {}
    folder = tmp_path / "step-000010"
    assert names(folder) == ["manifest.json", *(f"state-{r}-of-3.pt" for r in range(3))]
    assert save_as(3, tmp_path, 20, failing=1).keys() == {0, 1, 2} and names(tmp_path) == ["step-000010"]
    for rank in range(3):
        assert_is(10 + rank, load_state(tmp_path, world=World(rank, 3)))
    with pytest.raises(CheckpointError, match=r"names state-0-of-3\.pt, .*expected state-0-of-1\.pt: .*as many proc"):
        load_state(tmp_path)
    path = folder / "state-1-of-3.pt"
    path.write_bytes(path.read_bytes()[:-1])
    for rank in range(3):
        with pytest.raises(CheckpointError, match=r"state-1-of-3\.pt is damaged"):
            load_state(tmp_path, world=World(rank, 3))


def test_a_real_sigkill_at_every_fsync_and_rename_leaves_a_whole_state(folder):
    """The child dies just before the n-th of them: the old state is there until the rename, then the new one is."""
    found = []
    for at in range(1, 20):
        exitcode = save_and_die(folder, 6 + at, content(6 + at), at)
        found.append(int(load_state(folder)["trainer"]["weights"][0]))
        if exitcode == 0:
            break
        assert exitcode == -9
    assert exitcode == 0 and found[-1] == 6 + at
    assert found[:4] == [4] * 4, "state file, manifest, its rename, temporary folder: the old state is the newest"
    assert [step > 4 for step in found] == sorted(step > 4 for step in found)
    assert len(list(folder.iterdir())) == 2, "the next whole save removes what the killed ones left"


def test_a_state_of_the_format_before_is_refused_with_what_to_do(folder):
    """Its manifest held its own hash, and named no chosen weights: these were in every state."""
    path = folder / "step-000004" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"], manifest["chosen"]
    files.write_json(path, manifest | {"sha256": files.sha256_text(files.canonical_json(manifest))})
    with pytest.raises(CheckpointError, match=r"another version of lightningrl.*lacks chosen.*Finish the run with"):
        load_state(folder)


def test_no_process_reads_a_file_again_to_hash_it(tmp_path, monkeypatch):
    """The hash in the manifest is that of the file, and nobody called for it."""
    with monkeypatch.context() as patched:
        patched.setattr(files, "sha256_file", None)
        save_state(tmp_path, 3, content(3), chosen=Chosen(2, weights(2)))
    manifest = files.read_json(tmp_path / "step-000003" / "manifest.json")
    assert manifest["files"][FILE]["sha256"] == files.sha256_file(tmp_path / "step-000003" / FILE)
