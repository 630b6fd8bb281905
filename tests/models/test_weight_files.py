"""Shards and their index: the hub's layout, whole or refused, and what is wrong said by name."""

import json

import pytest
import torch
from fixtures.tiny import tiny_model
from safetensors.torch import load_file, save_file

from lightningrl.errors import CheckpointError, StageError
from lightningrl.models.checkpoint import load_model, save_model
from lightningrl.utils import files as io

INDEX, LIMIT = "model.safetensors.index.json", 8000
FIRST, SECOND = "model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"


def save(model, folder, max_shard_bytes=LIMIT):
    save_model(model, folder, eos_token_id=1, pad_token_id=2, max_shard_bytes=max_shard_bytes)


def same(model, other):
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    save(tiny_model(5), tmp_path / "model")
    return tmp_path / "model"


def test_shards_are_named_bounded_and_indexed_as_on_the_hub(folder):
    weights = tiny_model(5).state_dict()
    index = io.read_json(folder / INDEX)
    files = {f"model-{number:05d}-of-00004.safetensors" for number in (1, 2, 3, 4)}
    assert names(folder) == files | {INDEX, "config.json"}
    assert index["metadata"]["total_size"] == sum(w.numel() * 4 for w in weights.values())
    assert index["weight_map"].keys() == weights.keys()
    for file in files:
        shard = load_file(folder / file)
        assert {name for name, place in index["weight_map"].items() if place == file} == shard.keys()
        assert sum(w.nbytes for w in shard.values()) <= LIMIT
        assert all(torch.equal(tensor, weights[name]) for name, tensor in shard.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("limit", [1, 8000])
def test_a_sharded_round_trip_is_bit_equal(tmp_path, dtype, limit):
    model = tiny_model(5, dtype)
    save(model, tmp_path, limit)
    assert len(names(tmp_path)) > 3
    again = load_model(tmp_path, dtype=None)
    assert same(model, again) and again.lm_head.weight.dtype == dtype and again.config == model.config


@pytest.mark.parametrize(("before", "after"), [(3000, 8000), (8000, 3000), (8000, 10**9), (10**9, 8000)])
def test_a_save_leaves_nothing_of_an_earlier_one(tmp_path, before, after):
    save(tiny_model(5), tmp_path / "used", before)
    save(tiny_model(6), tmp_path / "used", after)
    save(tiny_model(6), tmp_path / "fresh", after)
    assert names(tmp_path / "used") == names(tmp_path / "fresh")
    assert same(load_model(tmp_path / "used"), tiny_model(6))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("before", [8000, 10**9])
@pytest.mark.parametrize("after", [8000, 10**9])
def test_a_save_killed_anywhere_leaves_old_weights_or_new_or_is_refused(tmp_path, monkeypatch, before, after):
    """Killed after each number of writes and removals in turn: never weights of both saves."""
    old, new, outcomes = tiny_model(5), tiny_model(6), set()
    steps_left = 0

    def stepped(function):
        def step(*arguments, **options):
            nonlocal steps_left
            if steps_left == 0:
                raise Killed
            steps_left -= 1
            return function(*arguments, **options)

        return step

    for steps in range(20):
        folder = tmp_path / str(steps)
        save(old, folder, before)
        with monkeypatch.context() as patch:
            patch.setattr(io.os, "replace", stepped(io.os.replace))
            patch.setattr(type(folder), "unlink", stepped(type(folder).unlink))
            steps_left = steps
            try:
                save(new, folder, after)
                finished = True
            except Killed:
                finished = False
        try:
            found = load_model(folder)
            assert same(found, old) or same(found, new), steps
            outcomes.add("new" if same(found, new) else "old")
        except CheckpointError as error:
            assert "is missing" in str(error)
            outcomes.add("refused")
        if finished:
            assert same(load_model(folder), new)
            break
    assert finished and {"old", "new"} <= outcomes
    assert ("refused" in outcomes) == (before == after == 8000), "only shards over shards have to pass through it"


def test_index_decides_where_other_weights_lie_beside_it(folder):
    save(tiny_model(6), folder.parent / "other", 10**9)
    (folder.parent / "other" / "model.safetensors").rename(folder / "model.safetensors")
    assert same(load_model(folder), tiny_model(5))


def edit_index(folder, edit):
    index = json.loads((folder / INDEX).read_text())
    edit(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def edit_shard(folder, file, edit):
    shard = load_file(folder / file)
    edit(shard)
    save_file(shard, folder / file, {"format": "pt"})


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


NORM = "model.norm.weight"
WRONG = {
    "a shard is not there": (
        lambda folder: (folder / SECOND).unlink(),
        r"model-00002-of-00004\.safetensors is missing, which model\.safetensors\.index\.json names",
    ),
    "a shard is cut": (lambda folder: truncate(folder / SECOND), r"00002-of-00004\.safetensors is damaged .*Restore"),
    "a shard lacks a weight": (
        lambda folder: edit_shard(folder, FIRST, lambda shard: shard.pop("model.embed_tokens.weight")),
        r"00001-of-00004\.safetensors lacks model\.embed_tokens\.weight, which model\.safetensors\.index\.json says",
    ),
    "index names the wrong shard": (
        lambda folder: edit_index(folder, lambda names: names.update({"model.embed_tokens.weight": SECOND})),
        r"00002-of-00004\.safetensors lacks model\.embed_tokens\.weight",
    ),
    "a weight is there twice": (
        lambda folder: edit_shard(
            folder, SECOND, lambda shard: shard.update({"model.embed_tokens.weight": torch.zeros(24, 16)})
        ),
        r"model\.embed_tokens\.weight is in model-00001-of-00004\.safetensors and in .*00002-of-00004",
    ),
    "a weight too many": (
        lambda folder: edit_shard(folder, SECOND, lambda shard: shard.update({"value_head.weight": torch.zeros(1)})),
        r"00002-of-00004\.safetensors: unexpected weight value_head\.weight",
    ),
    "index outside the folder": (
        lambda folder: edit_index(folder, lambda names: names.update({NORM: "../elsewhere.safetensors"})),
        r"index\.json is damaged: .*must name files of this folder",
    ),
    "empty index": (lambda folder: edit_index(folder, dict.clear), r"index\.json is damaged"),
    "index of numbers": (
        lambda folder: edit_index(folder, lambda names: names.update({NORM: 3})), r"index\.json is damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_damage_is_refused_by_name(folder, case):
    damage, message = WRONG[case]
    load_model(folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.int64, "I64"), (torch.uint8, "U8"), (torch.bool, "BOOL"), (torch.float8_e4m3fn, "F8_E4M3"),
     (torch.complex64, "C64")],
)  # fmt: skip
def test_weights_that_are_no_plain_floats_are_refused(folder, dtype, name):
    edit_shard(folder, FIRST, lambda shard: shard.update({"model.embed_tokens.weight": torch.ones(24, 16).to(dtype)}))
    with pytest.raises(CheckpointError, match=rf"embed_tokens\.weight is {name}, expected one of BF16, F16, F32, F64"):
        load_model(folder)


def test_a_folder_that_cannot_be_written_is_said(folder, monkeypatch):
    def refuse(self, missing_ok=False):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(folder), "unlink", refuse)
    with pytest.raises(StageError, match=r"cannot write .*index\.json: Permission denied"):
        save(tiny_model(6), folder)
    monkeypatch.undo()
    assert same(load_model(folder), tiny_model(5))
