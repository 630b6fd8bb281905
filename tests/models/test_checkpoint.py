"""Checkpoints on disk, in one file or the hub's shards: exact round trips, whole or refused, what is wrong named."""

import errno
import json
import subprocess
import sys

import pytest
import torch
from fixtures.limits import HANG_S
from fixtures.tiny import tiny_model
from safetensors.torch import load_file, save_file

from lightningrl.errors import CheckpointError, StageError
from lightningrl.models.checkpoint import load_model, save_model
from lightningrl.utils import files as io

WHOLE, INDEX, LIMIT, ONE_FILE = "model.safetensors", "model.safetensors.index.json", 8000, 10**9
FIRST, SECOND = "model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


def save(model, folder, max_shard_bytes=LIMIT):
    save_model(model, folder, eos_token_id=1, pad_token_id=2, max_shard_bytes=max_shard_bytes)


def same(model, other):
    theirs = other.state_dict()
    pairs = [(tensor, theirs[name]) for name, tensor in model.state_dict().items()]
    return len(pairs) == len(theirs) and all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    """Weights in one file."""
    save(tiny_model(5), tmp_path / "model", ONE_FILE)
    return tmp_path / "model"


@pytest.fixture
def shards(tmp_path):
    save(tiny_model(5), tmp_path / "shards")
    return tmp_path / "shards"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("limit", [1, LIMIT, ONE_FILE])
def test_round_trip_is_bit_equal(tmp_path, dtype, limit):
    model = tiny_model(5, dtype)
    save(model, tmp_path, limit)
    for again in (load_model(tmp_path, dtype=dtype), load_model(tmp_path, dtype=None)):
        assert same(model, again) and again.config == model.config and not again.training
    assert (names(tmp_path) == {"config.json", WHOLE}) == (limit == ONE_FILE)
    assert load_model(tmp_path, dtype=torch.bfloat16).lm_head.weight.dtype == torch.bfloat16


