"""Official SDAR checkpoints: published sizes on the meta device, and a small one laid out as on the hub."""

import json
import weakref
from contextlib import contextmanager

import pytest
import torch
from fixtures.official import MASK, SIZES, official_config, official_shapes, write_official_config
from safetensors.torch import save_file

from lightningrl.errors import CheckpointError
from lightningrl.models import checkpoint
from lightningrl.models.checkpoint import empty_model, load_model
from lightningrl.models.config_file import read_config
from lightningrl.models.transformer import ModelConfig

SMALL = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
GIVEN = {"block_size": 32, "mask_token_id": 33}
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture
def official(tmp_path):
    """(folder, weights, the shard of each): the official layout, two bfloat16 shards, at a small size."""
    write_official_config(tmp_path, **SMALL)
    generator = torch.Generator().manual_seed(0)
    shapes = official_shapes(official_config(**SMALL))
    weights = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}
    place = {name: SHARDS[number > len(weights) // 2] for number, name in enumerate(sorted(weights))}
    for shard in SHARDS:
        save_file({n: w for n, w in weights.items() if place[n] == shard}, tmp_path / shard, {"format": "pt"})
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": place}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path, weights, place


@pytest.mark.parametrize(
    ("size", "parameters", "bf16_bytes", "files"),
    [
        ("1.7B", 2_031_739_904, 4_063_479_808, 1),
        ("4B", 4_411_424_256, 8_822_848_512, 2),
        ("8B", 8_190_735_360, 16_381_470_720, 4),
    ],
)
def test_published_sizes_have_the_published_config_and_weights(tmp_path, size, parameters, bf16_bytes, files):
    """Counts, bytes and numbers of files as published; 8,822,848,512 is the `total_size` of the official 4B index. The
    copies that the SDAR and DiRL repositories train from say block size and mask token in the file."""
    expected = {
        "vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "initializer_range": 0.02, "mask_token_id": 151669, **SIZES[size],
    }  # fmt: skip
    folder = write_official_config(tmp_path, size)
    for block_size in (4, 32, 64):
        config = read_config(folder, block_size=block_size, mask_token_id=MASK)
        assert config == ModelConfig(block_size=block_size, **expected)
    assert read_config(write_official_config(tmp_path, size, block_size=64, mask_token_id=MASK)) == config
    weights = empty_model(config).to(torch.bfloat16).state_dict()
    assert {name: tuple(t.shape) for name, t in weights.items()} == official_shapes(official_config(size))
    assert sum(t.numel() for t in weights.values()) == config.num_parameters == parameters
    assert sum(t.nbytes for t in weights.values()) == bf16_bytes
    assert len(checkpoint.into_files(weights).filename_to_tensors) == files


def test_stored_weights_stay_as_they_are_unless_a_dtype_is_asked_for(official):
    folder, weights, place = official
    for dtype in (None, torch.bfloat16, torch.float32, torch.float64):
        model = load_model(folder, dtype=dtype, **GIVEN)
        assert model.config.block_size == 32
        for name, tensor in model.state_dict().items():
            assert tensor.dtype == (dtype or torch.bfloat16) and torch.equal(tensor, weights[name].to(tensor.dtype))
    save_file({n: w.float() for n, w in weights.items() if place[n] == SHARDS[1]}, folder / SHARDS[1], {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"several dtypes \(torch\.bfloat16, torch\.float32\); say which"):
        load_model(folder, dtype=None, **GIVEN)
    assert load_model(folder, **GIVEN).lm_head.weight.dtype == torch.float32


class Spy:
    """Stands in for an opened safetensors file; counts the tensors read and those alive at once."""

    read, alive, most_alive = 0, 0, 0

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def get_tensor(self, name):
        tensor = self.file.get_tensor(name).clone()
        Spy.read, Spy.alive = Spy.read + 1, Spy.alive + 1
        Spy.most_alive = max(Spy.most_alive, Spy.alive)
        weakref.finalize(tensor, self.gone)
        return tensor

    @staticmethod
    def gone():
        Spy.alive -= 1


def test_a_checkpoint_that_does_not_fit_is_refused_unread_and_one_that_does_is_read_once_one_by_one(
    official, monkeypatch
):
    (folder, weights, _), opened = official, checkpoint._opened

    @contextmanager
    def spied(*arguments):
        with opened(*arguments) as file:
            yield Spy(file)

    monkeypatch.setattr(checkpoint, "_opened", spied)
    write_official_config(folder, **(SMALL | {"intermediate_size": 25}))
    with pytest.raises(CheckpointError, match=r"has shape \(16, 24\), expected \(16, 25\) by config"):
        load_model(folder, **GIVEN)
    assert Spy.read == 0
    write_official_config(folder, **SMALL)
    load_model(folder, dtype=torch.float32, **GIVEN)
    assert Spy.read == len(weights) and Spy.alive == 0
    assert Spy.most_alive <= 2, "converted one by one, not after all are read"


def test_nothing_is_downloaded(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"JetLM/SDAR-4B-Chat-b32 is missing.*hub, download it first"):
        load_model("JetLM/SDAR-4B-Chat-b32")
