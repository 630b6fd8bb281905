"""Checkpoints on disk: exact round trips, and what is wrong with the weights said by name."""

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
from lightningrl.utils import files


@pytest.fixture
def folder(tmp_path):
    save_model(tiny_model(5), tmp_path / "model", eos_token_id=1, pad_token_id=2)
    return tmp_path / "model"


def edit_weights(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_round_trip_is_bit_equal(tmp_path, dtype):
    model = tiny_model(5, dtype)
    save_model(model, tmp_path, eos_token_id=1, pad_token_id=2)
    again = load_model(tmp_path, dtype=dtype)
    assert again.config == model.config and not again.training
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor) and again.state_dict()[name].dtype == dtype, name
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


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


def test_saving_twice_gives_the_same_bytes_and_the_second_replaces_the_first(folder, tmp_path):
    first = {p.name: p.read_bytes() for p in folder.iterdir()}
    save_model(tiny_model(6), folder, eos_token_id=1, pad_token_id=2)
    assert (folder / "model.safetensors").read_bytes() != first["model.safetensors"]
    save_model(tiny_model(5), folder, eos_token_id=1, pad_token_id=2)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == first


def test_weights_have_the_official_names_and_shapes(folder):
    """The official names, for V=24, H=16, N=4 heads and 2 key/value heads of 8, I=24, two layers."""
    shapes = {name: tuple(t.shape) for name, t in load_file(folder / "model.safetensors").items()}
    layer = {
        "input_layernorm": (16,), "post_attention_layernorm": (16,), "self_attn.q_proj": (32, 16),
        "self_attn.k_proj": (16, 16), "self_attn.v_proj": (16, 16), "self_attn.o_proj": (16, 32),
        "self_attn.q_norm": (8,), "self_attn.k_norm": (8,), "mlp.gate_proj": (24, 16), "mlp.up_proj": (24, 16),
        "mlp.down_proj": (16, 24),
    }  # fmt: skip
    expected = {f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in layer.items()}
    expected |= {"model.embed_tokens.weight": (24, 16), "lm_head.weight": (24, 16), "model.norm.weight": (16,)}
    assert shapes == expected


@pytest.mark.parametrize("content", ["{", "{}", "[]", "[" * 100_000])
def test_damaged_index_is_refused_by_name(folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json is damaged"):
        load_model(folder)


def test_an_index_that_is_a_folder_is_refused_by_name(folder):
    (folder / "model.safetensors.index.json").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json is damaged"):
        load_model(folder)


def test_more_layers_than_weights_are_refused_before_they_are_built(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**9}))
    with pytest.raises(CheckpointError, match=r"config\.json says 1000000000 layers, the checkpoint has 25 weights"):
        load_model(folder)


def test_weights_are_converted_to_the_dtype_asked_for(folder):
    assert load_model(folder, dtype=torch.bfloat16).lm_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(("name", "message"), [("config.json", "is not a checkpoint: config.json is missing"),
                                               ("model.safetensors", "model.safetensors is missing")])  # fmt: skip
def test_missing_file_is_named(folder, name, message):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=message.replace(".", r"\.")) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)


def flip_header(data):
    return data[:12] + bytes([data[12] ^ 0xFF]) + data[13:]


def flip_length(data):
    return bytes([data[0], data[1] ^ 0x40]) + data[2:]


@pytest.mark.parametrize(
    "damage", [flip_header, flip_length, lambda d: d[:-5], lambda d: d[:40], lambda d: b"", lambda d: d + b"more"],
    ids=["flipped byte in the header", "flipped length", "cut at the end", "cut in the header", "empty", "appended"],
)  # fmt: skip
def test_damaged_weights_are_refused_by_name(folder, damage):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged .*Restore it"):
        load_model(folder)


def test_missing_weight_is_named(folder):
    edit_weights(folder, lambda w: (w.pop("model.layers.1.mlp.up_proj.weight"), w.pop("model.norm.weight")))
    with pytest.raises(
        CheckpointError, match=r"2 weights are missing, the first is model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        load_model(folder)


def test_unexpected_weight_is_named(folder):
    edit_weights(folder, lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}))
    with pytest.raises(CheckpointError, match=r"unexpected weight model\.layers\.0\.self_attn\.q_proj\.bias"):
        load_model(folder)


def test_wrong_shape_is_named_with_both_shapes(folder):
    edit_weights(folder, lambda w: w.update({"model.norm.weight": torch.zeros(15)}))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has shape \(15,\), expected \(16,\)"):
        load_model(folder)


def test_full_disk_keeps_the_previous_weights(folder, monkeypatch):
    before = (folder / "model.safetensors").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        StageError, match=r"cannot write .*model\.safetensors: no space left .* free some space and run"
    ):
        save_model(tiny_model(6), folder, eos_token_id=1, pad_token_id=2)
    assert (folder / "model.safetensors").read_bytes() == before
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_config_on_disk_says_what_the_official_files_say(folder):
    raw = files.read_json(folder / "config.json")
    expected = {
        "architectures": ["SDARForCausalLM"], "model_type": "sdar", "attention_bias": False, "hidden_act": "silu",
        "tie_word_embeddings": False, "rope_scaling": None, "eos_token_id": 1, "pad_token_id": 2,
        "torch_dtype": "float32", "block_size": 4, "mask_token_id": 23,
    }  # fmt: skip
    assert {key: raw[key] for key in expected} == expected
