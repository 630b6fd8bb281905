"""AWQ: a whole block of the official code, its folding, and what it gains."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from fixtures.tiny import tiny_model
from official_quantizers import CASES, TENSORS, W, share_off, visited_states

from lightningrl.errors import ConfigError
from lightningrl.models.transformer import ModelConfig, Transformer
from lightningrl.quantization.awq import AWQ, SHARES
from lightningrl.quantization.calibration import clean
from lightningrl.quantization.layerwise import GROUPS, LayerWalk
from lightningrl.quantization.protocol import CalibrationSequence
from lightningrl.quantization.uniform import Grid, on_grid, quantized_of

CASE = CASES["awq"]
OFFICIAL = AWQ(bits=CASE["config"]["w_bit"], group=CASE["config"]["q_group_size"])


def official_block():
    """The official block: hidden 64, two heads, full attention, no RoPE; its inputs are rows of the embedding."""
    x_BQH = TENSORS["awq.in.x"].float()
    config = ModelConfig(
        vocab_size=520, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=260, rms_norm_eps=1e-6, rope_theta=1e4,
        initializer_range=0.02, block_size=4, mask_token_id=0, attention="full", qk_norm=False,
    )  # fmt: skip
    model = Transformer(config)
    layer = model.model.layers[0]
    weights = {name.removeprefix("awq.in."): each.float() for name, each in TENSORS.items() if ".in." in name}
    layer.load_state_dict({name: weights[name] for name in layer.state_dict()})
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(x_BQH.flatten(0, 1))
    model._rotations = torch.ones(260, 32), torch.zeros(260, 32)
    rows = [CalibrationSequence(np.arange(0), np.arange(n * 260, (n + 1) * 260)) for n in range(2)]
    return model, layer, LayerWalk(model, clean(config, rows, 10**6))


@torch.no_grad()
def test_ratios_scales_ranges_and_weights_are_the_official_codes():
    _, layer, walk = official_block()
    before = torch.cat(walk.outputs(layer))
    found = OFFICIAL.scale(walk, layer)
    official_order = ("input_layernorm", "self_attn.v_proj", "post_attention_layernorm", "mlp.up_proj")
    for previous, names in zip(official_order, GROUPS, strict=True):
        ratio, scale_I = found[names[0]]
        assert ratio == CASE["ratio"][previous]
        torch.testing.assert_close(scale_I, TENSORS[f"awq.scale.{previous}"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat(walk.outputs(layer)), before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.mlp.down_proj.weight, TENSORS["awq.scaled.mlp.down_proj"], rtol=1e-5, atol=1e-6)
    # A range that is cut on both sides has its ends half a step off the codes, where a weight's last bit decides: from
    # the official scaled weights come the official ranges, from ours nearly.
    rows = []
    walk.observe(layer, {"mlp.down_proj": rows.append})
    most_OG1 = OFFICIAL.best_range(TENSORS["awq.scaled.mlp.down_proj"], torch.cat(rows))
    assert share_off(most_OG1, TENSORS["awq.clip.mlp.down_proj"], 1e-5) < 1e-3
    ranges = OFFICIAL.cut(walk, layer)
    assert set(ranges) == set(CASE["clipped"])
    off = {name: share_off(most, TENSORS[f"awq.clip.{name}"].squeeze(-1), 1e-5) for name, most in ranges.items()}
    assert sum(off.values()) / len(off) < 2e-2, off
    AWQ(bits=3, group=32, clip=False)._layer(walk, layer, "layer")
    assert share_off(layer.mlp.down_proj.weight, TENSORS["awq.final.mlp.down_proj"], 1e-5) < 5e-2
    error = float((torch.cat(walk.outputs(layer)) - before).square().mean())
    assert error == pytest.approx(CASE["out_mse"]["awq"], rel=2e-2) and error < CASE["out_mse"]["rtn"]


def test_its_grid_is_the_official_one():
    found = on_grid(W, Grid(bits=4, kind="shifted"), 32)
    assert (found.codes_OI != TENSORS["awq.pseudo.b4.g32.codes"]).float().mean() < 1e-3
    torch.testing.assert_close(found.scale_OG, TENSORS["awq.pseudo.b4.g32.scale"], rtol=1e-6, atol=0)
    assert torch.equal(found.zero_OG, TENSORS["awq.pseudo.b4.g32.zero"])


@torch.no_grad()
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"num_key_value_heads": 4, "num_attention_heads": 4, "head_dim": 4},
        {"qkv_bias": True, "num_key_value_heads": 4, "head_dim": 4, "qk_norm": False},
    ],
)
def test_scaling_alone_keeps_the_model_and_values_are_scaled_where_shapes_agree(shape):
    model = tiny_model(3, **shape)
    walk = LayerWalk(model, visited_states(tiny_model(3, **shape)))
    layer = model.model.layers[0]
    if shape.get("qkv_bias"):
        layer.self_attn.v_proj.bias.copy_(torch.arange(16.0) / 8)
    before = torch.cat(walk.outputs(layer), 1)
    found = AWQ(bits=3, group=8).scale(walk, layer)
    assert ("self_attn.o_proj" in found) == ("num_key_value_heads" in shape)
    assert any(ratio > 0 for ratio, _ in found.values())
    torch.testing.assert_close(torch.cat(walk.outputs(layer), 1), before, rtol=1e-4, atol=1e-4)


def test_of_a_model_its_outputs_are_nearer_than_by_rounding_and_it_is_deterministic():
    def made(**options):
        model = AWQ(bits=3, group=8, **options).quantize(tiny_model(3), visited_states(tiny_model(3)))
        return model, {n: layer.errors["output"] for n, layer in model.named_modules() if quantized_of(layer)}

    (model, errors), (again, _) = made(), made()
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
    assert len(errors) == 14 and sum(errors.values()) < sum(made(clip=False)[1].values())
    plain, exact = tiny_model(3), tiny_model(3)
    assert all(torch.equal(a, b) for a, b in zip(
        AWQ(bits=16).quantize(plain, visited_states(exact)).parameters(), exact.parameters(), strict=True))  # fmt: skip
    with pytest.raises(ConfigError, match=r"awq: model\.layers\.0: group is 7"):
        AWQ(group=7).quantize(plain, visited_states(exact))


def test_the_published_judgement_of_llada_is_another_one():
    """The whole layer, fed with what its norm gave: the norm acts twice, and the residual is another."""
    shape = {"attention": "full", "qk_norm": False, "num_key_value_heads": 4, "head_dim": 4}
    model = tiny_model(3, **shape)
    walk = LayerWalk(model, clean(model.config, [CalibrationSequence(np.arange(4), np.arange(20))] * 2, 100))
    with torch.no_grad():
        ratios = [
            {name: ratio for name, (ratio, _) in AWQ(bits=2, group=8, compat=compat).scale(walk, copied).items()}
            for compat in (False, True)
            for copied in [copy.deepcopy(model.model.layers[0])]
        ]
    own, published = ratios
    assert own["self_attn.o_proj"] == published["self_attn.o_proj"] and own != published


def test_the_best_range_has_the_least_error_of_all():
    x, quantizer = torch.randn(40, 128, generator=torch.Generator().manual_seed(0)), AWQ(bits=3, group=32)

    def error(most_OG1):
        cut = W.view(64, 4, 32).clamp(-most_OG1, most_OG1).flatten(1)
        moved = (on_grid(cut, quantizer.grid, 32).values() - W).view(64, 4, 32)
        return torch.einsum("ogi,ngi->nog", moved, x.view(40, 4, 32)).square().mean(0)

    found = error(quantizer.best_range(W, x))
    whole = W.view(64, 4, 32).abs().amax(-1, keepdim=True)
    best = torch.stack([error(whole * share) for share in SHARES]).amin(0)
    torch.testing.assert_close(found, best, rtol=1e-3, atol=1e-6)
