"""Round to nearest on a model, and the checkpoint that holds what it made."""

from __future__ import annotations

import pytest
import torch
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.naive import Masked, dense_block_mask
from fixtures.tiny import tiny_model
from official_quantizers import CASES, TENSORS, W, X
from torch import nn

from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.inference.llm import LLM
from lightningrl.models.checkpoint import load_model
from lightningrl.quantization.inputs import TokenGrid
from lightningrl.quantization.layerwise import inner_linears
from lightningrl.quantization.open import QUANTIZATION, open_model
from lightningrl.quantization.protocol import Calibration, make_quantizer
from lightningrl.quantization.registry import QUANTIZERS
from lightningrl.quantization.stored import save_quantized
from lightningrl.quantization.uniform import on_grid, quantized_of, relative_error

RTN, GPTQ = QUANTIZERS["rtn"], QUANTIZERS["gptq"]
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save_byte_checkpoint(tmp_path_factory.mktemp("plain"))


def quantized(plain, **options):
    return make_quantizer(RTN, options).quantize(load_model(plain), Calibration())


def saved(plain, folder, **options):
    """A quantised checkpoint's folder, and the model that was saved."""
    model = quantized(plain, **options)
    folder.mkdir()
    save_quantized(model, folder, {"quantizer": RTN, "options": options})
    for path in plain.iterdir():
        if path.suffix == ".json" and not (folder / path.name).exists():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder, model


def test_linear_layers_are_quantised_and_nothing_else(plain):
    before, after = load_model(plain), quantized(plain, bits=4)
    for name, layer in after.named_modules():
        is_quantized = isinstance(layer, nn.Linear) and name != "lm_head"
        assert (quantized_of(layer) is not None) == is_quantized, name
    weights = before.state_dict()
    changed = {name for name, weight in after.state_dict().items() if not torch.equal(weight, weights[name])}
    assert changed == {name for name in weights if name.endswith("_proj.weight")}
    assert quantized_of(quantized(plain, head=True).lm_head) is not None


@pytest.mark.parametrize("name", [name for name in CASES["rtn_gptq"] if "mse" not in name])
def test_its_grids_are_the_official_ones(name):
    """Those of GPTQ's code, symmetric and asymmetric, which `gptq` has as well by the same options."""
    _, bits, kind, group = name.split(".")
    options = {"bits": int(bits[1:]), "symmetric": kind == "sym", "group": max(0, int(group[1:]))}
    quantizer = make_quantizer(RTN, options)
    assert quantizer.grid == make_quantizer(GPTQ, options).grid
    found = on_grid(W, quantizer.grid, quantizer.group)
    for part, mine in {"scale": found.scale_OG, "codes": found.codes_OI, "zero": found.zero_OG}.items():
        if f"{name}.{part}" in TENSORS:
            torch.testing.assert_close(mine, TENSORS[f"{name}.{part}"], rtol=1e-6, atol=0)
    error = found.values() - W
    assert float(error.square().mean()) == pytest.approx(CASES["rtn_gptq"][name]["mse"], rel=1e-4)
    assert float((error @ X.T).square().mean()) == pytest.approx(CASES["rtn_gptq"][name]["out_mse"], rel=1e-3)


def test_two_bits_have_four_values_unless_the_grid_is_narrow():
    """Of Gaussian weights in groups of 128: four values err by .30 in squares, three by .59."""
    weight = torch.randn(256, 128, generator=torch.Generator().manual_seed(0))
    errors = [
        relative_error(on_grid(weight, make_quantizer(RTN, {"bits": 2, "narrow": narrow}).grid).values(), weight)
        for narrow in (False, True)
    ]
    assert errors == pytest.approx([0.30, 0.59], abs=0.03)


@torch.no_grad()
def test_sixteen_bits_are_what_was_there_and_inputs_may_be_rounded_alone(plain, tmp_path):
    exact = load_model(plain)
    for name in ("rtn", "noise"):
        model = make_quantizer(QUANTIZERS[name], {"bits": 16}).quantize(load_model(plain), Calibration())
        assert all(torch.equal(each, exact.state_dict()[key]) for key, each in model.state_dict().items())
        assert not any(quantized_of(layer) for layer in model.modules())
    folder, model = saved(plain, tmp_path / "a4", bits=16, activation_bits=4)
    again = open_model(folder)
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    layers = [each.model.layers[1].mlp.gate_proj for each in (exact, model, again)]
    assert all(torch.equal(layers[0].weight, layer.weight) for layer in layers)
    expected = torch.nn.functional.linear(TokenGrid(4)(x), layers[0].weight)
    assert torch.equal(layers[1](x), expected) and torch.equal(layers[2](x), expected)
    assert not torch.allclose(layers[0](x), expected, atol=1e-3)


def test_a_planner_is_no_layer_of_the_transformer():
    """`rtn` and `noise` change what the methods that look at data change."""
    for name in ("rtn", "noise"):
        model = tiny_model(0)
        model.add_planner(torch.Generator().manual_seed(0))
        before = {key: each.clone() for key, each in model.state_dict().items()}
        make_quantizer(QUANTIZERS[name], {"bits": 3}).quantize(model, Calibration())
        changed = {key for key, each in model.state_dict().items() if not torch.equal(each, before[key])}
        assert changed == {f"{linear}.weight" for linear, _ in inner_linears(model)} and len(changed) == 14


