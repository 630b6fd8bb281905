"""GPTQ: the official code's numbers, a worked example, and laws of its loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.tiny import tiny_model
from official_quantizers import CASES, TENSORS, W, X, share_off, visited_states

from lightningrl.errors import ConfigError
from lightningrl.models.checkpoint import load_model
from lightningrl.quantization.calibration import clean
from lightningrl.quantization.gptq import GPTQ, gptq
from lightningrl.quantization.layerwise import GROUPS, LayerWalk, grams
from lightningrl.quantization.open import open_model
from lightningrl.quantization.protocol import CalibrationSequence, make_quantizer
from lightningrl.quantization.stored import save_quantized
from lightningrl.quantization.uniform import Grid, on_grid, quantized_of, scale_and_zero

H = TENSORS["gptq.H"]
CASE = {name: case for name, case in CASES["gptq_ist"].items() if "dead3" not in name}


def made(case, weight=W, hessian=H):
    grid = Grid(bits=case["bits"], kind="wide" if case["sym"] else "asymmetric")
    return gptq(
        weight, hessian, grid, max(0, case["groupsize"]), activation_order=case["actorder"],
        static_groups=case["static_groups"], damping=case["percdamp"], block=case["blocksize"],
    )  # fmt: skip


@pytest.mark.parametrize("name", CASE)
def test_weights_and_loss_are_the_official_codes(name):
    case = CASE[name]
    found = made(case).values()
    error = found - W
    loss = float((error @ H * error).sum())
    assert loss == pytest.approx(case["tr_EHE"], rel=5e-3)
    assert float((error @ X.T).square().mean()) == pytest.approx(case["out_mse"], rel=5e-3)
    assert float(found.abs().sum()) == pytest.approx(case["sum_abs_Q"], rel=1e-3)
    if (expected := TENSORS.get(f"gptq.{name}.Q")) is not None:
        assert share_off(found, expected) < 1e-3


def test_an_input_that_is_always_zero_has_weights_of_zero():
    hessian = H.clone()
    hessian[3], hessian[:, 3] = 0, 0
    case = CASE["b4.sym.g32"]
    found = made(case, hessian=hessian).values()
    assert (found[:, 3] == 0).all()
    assert float(found.abs().sum()) == pytest.approx(CASES["gptq_ist"]["b4.sym.g32.dead3"]["sum_abs_Q"], rel=1e-3)


@pytest.mark.parametrize("activation_order", [False, True])
def test_scales_and_the_inputs_of_groups_are_auto_gptqs(activation_order):
    name = "b4.sym.g32" + ".act" * activation_order
    found = made(CASE[name])
    torch.testing.assert_close(found.scale_OG, TENSORS[f"autogptq.{name}.scale"], rtol=1e-6, atol=0)
    assert (found.zero_OG == CASES["autogptq_qdlm"]["b4.sym.g32"]["zero_everywhere"][0]).all()
    if activation_order:
        group_I = torch.empty(128, dtype=torch.int32)
        group_I[found.order_I.long()] = torch.arange(128, dtype=torch.int32) // 32
        assert torch.equal(group_I, TENSORS[f"autogptq.{name}.g_idx"])


def test_worked_example():
    """Two weights on a grid of halves: the second makes up for what the first lost (.1184 against .1784)."""
    weight, hessian = torch.tensor([[0.62, 0.22]]), torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper = torch.linalg.cholesky(inverse, upper=True)
    torch.testing.assert_close(upper, torch.tensor([[0.8165, -0.4082], [0.0, 0.7071]]), rtol=1e-3, atol=1e-4)
    wide = torch.cat([weight, torch.tensor([[1.75, 1.75]])], 1)  # the greatest makes the step a half: 2 * 1.75 / 7
    hessian4 = torch.block_diag(hessian, torch.eye(2))
    found = gptq(wide, hessian4, Grid(bits=3, kind="wide"), damping=1e-7)
    assert found.scale_OG.item() == pytest.approx(0.5)
    assert found.values()[0, :2].tolist() == [0.5, 0.5]
    assert on_grid(wide, Grid(bits=3, kind="wide")).values()[0, :2].tolist() == [0.5, 0.0]


@pytest.mark.parametrize(("bits", "kind"), [(2, "asymmetric"), (3, "wide"), (4, "symmetric")])
@pytest.mark.parametrize("group", [0, 32])
@pytest.mark.parametrize("activation_order", [False, True])
def test_with_inputs_that_do_not_correlate_it_is_rounding_to_nearest(bits, kind, group, activation_order):
    grid = Grid(bits=bits, kind=kind)
    found = gptq(W, torch.eye(128), grid, group, activation_order=activation_order, static_groups=True)
    nearest = on_grid(W, grid, group)
    assert torch.equal(found.codes_OI, nearest.codes_OI) and torch.equal(found.values(), nearest.values())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_its_loss_is_at_most_that_of_rounding_to_nearest(bits, symmetric):
    grid = Grid(bits=bits, kind="wide" if symmetric else "asymmetric")

    def loss(quantized):
        error = quantized.values() - W
        return float((error @ H * error).sum())

    for group in (0, 32):
        nearest = loss(on_grid(W, grid, group))
        for options in ({}, {"activation_order": True}, {"static_groups": True, "activation_order": True}):
            assert loss(gptq(W, H, grid, group, **options)) <= nearest


def test_ranges_that_are_searched_have_less_error_and_are_the_official_ones():
    for bits in (3, 4):
        for kind, name in (("wide", "sym"), ("asymmetric", "asym")):
            grid = Grid(bits=bits, kind=kind, search=True)
            found = on_grid(W, grid)
            torch.testing.assert_close(found.scale_OG, TENSORS[f"rtn.b{bits}.{name}.g-1.mse.scale"], rtol=1e-6, atol=0)
            codes = TENSORS[f"rtn.b{bits}.{name}.g-1.mse.codes"]
            assert (found.codes_OI != codes).float().mean() < 1e-3
            error = float((found.values() - W).square().mean())
            assert error < float((on_grid(W, Grid(bits=bits, kind=kind)).values() - W).square().mean())


def test_the_wide_grid_clips_its_greatest_weight():
    weight = torch.tensor([[0.30, -0.10, 0.05, -0.24]])
    found = on_grid(weight, Grid(bits=3, kind="wide"))
    assert found.codes_OI.tolist() == [[7, 3, 5, 1]] and found.scale_OG.item() == pytest.approx(0.6 / 7)
    assert on_grid(weight, Grid(bits=3, kind="asymmetric")).codes_OI.tolist() == [[7, 2, 4, 0]]
    shifted = on_grid(weight, Grid(bits=3, kind="shifted"))
    assert shifted.codes_OI.tolist() == [[7, 2, 4, 0]] and shifted.zero_OG.item() == 3
    narrow = on_grid(weight, Grid(bits=3, kind="symmetric", lowest=True))
    assert (narrow.codes_OI.int() - 4).tolist() == [[3, -1, 0, -2]]
    zeros = torch.zeros(2, 8)
    for kind in ("wide", "asymmetric", "shifted", "symmetric"):
        assert (on_grid(zeros, Grid(bits=3, kind=kind)).values() == 0).all()
        assert (scale_and_zero(zeros.view(2, 1, 8), Grid(bits=3, kind=kind))[0] > 0).all()


def test_moments_that_damping_does_not_mend_are_refused():
    with pytest.raises(ConfigError, match="singular in spite of the damping"):
        gptq(W, -torch.eye(128), Grid(bits=4))


@pytest.mark.parametrize("options", [{}, {"sequential": False, "activation_order": True}, {"compat": True}])
def test_of_a_model_its_outputs_are_nearer_than_by_rounding_in_every_layer(options):
    model = tiny_model(3)
    found = GPTQ(bits=3, group=8, symmetric=False, **options).quantize(model, visited_states(tiny_model(3)))
    errors = {name: layer.errors for name, layer in found.named_modules() if quantized_of(layer)}
    assert len(errors) == 2 * (4 if options.get("compat") else 7)
    assert sum(each["output"] for each in errors.values()) < sum(each["output_nearest"] for each in errors.values())
    assert all(0 < each["output"] < 0.5 and 0 < each["weight"] < 0.5 for each in errors.values())
    again = GPTQ(bits=3, group=8, symmetric=False, **options).quantize(tiny_model(3), visited_states(tiny_model(3)))
    assert all(torch.equal(one, other) for one, other in zip(found.parameters(), again.parameters(), strict=True))


@torch.no_grad()
def test_each_group_is_rounded_for_the_inputs_that_the_rounded_ones_before_it_leave():
    """In the order of the forward: a group's inputs in the quantised layer are those that its codes were found for."""
    exact, found = tiny_model(3), tiny_model(3)
    quantizer, states = GPTQ(bits=3, group=8), visited_states(tiny_model(3))
    quantizer.quantize(found, states)
    walk, layer = LayerWalk(found, states), found.model.layers[0]
    moments = grams(walk, layer, GROUPS)
    for names in GROUPS:
        for name in names:
            weight = exact.model.layers[0].get_submodule(name).weight
            again = gptq(weight, moments[names[0]].hessian_II, quantizer.grid, 8)
            assert torch.equal(again.codes_OI, quantized_of(layer.get_submodule(name)).codes_OI), name
            plain = grams(LayerWalk(exact, states), exact.model.layers[0], [names])[names[0]]
            is_first = names == GROUPS[0]
            assert torch.allclose(plain.sum_II, moments[names[0]].sum_II, rtol=1e-3) == is_first, name


