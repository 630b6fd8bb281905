"""One layer by each method, with every option that changes it, against what the official code makes of shared inputs.

The layer's projections of queries and gate are the fixtures' W, those of keys and up W2 and W3 together; every linear
layer with 128 inputs is shown the fixtures' X.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fixtures.tiny import tiny_model
from official_quantizers import CASES, TENSORS, W, X, share_off, visited_states
from torch.nn.functional import linear

from lightningrl.quantization import duquant
from lightningrl.quantization.awq import AWQ
from lightningrl.quantization.duquant import DuQuant
from lightningrl.quantization.gptq import GPTQ, gptq
from lightningrl.quantization.inputs import Permute, RotateBlocks
from lightningrl.quantization.layerwise import NAMES
from lightningrl.quantization.noise import RoundingNoise
from lightningrl.quantization.protocol import Calibration
from lightningrl.quantization.quarot import QuaRot, random_signs, rotated
from lightningrl.quantization.rtn import RoundToNearest
from lightningrl.quantization.smoothquant import SmoothQuant, smoothing_scale
from lightningrl.quantization.uniform import quantized_of, relative_error

UP = torch.cat([TENSORS["smooth.in.W2"], TENSORS["smooth.in.W3"]]).float()


class Shown:
    """A walk whose linear layers are shown X, or as much of it as they have inputs; what ran is noted."""

    def __init__(self, model, x=X):
        self.model, self.x, self.calibration, self.asked = model, x, SimpleNamespace(tokens=len(x)), []

    def observe(self, layer, observers):
        self.asked.append(tuple(observers))
        for name, observe in observers.items():
            observe(self.x[:, : layer.get_submodule(name).in_features])


def shown():
    """A model of one layer, that layer, and a walk over it."""
    model = tiny_model(
        0, hidden_size=128, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        head_dim=32,
    )  # fmt: skip
    layer = model.model.layers[0]
    with torch.no_grad():
        for name, weight in (
            ("self_attn.q_proj", W),
            ("mlp.gate_proj", W),
            ("self_attn.k_proj", UP),
            ("mlp.up_proj", UP),
        ):
            layer.get_submodule(name).weight.copy_(weight)
    return model, layer, Shown(model)


def codes_of(layer, name="mlp.gate_proj"):
    return quantized_of(layer.get_submodule(name))


@torch.no_grad()
@pytest.mark.parametrize("group", [0, 32])
def test_rtn(group):
    model, layer, _ = shown()
    RoundToNearest(bits=3, group=group, activation_bits=4).quantize(model, Calibration())
    name, found = f"rtn.b3.sym.g{group or -1}", codes_of(layer)
    assert torch.equal(found.codes_OI, TENSORS[f"{name}.codes"]) and torch.equal(found.zero_OG, TENSORS[f"{name}.zero"])
    torch.testing.assert_close(found.scale_OG, TENSORS[f"{name}.scale"], rtol=1e-6, atol=0)
    assert share_off(layer.mlp.gate_proj.rounded(X[:16]), TENSORS["quarot.act.b4.sym.c1.0"], 1e-5) < 1e-3


@torch.no_grad()
def test_rtn_of_an_asymmetric_grid_has_inputs_on_one_too():
    model, layer, _ = shown()
    RoundToNearest(bits=16, symmetric=False, activation_bits=4).quantize(model, Calibration())
    assert share_off(layer.mlp.gate_proj.rounded(X[:16]), TENSORS["quarot.act.b4.asym.c1.0"], 1e-5) < 1e-3
    assert torch.equal(layer.mlp.gate_proj.weight, W)


@torch.no_grad()
def test_noise_has_the_size_of_the_official_rounding_error():
    model, layer, _ = shown()
    RoundingNoise(bits=3, group=32).quantize(model, Calibration())
    mse = float((layer.mlp.gate_proj.weight - W).square().mean())
    assert mse == pytest.approx(CASES["rtn_gptq"]["rtn.b3.sym.g32"]["mse"], rel=1e-4)


@torch.no_grad()
def test_gptq_of_a_layer():
    _, layer, walk = shown()
    GPTQ(bits=4, group=32).quantize_layer(walk, layer, "layer")
    for name in ("self_attn.q_proj", "mlp.gate_proj"):
        assert share_off(layer.get_submodule(name).weight, TENSORS["gptq.b4.sym.g32.Q"]) < 1e-3
    assert walk.asked == [("self_attn.q_proj",), ("self_attn.o_proj",), ("mlp.gate_proj",), ("mlp.down_proj",)]
    _, layer, walk = shown()
    GPTQ(bits=4, group=32, activation_order=True, sequential=False).quantize_layer(walk, layer, "layer")
    assert share_off(layer.mlp.gate_proj.weight, TENSORS["gptq.b4.sym.g32.act.Q"]) < 1e-3
    assert walk.asked == [("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")]


@torch.no_grad()
def test_gptqs_damping_is_that_of_its_options():
    found = []
    for damping in (0.01, 10.0):
        _, layer, walk = shown()
        GPTQ(bits=3, group=32, damping=damping).quantize_layer(walk, layer, "layer")
        expected = gptq(W, 2 / len(X) * X.T @ X, GPTQ(bits=3).grid, 32, damping=damping)
        assert (codes_of(layer).codes_OI != expected.codes_OI).float().mean() < 1e-3
        found.append(codes_of(layer).codes_OI)
    assert (found[0] != found[1]).float().mean() > 0.05


@torch.no_grad()
def test_with_compat_gptq_leaves_queries_keys_and_values():
    _, layer, walk = shown()
    before = {name: layer.get_submodule(name).weight.clone() for name in NAMES}
    GPTQ(bits=4, group=32, compat=True).quantize_layer(walk, layer, "layer")
    left = {name for name in NAMES if torch.equal(layer.get_submodule(name).weight, before[name])}
    assert left == {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}
    assert {name for name in NAMES if codes_of(layer, name) is None} == left


@torch.no_grad()
@pytest.mark.parametrize("alpha", [0.5, 0.8])
def test_smoothquant(alpha):
    _, layer, walk = shown()
    norms = layer.input_layernorm.weight.clone(), layer.post_attention_layernorm.weight.clone()
    values, down = layer.self_attn.v_proj.weight.clone(), layer.mlp.down_proj.weight.clone()
    quantizer = SmoothQuant(bits=4, activation_bits=4, alpha=alpha)
    quantizer._smooth(walk, layer, "layer")
    scale = TENSORS[f"smooth.official.a{alpha}.scale"]
    torch.testing.assert_close(layer.mlp.gate_proj.weight, W * scale, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(layer.mlp.up_proj.weight, UP * scale, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(layer.post_attention_layernorm.weight, norms[1] / scale, rtol=1e-5, atol=1e-7)
    # Values are read by queries' group, too: the greatest of all three.
    everything = torch.stack([each.abs().amax(0) for each in (W, UP, values)]).amax(0)
    own = smoothing_scale(TENSORS["smooth.act_max"], everything, alpha)
    torch.testing.assert_close(layer.input_layernorm.weight, norms[0] / own, rtol=1e-5, atol=1e-7)
    assert torch.equal(layer.mlp.down_proj.weight, down)
    if alpha == 0.5:
        quantizer._layer(walk, layer, "layer")
        error = float((layer.mlp.gate_proj(X / scale) - X @ W.T).square().mean())
        assert error == pytest.approx(CASES["smoothquant"]["W4A4.smooth"], rel=0.02)


@torch.no_grad()
def test_smoothquant_as_published_looks_at_the_first_linear_layer_and_smooths_everywhere():
    _, layer, walk = shown()
    down, output = layer.mlp.down_proj.weight.clone(), layer.self_attn.o_proj.weight.clone()
    quantizer = SmoothQuant(bits=4, activation_bits=4, compat=True)
    quantizer._smooth(walk, layer, "layer")
    scale = TENSORS["smooth.qdlm.a0.5.scale_first_only"]
    for name, weight in (("self_attn.q_proj", W), ("self_attn.k_proj", UP), ("mlp.gate_proj", W)):
        torch.testing.assert_close(layer.get_submodule(name).weight, weight * scale, rtol=1e-5, atol=1e-7)
    assert not torch.equal(layer.mlp.down_proj.weight, down) and not torch.equal(layer.self_attn.o_proj.weight, output)
    quantizer._layer(walk, layer, "layer")
    assert not codes_of(layer).symmetric
    found = layer.mlp.gate_proj.rounded(X[:16])
    assert share_off(found, TENSORS["quarot.act.b4.asym.c1.0"], 1e-5) < 1e-3


@torch.no_grad()
@pytest.mark.parametrize("clip", [1.0, 0.9])
def test_quarots_grids(clip):
    _, layer, walk = shown()
    QuaRot(bits=4, activation_bits=4, weights="nearest", clip=clip)._layer(walk, layer, "layer")
    torch.testing.assert_close(codes_of(layer).scale_OG, TENSORS["quarot.w.b4.sym.mse.scale"], rtol=1e-6, atol=0)
    assert share_off(layer.mlp.gate_proj.rounded(X[:16]), TENSORS[f"quarot.act.b4.sym.c{clip}"], 1e-5) < 1e-3
    error = relative_error(layer.mlp.gate_proj.weight, W)
    assert error == pytest.approx(CASES["quarot"]["w_b4_sym_mse_error"] / float(W.square().mean()), rel=1e-3)
    _, layer, walk = shown()
    QuaRot(bits=4, activation_bits=16, clip=clip)._layer(walk, layer, "layer")
    by_gptq = float((linear(X, layer.mlp.gate_proj.weight) - X @ W.T).square().mean())
    _, layer, walk = shown()
    QuaRot(bits=4, activation_bits=16, weights="nearest")._layer(walk, layer, "layer")
    nearest = float((linear(X, layer.mlp.gate_proj.weight) - X @ W.T).square().mean())
    assert by_gptq < 0.8 * nearest


@torch.no_grad()
def test_quarots_signs_are_random_and_of_the_seed():
    exact, turned = tiny_model(3), tiny_model(3)
    states = replace(visited_states(exact), seed=5)
    QuaRot(bits=16, activation_bits=16).quantize(turned, states)
    expected = rotated(exact.model.embed_tokens.weight, random_signs(exact, 5))
    assert torch.equal(turned.model.embed_tokens.weight, expected)
    model = shown()[0]
    drawn = [random_signs(model, seed) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    for signs in drawn:
        assert set(signs.tolist()) == {-1.0, 1.0} and 40 < int((signs > 0).sum()) < 88


@torch.no_grad()
def test_duquant_with_the_official_rotations(monkeypatch):
    """Its own are other draws; the shares of the ranges are those of its options."""
    first, second = (RotateBlocks(each) for each in TENSORS["duquant.R"])
    monkeypatch.setattr(duquant, "find_steps", lambda *_, **__: (first, Permute(TENSORS["duquant.perm"][0]), second))
    _, layer, walk = shown()
    quantizer = DuQuant(bits=4, activation_bits=4, block=32, steps=1)
    assert (quantizer.activation_clip, quantizer.weight_clip) == (CASES["duquant"]["lac"], CASES["duquant"]["swc"])
    layer.mlp.down_proj.weight.data = torch.zeros(128, 128)  # as many inputs as the rotations have
    layer.mlp.down_proj.in_features = layer.self_attn.o_proj.in_features = 128
    layer.self_attn.o_proj.weight.data = torch.ones(128, 128)
    quantizer._rotate(walk, layer, torch.Generator())
    torch.testing.assert_close(layer.mlp.gate_proj.weight, TENSORS["duquant.W_transformed"], rtol=0, atol=1e-5)
    quantizer._layer(walk, layer, "layer")
    gate = layer.mlp.gate_proj
    assert share_off(gate.weight, TENSORS["duquant.W_fakequant"], 1e-5) < 1e-3
    assert share_off(gate.rounded(gate.changed(X[:32])), TENSORS["duquant.X_fakequant_first32"], 1e-5) < 1e-3
    error = float((gate(X) - X @ W.T).square().mean())
    assert error == pytest.approx(CASES["duquant"]["out_mse_W4A4"], rel=0.02)


@torch.no_grad()
@pytest.mark.parametrize("method", [AWQ, SmoothQuant, GPTQ])
def test_later_layers_are_shown_what_exact_ones_give_by_the_methods_that_say_so(method):
    """With two bits of the first layer, the second one's searches see other inputs, or they do not."""
    options = {"group": 8} if method is not SmoothQuant else {"activation_bits": 4}
    found = []
    for bits in (2, 8):
        model, quantizer = tiny_model(3), method(bits=bits, **options)
        seen = {}

        def note(walk, layer, name, seen=seen):
            seen[name] = torch.cat([each[0] for each in walk.hidden])

        monkey = {AWQ: "_scale", SmoothQuant: "_smooth", GPTQ: "quantize_layer"}[method]
        plain = getattr(method, monkey)

        def noted(self, walk, layer, name, *more, plain=plain, note=note):
            note(walk, layer, name.removeprefix("gptq: "))
            return plain(self, walk, layer, name, *more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(method, monkey, noted)
            quantizer.quantize(model, visited_states(tiny_model(3)))
        found.append(seen)
    same = torch.allclose(found[0]["model.layers.1"], found[1]["model.layers.1"], rtol=1e-4, atol=1e-4)
    assert same == (method is not GPTQ)
    assert torch.equal(found[0]["model.layers.0"], found[1]["model.layers.0"])
