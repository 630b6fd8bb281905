"""The control of rounding: noise of its size, and rounding of inputs with nothing done against outliers."""

from __future__ import annotations

import pytest
import torch
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.tiny import tiny_model

from lightningrl.errors import ConfigError
from lightningrl.models.checkpoint import load_model
from lightningrl.quantization.open import open_model
from lightningrl.quantization.protocol import Calibration, make_quantizer
from lightningrl.quantization.registry import QUANTIZERS
from lightningrl.quantization.stored import save_quantized

UP = "model.layers.0.mlp.up_proj.weight"


def changed(name, options, seed=0):
    return make_quantizer(QUANTIZERS[name], options).quantize(tiny_model(0), Calibration(seed=seed))


@torch.no_grad()
def test_noise_has_in_each_group_the_norm_of_the_rounding_error_and_nothing_else_of_it():
    options, plain = {"bits": 3, "group": 8, "symmetric": False}, tiny_model(0)
    rounded, noisy = changed("rtn", options), changed("noise", options)
    for name, weight in plain.state_dict().items():
        error, noise = rounded.state_dict()[name] - weight, noisy.state_dict()[name] - weight
        if not name.endswith("_proj.weight"):
            assert not noise.any(), name
            continue
        by_group = [each.reshape(len(weight), -1, 8) for each in (error, noise)]
        assert torch.allclose(*(each.norm(dim=-1) for each in by_group), rtol=1e-3, atol=1e-7), name
        cosine = torch.nn.functional.cosine_similarity(error.flatten(), noise.flatten(), dim=0)
        assert abs(cosine) < 5 / error.numel() ** 0.5, name


def test_a_draw_is_of_its_seed_its_number_and_the_layer():
    drawn = [changed("noise", {"bits": 3, "draw": draw}, seed).state_dict()[UP] for seed, draw in
             ((0, 0), (0, 0), (1, 0), (0, 1))]  # fmt: skip
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[3])
    with pytest.raises(ConfigError, match=r"noise: .*group is 7"):
        changed("noise", {"group": 7})


def test_noise_is_saved_as_plain_weights_with_what_it_changed(tmp_path):
    plain, folder = save_byte_checkpoint(tmp_path / "plain"), tmp_path / "noise"
    model = make_quantizer(QUANTIZERS["noise"], {"bits": 4}).quantize(load_model(plain), Calibration())
    folder.mkdir()
    (folder / "config.json").write_bytes((plain / "config.json").read_bytes())
    found = save_quantized(model, folder, {})
    assert "effective_bits" not in found and 0 < found["layers"][UP.removesuffix(".weight")]["errors"]["weight"] < 0.05
    again = open_model(folder)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())
    assert again.get_submodule(UP.removesuffix(".weight")).errors == model.model.layers[0].mlp.up_proj.errors


@torch.no_grad()
def test_inputs_are_rounded_token_by_token():
    ours = changed("rtn", {"bits": 4, "activation_bits": 4})
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    layer = ours.model.layers[0].mlp.up_proj
    scale = x.abs().amax(-1, keepdim=True) / 7
    by_hand = torch.nn.functional.linear((x / scale).round() * scale, layer.weight)
    assert torch.allclose(layer(x), by_hand, atol=1e-6)
    assert not torch.allclose(layer(x), torch.nn.functional.linear(x, layer.weight), atol=1e-3)