def test_loading_does_not_import_the_compiler(folder):
    """Drawing first weights and torch.use_deterministic_algorithms both do: more than a second of every start."""
    code = f"""
import sys
from pathlib import Path
from lightningrl.models.checkpoint import load_model
from lightningrl.pipeline.stages.loading import use_threads
use_threads(1)
load_model(Path({str(folder)!r}))
import torch
assert torch.are_deterministic_algorithms_enabled()
print([name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_weights_have_the_official_names_and_shapes_and_config_says_what_the_official_files_say(folder):
    """The official names, for V=24, H=16, N=4 heads and 2 key/value heads of 8, I=24, two layers."""
    layer = {
        "input_layernorm": (16,), "post_attention_layernorm": (16,), "self_attn.q_proj": (32, 16),
        "self_attn.k_proj": (16, 16), "self_attn.v_proj": (16, 16), "self_attn.o_proj": (16, 32),
        "self_attn.q_norm": (8,), "self_attn.k_norm": (8,), "mlp.gate_proj": (24, 16), "mlp.up_proj": (24, 16),
        "mlp.down_proj": (16, 24),
    }  # fmt: skip
    expected = {f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in layer.items()}
    expected |= {EMBEDDING: (24, 16), "lm_head.weight": (24, 16), NORM: (16,)}
    assert {name: tuple(t.shape) for name, t in load_file(folder / WHOLE).items()} == expected
    config = {
        "architectures": ["SDARForCausalLM"], "model_type": "sdar", "attention_bias": False, "hidden_act": "silu",
        "tie_word_embeddings": False, "rope_scaling": None, "eos_token_id": 1, "pad_token_id": 2,
        "torch_dtype": "float32", "block_size": 4, "mask_token_id": 23,
    }  # fmt: skip
    assert config.items() <= io.read_json(folder / "config.json").items()


def test_shards_are_named_bounded_and_indexed_as_on_the_hub(shards):
    weights, index = tiny_model(5).state_dict(), io.read_json(shards / INDEX)
    files = {f"model-{number:05d}-of-00004.safetensors" for number in (1, 2, 3, 4)}
    assert names(shards) == files | {INDEX, "config.json"}
    assert index["metadata"]["total_size"] == sum(w.numel() * 4 for w in weights.values())
    assert index["weight_map"].keys() == weights.keys()
    for file in files:
        shard = load_file(shards / file)
        assert {name for name, place in index["weight_map"].items() if place == file} == shard.keys()
        assert sum(w.nbytes for w in shard.values()) <= LIMIT
        assert all(torch.equal(tensor, weights[name]) for name, tensor in shard.items())


@pytest.mark.parametrize(("before", "after"), [(3000, 8000), (8000, 3000), (8000, ONE_FILE), (ONE_FILE, 8000)])
def test_a_save_leaves_nothing_of_an_earlier_one_and_gives_the_bytes_of_a_first_one(tmp_path, before, after):
    save(tiny_model(5), tmp_path / "used", before)
    save(tiny_model(6), tmp_path / "used", after)
    save(tiny_model(6), tmp_path / "fresh", after)
    used, fresh = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("used", "fresh"))
    assert used == fresh


class Killed(BaseException):
    pass


@pytest.mark.parametrize("before", [LIMIT, ONE_FILE])
@pytest.mark.parametrize("after", [LIMIT, ONE_FILE])
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
        folder, finished = tmp_path / str(steps), True
        save(old, folder, before)
        with monkeypatch.context() as patch:
            patch.setattr(io.os, "replace", stepped(io.os.replace))
            patch.setattr(type(folder), "unlink", stepped(type(folder).unlink))
            steps_left = steps
            try:
                save(new, folder, after)
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
    assert ("refused" in outcomes) == (before == after == LIMIT), "only shards over shards have to pass through it"


def test_a_disk_that_is_full_or_a_folder_that_cannot_be_written_keeps_the_previous_weights(folder, shards, monkeypatch):
    def failing(error):
        def fail(*_, **__):
            raise error

        return fail

    with monkeypatch.context() as patch:
        patch.setattr(io.os, "fsync", failing(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(StageError, match=r"cannot write .*model\.safetensors: no space left .* free some space"):
            save(tiny_model(6), folder, ONE_FILE)
    with monkeypatch.context() as patch:
        patch.setattr(type(shards), "unlink", failing(PermissionError(13, "Permission denied")))
        with pytest.raises(StageError, match=r"cannot write .*index\.json: Permission denied"):
            save(tiny_model(6), shards)
    assert same(load_model(folder), tiny_model(5)) and same(load_model(shards), tiny_model(5))
    assert names(folder) == {"config.json", WHOLE}


def test_index_decides_where_other_weights_lie_beside_it(shards):
    save(tiny_model(6), shards.parent / "other", ONE_FILE)
    (shards.parent / "other" / WHOLE).rename(shards / WHOLE)
    assert same(load_model(shards), tiny_model(5))


def edit(file, change):
    """Changes the weights of a file, or what the index says."""

    def damage(folder):
        path = folder / file
        if file == INDEX:
            index = json.loads(path.read_text())
            change(index["weight_map"])
            path.write_text(json.dumps(index))
        else:
            weights = load_file(path)
            change(weights)
            save_file(weights, path, {"format": "pt"})

    return damage


def flipped(at, mask):
    return lambda data: data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def changed(file, change):
    return lambda folder: (folder / file).write_bytes(change((folder / file).read_bytes()))


def more_layers(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**9}))


BIAS, UP = "model.layers.0.self_attn.q_proj.bias", "model.layers.1.mlp.up_proj.weight"
DAMAGED = {
    "no config": (lambda folder: (folder / "config.json").unlink(), r"is not a checkpoint: config\.json is missing"),
    "no weights": (lambda folder: (folder / WHOLE).unlink(), r"model\.safetensors is missing"),
    "a flipped byte in the header": (changed(WHOLE, flipped(12, 0xFF)), r"model\.safetensors is damaged .*Fix it"),
    "a flipped length": (changed(WHOLE, flipped(1, 0x40)), r"model\.safetensors is damaged"),
    "cut at the end": (changed(WHOLE, lambda data: data[:-5]), r"model\.safetensors is damaged"),
    "cut in the header": (changed(WHOLE, lambda data: data[:40]), r"model\.safetensors is damaged"),
    "empty": (changed(WHOLE, lambda data: b""), r"model\.safetensors is damaged"),
    "appended": (changed(WHOLE, lambda data: data + b"more"), r"model\.safetensors is damaged"),
    "two weights too few": (
        edit(WHOLE, lambda w: (w.pop(UP), w.pop(NORM))), r"2 weights are missing, the first is .*\.1\.mlp\.up_proj",
    ),
    "a weight too many": (edit(WHOLE, lambda w: w.update({BIAS: torch.zeros(1)})), r"unexpected weight .*q_proj\.bias"),
    "another shape": (
        edit(WHOLE, lambda w: w.update({NORM: torch.zeros(15)})), r"norm\.weight has shape \(15,\), expected \(16,\)",
    ),
    "more layers than weights, refused before they are built": (
        more_layers, r"config\.json says 1000000000 layers, the checkpoint has 25 weights",
    ),
    "an index that is a folder": (lambda folder: (folder / INDEX).mkdir(), r"index\.json is damaged"),
    "an index that is no JSON": (lambda folder: (folder / INDEX).write_text("{"), r"index\.json is damaged"),
    "an index that is a list": (lambda folder: (folder / INDEX).write_text("[]"), r"index\.json is damaged"),
    "a bottomless index": (lambda folder: (folder / INDEX).write_text("[" * 100_000), r"index\.json is damaged"),
}  # fmt: skip
DAMAGED_SHARDS = {
    "a shard is not there": (
        lambda folder: (folder / SECOND).unlink(),
        r"model-00002-of-00004\.safetensors is missing, which model\.safetensors\.index\.json names",
    ),
    "a shard is cut": (changed(SECOND, lambda data: data[:-7]), r"00002-of-00004\.safetensors is damaged .*Fix it"),
    "a shard lacks a weight": (
        edit(FIRST, lambda shard: shard.pop(EMBEDDING)),
        r"00001-of-00004\.safetensors lacks model\.embed_tokens\.weight, which model\.safetensors\.index\.json says",
    ),
    "index names the wrong shard": (
        edit(INDEX, lambda names: names.update({EMBEDDING: SECOND})),
        r"00002-of-00004\.safetensors lacks model\.embed_tokens\.weight",
    ),
    "a weight is there twice": (
        edit(SECOND, lambda shard: shard.update({EMBEDDING: torch.zeros(24, 16)})),
        r"model\.embed_tokens\.weight is in model-00001-of-00004\.safetensors and in .*00002-of-00004",
    ),
    "a weight too many": (
        edit(SECOND, lambda shard: shard.update({"value_head.weight": torch.zeros(1)})),
        r"00002-of-00004\.safetensors: unexpected weight value_head\.weight",
    ),
    "index outside the folder": (
        edit(INDEX, lambda names: names.update({NORM: "../elsewhere.safetensors"})),
        r"index\.json is damaged: .*must name files of this folder",
    ),
    "empty index": (edit(INDEX, dict.clear), r"index\.json is damaged"),
    "index of numbers": (edit(INDEX, lambda names: names.update({NORM: 3})), r"index\.json is damaged"),
}
for dtype, name in {torch.int64: "I64", torch.uint8: "U8", torch.float8_e4m3fn: "F8_E4M3"}.items():
    DAMAGED_SHARDS[f"weights of {name}"] = (
        edit(FIRST, lambda shard, dtype=dtype: shard.update({EMBEDDING: torch.ones(24, 16).to(dtype)})),
        rf"embed_tokens\.weight is {name}, expected one of BF16, F16, F32, F64",
    )


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_refused_by_name(folder, case):
    damage, message = DAMAGED[case]
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("case", DAMAGED_SHARDS)
def test_damage_of_shards_is_refused_by_name(shards, case):
    damage, message = DAMAGED_SHARDS[case]
    damage(shards)
    with pytest.raises(CheckpointError, match=message):
        load_model(shards)