def test_sixteen_bits_change_nothing_and_what_does_not_fit_is_refused():
    model, exact = tiny_model(3), tiny_model(3)
    GPTQ(bits=16).quantize(model, visited_states(exact))
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), exact.parameters(), strict=True))
    with pytest.raises(ConfigError, match=r"gptq: model\.layers\.0\.self_attn\.q_proj: group is 7"):
        GPTQ(group=7).quantize(model, visited_states(exact))
    with pytest.raises(ConfigError, match=r"16 inputs.*H is singular.*more problems"):
        GPTQ(group=8).quantize(model, clean(model.config, [CalibrationSequence(np.arange(4), np.arange(8))], 100))
    with pytest.raises(ConfigError, match=r"bits is 9: .*2 to 8 bits, or 16"):
        make_quantizer("lightningrl.quantization.gptq:GPTQ", {"bits": 9})


@pytest.mark.parametrize("options", [{"activation_order": True}, {"symmetric": False, "static_groups": True}])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, options):
    model = load_model(save_byte_checkpoint(tmp_path / "plain"))
    GPTQ(bits=3, group=8, **options).quantize(model, visited_states(model, vocab=30))
    found = save_quantized(model, tmp_path, {})
    (tmp_path / "config.json").write_bytes((tmp_path / "plain" / "config.json").read_bytes())
    again = open_model(tmp_path)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())
    zeros = 0 if options.get("symmetric", True) else 3
    expected = 3 + (16 + zeros) / 8
    assert expected <= found["effective_bits"] < expected + (3 if "activation_order" in options else 1e-9)
    assert found["effective_bits"] < found["bits_per_weight"]