def test_a_head_that_is_the_embedding_is_left_alone():
    model = tiny_model(0, tie_word_embeddings=True)
    with pytest.raises(ConfigError, match="tied to its embedding"):
        make_quantizer(RTN, {"head": True}).quantize(model, Calibration())
    embedding = model.model.embed_tokens.weight.clone()
    make_quantizer(RTN, {"bits": 4}).quantize(model, Calibration())
    assert torch.equal(model.model.embed_tokens.weight, embedding) and quantized_of(model.lm_head) is None


@torch.no_grad()
def test_eight_bits_are_nearly_the_model_and_fewer_are_further_from_it(plain):
    """By the mean total variation between the two models' distributions."""
    ids, attend = torch.arange(40)[None], Masked(dense_block_mask(40, 4))
    exact, *found = (
        model.log_probs(model.hidden(ids, torch.arange(40)[None], attend)).exp()
        for model in (load_model(plain), *(quantized(plain, bits=bits) for bits in (8, 4, 2)))
    )
    gaps = [float((each - exact).abs().sum(-1).mean() / 2) for each in found]
    assert gaps[0] < 0.05 and gaps[0] < gaps[1] / 5 < gaps[2] / 5


@pytest.mark.parametrize(
    "options", [{"bits": 8}, {"bits": 3, "symmetric": False}, {"bits": 4, "group": 8}, {"bits": 5, "head": True}]
)
def test_a_saved_model_comes_back_bit_for_bit(plain, tmp_path, options):
    folder, model = saved(plain, tmp_path / "quantized", **options)
    again = open_model(folder)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    save_quantized(again, tmp_path, {"quantizer": RTN, "options": options})
    for name in ("model.safetensors", QUANTIZATION):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert (folder / "model.safetensors").stat().st_size < (plain / "model.safetensors").stat().st_size


def test_it_is_generated_with_like_any_other(plain, tmp_path):
    folder, model = saved(plain, tmp_path / "quantized", bits=4)
    llm, other = LLM(folder), LLM(plain)
    other.model.load_state_dict(model.state_dict())
    found, expected = (each.generate(["How many?", "One and one?"], max_new_tokens=12) for each in (llm, other))
    for one, two in zip(found, expected, strict=True):
        assert one.trajectory.response_ids.tolist() == two.trajectory.response_ids.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_quantised_model_keeps_the_dtype_of_its_plain_weights(plain, tmp_path, dtype):
    model = make_quantizer(RTN, {"bits": 4}).quantize(load_model(plain, dtype=dtype), Calibration())
    (tmp_path / "config.json").write_bytes((plain / "config.json").read_bytes())
    save_quantized(model, tmp_path, {})
    again = open_model(tmp_path, dtype=None)
    for name, weight in model.state_dict().items():
        assert weight.dtype == dtype and again.get_parameter(name).dtype == dtype, name
        assert torch.equal(again.get_parameter(name), weight), name


def test_what_is_damaged_is_named_and_what_was_changed_since_is_not_saved(plain, tmp_path):
    folder, model = saved(plain, tmp_path / "quantized", bits=4)
    whole, note = (folder / "model.safetensors").read_bytes(), (folder / QUANTIZATION).read_text()
    with pytest.raises(CheckpointError, match=r"U8.*Quantised checkpoints are not read"):
        load_model(folder)
    (folder / "model.safetensors").write_bytes(whole[:-50])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        open_model(folder)
    (folder / "model.safetensors").write_bytes(whole)
    for said, message in ((note.replace('"bits": 4', '"bits": 5'), "not of one model"), ("{}", "names no layers")):
        assert said != note
        (folder / QUANTIZATION).write_text(said)
        with pytest.raises(CheckpointError, match=message):
            open_model(folder)
    with torch.no_grad():
        model.get_parameter(UP)[0, 0] += 1.0
    with pytest.raises(CheckpointError, match=r"up_proj.*changed since"):
        save_quantized(model, tmp_path, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bit": 4}, "RoundToNearest has no option 'bit'; its options are bits, group, symmetric, narrow, head"),
        ({"bits": 1}, "bits is 1: expected 2 to 8 bits, or 16"),
        ({"bits": 9, "symmetric": False}, "bits is 9: expected 2 to 8 bits, or 16"),
        ({"narrow": True, "symmetric": False}, "RoundToNearest: narrow is true, and it is of symmetric grids"),
        ({"bits": 4.0}, r"bits is 4\.0"),
        ({"group": -1}, "group is -1"),
        ({"group": 7}, r"rtn: model\.layers\.0\.self_attn\.q_proj: group is 7"),
        ({"symmetric": "yes"}, "symmetric is 'yes': .*valid boolean"),
    ],
)
def test_options_that_it_does_not_have_or_that_fit_no_layer_are_refused(plain, options, message):
    with pytest.raises(ConfigError, match=message):
        quantized(plain, **options)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_with_their_layer(plain, value, symmetric):
    model = load_model(plain)
    with torch.no_grad():
        model.get_parameter(UP)[2, 3] = value
    for group in (0, 8):
        quantizer = make_quantizer(RTN, {"bits": 4, "symmetric": symmetric, "group": group})
        with pytest.raises(CheckpointError, match=r"rtn: model\.layers\.0\.mlp\.up_proj: row 2 .*Restore"):
            quantizer.quantize(model, Calibration())
