"""Chosen weights: one file beside the states, as whole as they are, kept as long as a state names it."""

import shutil

import pytest
import torch
from states import HEAD, MESSAGE, assert_is, content, flip, full_disk_at, weights, writes

from lightningrl.errors import CheckpointError, StageError
from lightningrl.training.chosen_file import Chosen
from lightningrl.training.state import load_state, save_state
from lightningrl.utils import files


def chosen_files(folder):
    return sorted(path.name for path in folder.glob("*chosen*"))


def test_chosen_weights_are_written_once_beside_the_states_and_stay_as_long_as_a_state_names_them(tmp_path):
    """Chosen after step 2, then after step 5: the file of step 2 goes with the last state that names it."""
    inodes = set()
    for step in (3, 4):
        save_state(tmp_path, step, content(step), chosen=Chosen(2, weights(2)))
        inodes.add((tmp_path / "chosen-000002.pt").stat().st_ino)
    assert len(inodes) == 1 and torch.equal(load_state(tmp_path)["chosen"][HEAD], weights(2)[HEAD])
    record = files.read_json(tmp_path / "step-000004" / "manifest.json")["chosen"]
    path = tmp_path / "chosen-000002.pt"
    assert record == {"file": path.name, "bytes": path.stat().st_size, "sha256": files.sha256_file(path)}
    found = []
    for step in (5, 6):
        save_state(tmp_path, step, content(step), chosen=Chosen(5, weights(5)))
        found.append(chosen_files(tmp_path))
    assert found == [["chosen-000002.pt", "chosen-000005.pt"], ["chosen-000005.pt"]]
    assert load_state(tmp_path)["chosen"]["lm_head.weight"].dtype == torch.bfloat16


def test_chosen_weights_that_no_state_names_are_written_anew_and_what_a_kill_left_is_removed(tmp_path):
    """A killed run may leave a file of a step that is trained again, on a GPU to other bits."""
    save_state(tmp_path, 1, content(1))
    (tmp_path / "chosen-000002.pt").write_bytes(b"of a killed run")
    (tmp_path / ".chosen-000009.pt.tmp").write_bytes(b"half")
    save_state(tmp_path, 2, content(2), chosen=Chosen(2, weights(7)))
    assert torch.equal(load_state(tmp_path)["chosen"]["lm_head.weight"], weights(7)["lm_head.weight"])
    assert chosen_files(tmp_path) == ["chosen-000002.pt"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [(flip, r"chosen-000002\.pt is damaged \(sha256"), (lambda path: path.unlink(), r"chosen-000002\.pt, .*missing"),
     (writes(b"short"), r"chosen-000002\.pt is damaged \(5 bytes")],
)  # fmt: skip
def test_damaged_chosen_weights_are_an_error_that_names_the_file_and_what_to_delete(tmp_path, damage, message):
    save_state(tmp_path, 1, content(1))
    save_state(tmp_path, 2, content(2), chosen=Chosen(2, weights(2)))
    damage(tmp_path / "chosen-000002.pt")
    with pytest.raises(CheckpointError, match=message + r".*Delete .*step-000002 to resume from the state before it"):
        load_state(tmp_path)
    shutil.rmtree(tmp_path / "step-000002")
    assert_is(1, load_state(tmp_path))


@pytest.mark.parametrize("number", [2, 3])
def test_a_disk_that_is_full_at_the_chosen_weights_leaves_the_state_before_with_its(tmp_path, monkeypatch, number):
    """ENOSPC at the fsync of their file, and of the folder after its rename: the new state names them, and is not."""
    save_state(tmp_path, 1, content(1), chosen=Chosen(1, weights(1)))
    full_disk_at(monkeypatch, number)
    with pytest.raises(StageError, match=MESSAGE):
        save_state(tmp_path, 2, content(2), chosen=Chosen(2, weights(2)))
    monkeypatch.undo()
    assert_is(1, load_state(tmp_path))
    assert torch.equal(load_state(tmp_path)["chosen"]["lm_head.weight"], weights(1)["lm_head.weight"])
    save_state(tmp_path, 2, content(2), chosen=Chosen(2, weights(2)))
    assert torch.equal(load_state(tmp_path)["chosen"]["lm_head.weight"], weights(2)["lm_head.weight"])
