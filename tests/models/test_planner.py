"""dUltra's planner against the official one (fixtures/dultra_tiny): logits, its files, refusals, its first weights."""

import json
from pathlib import Path

import pytest
import torch
from fixtures.naive import Masked
from fixtures.tiny import tiny_config
from safetensors.torch import load_file

from lightningrl.errors import CheckpointError
from lightningrl.models.checkpoint import load_model, save_model
from lightningrl.models.config_file import read_config
from lightningrl.models.transformer import ModelConfig, Transformer

FOLDER = Path(__file__).parents[1] / "fixtures" / "dultra_tiny"
RAW = json.loads((FOLDER / "config.json").read_text())


def test_hidden_states_logits_and_planner_logits_are_the_official_ones():
    golden, model = load_file(FOLDER / "golden_planner.safetensors"), load_model(FOLDER)
    for i in range(4):
        ids_1L = golden[f"input_ids_{i}"][None]
        length = ids_1L.shape[1]
        open_1L, timestep_1 = golden[f"mask_index_{i}"][None].bool(), golden[f"timestep_{i}"]
        with torch.no_grad():
            seen = Masked(torch.ones(1, 1, length, length, dtype=torch.bool))
            hidden_1LH = model.hidden(ids_1L, torch.arange(length)[None], seen)
            torch.testing.assert_close(hidden_1LH[0], golden[f"hidden_{i}"], rtol=0, atol=2e-5)
            torch.testing.assert_close(model.logits(hidden_1LH)[0], golden[f"logits_{i}"], rtol=0, atol=2e-4)
            found = model.plan(hidden_1LH, timestep_1, open_1L)[0]
        torch.testing.assert_close(found, golden[f"planner_logits_{i}"], rtol=0, atol=5e-5)


def test_what_is_saved_has_the_official_names_and_numbers(tmp_path):
    model = load_model(FOLDER)
    save_model(model, tmp_path, eos_token_id=113, pad_token_id=113)
    ours, official = load_file(tmp_path / "model.safetensors"), load_file(FOLDER / "model.safetensors")
    assert ours.keys() == official.keys()
    assert all(torch.equal(ours[name], official[name]) for name in official)
    assert read_config(tmp_path) == model.config
    written = json.loads((tmp_path / "config.json").read_text())
    assert {key: written[key] for key in RAW if "use_" in key or "num_head" in key or key == "architectures"} == {
        key: value for key, value in RAW.items() if "use_" in key or "num_head" in key or key == "architectures"
    }


@pytest.mark.parametrize("change", [{"use_block_embeddings": True}, {"num_head_layers": 2}, {"use_adaln": False}])
def test_other_planners_are_refused_by_name(tmp_path, change):
    (tmp_path / "config.json").write_text(json.dumps(RAW | change))
    with pytest.raises(CheckpointError, match=next(iter(change))):
        read_config(tmp_path)


def test_weights_are_counted_at_the_published_size_too():
    shape = {
        "vocab_size": 126464, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "rope_theta": 5e5, "initializer_range": 0.02, "block_size": 32, "mask_token_id": 126336,
        "qk_norm": False,
    }  # fmt: skip
    plain, planned = ModelConfig(**shape), ModelConfig(**shape, has_planner=True)
    assert (plain.num_parameters, planned.num_parameters - plain.num_parameters) == (8_015_581_184, 303_083_521)
    for config in (load_model(FOLDER).config, tiny_config(has_planner=True, qkv_bias=True)):
        assert config.num_parameters == sum(weight.numel() for weight in Transformer(config).parameters())


def test_first_weights_are_drawn_by_the_generator_alone():
    one, two = (Transformer(tiny_config(has_planner=True)).planner for _ in range(2))
    assert one is not None and two is not None
    for planner in (one, two):
        planner.initialise(torch.Generator().manual_seed(5))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert (one.time_embedding.mlp[2].bias == 0).all() and (one.layer.input_layernorm.weight == 1).all()
    assert one.layer.mlp.down_proj.weight.detach().std().item() == pytest.approx((2 * 24) ** -0.5, rel=0.15)
