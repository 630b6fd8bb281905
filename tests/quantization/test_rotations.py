"""SmoothQuant, QuaRot and DuQuant: the official codes' numbers; and before anything is rounded they change nothing.

Models are tiny and of every family's flags: grouped queries, biases, full attention.
"""

from __future__ import annotations

import pytest
import torch
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.naive import Masked, dense_block_mask
from fixtures.tiny import MASK_ID, tiny_model
from official_quantizers import CASES, TENSORS, W, X, share_off, visited_states

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.errors import ConfigError, DecodeError
from lightningrl.inference.llm import LLM
from lightningrl.models.checkpoint import load_model
from lightningrl.models.fused_trunk import FusedTrunk
from lightningrl.quantization.duquant import DuQuant, base_rotation, find_rotation, zigzag
from lightningrl.quantization.folding import fuse_norm
from lightningrl.quantization.hadamard import base_order, hadamard, transposed_hadamard
from lightningrl.quantization.inputs import Hadamard, InputLinear, Permute, RotateBlocks, TokenGrid
from lightningrl.quantization.open import open_model
from lightningrl.quantization.protocol import check_shape
from lightningrl.quantization.quarot import QuaRot, rotated
from lightningrl.quantization.smoothquant import Greatest, SmoothQuant, smoothing_scale
from lightningrl.quantization.stored import save_quantized
from lightningrl.quantization.uniform import Grid, on_grid

SHAPES = {
    "sdar": {},
    "llada": {"attention": "full", "qk_norm": False, "num_key_value_heads": 4, "head_dim": 4},
    "dream": {"attention": "full", "qk_norm": False, "qkv_bias": True, "logit_shift": True},
}
FLOAT = {"bits": 16, "activation_bits": 16}
METHODS = [SmoothQuant, QuaRot, DuQuant]
SMALL = {DuQuant: {"block": 8, "steps": 8}}
WORDS = {"full": {"schedule": "full_sequence", "schedule_options": {"block_size": 4}}, "block_causal": {}}


def model_of(shape, seed=3):
    model = tiny_model(seed, **shape)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 3] *= 8  # a channel that stands out
        for layer in model.model.layers:
            if layer.self_attn.v_proj.bias is not None:
                layer.self_attn.v_proj.bias.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(1))
    return model


def states(model):
    from fixtures.tiny import requests_of

    from lightningrl.inference.policy import policy_of
    from lightningrl.quantization.calibration import visited

    words = WORDS[model.config.attention]
    return visited(
        model, BlockDecoder(model, [1]), requests_of([5] * 6, 12), policy_of(parameter=0.3, **words), 600
    )  # fmt: skip


@torch.no_grad()
def logits(model):
    ids = torch.arange(40)[None] % MASK_ID
    return model.logits(model.hidden(ids, torch.arange(40)[None], Masked(dense_block_mask(40, 4))))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("compat", [False, True])
def test_folding_and_rotations_alone_keep_the_float_model(method, shape, compat):
    exact, model = model_of(SHAPES[shape]), model_of(SHAPES[shape])
    method(**FLOAT, **SMALL.get(method, {}), compat=compat).quantize(model, states(exact))
    if method is DuQuant:  # with 16 bits nothing is rotated: rotate by hand, round nothing
        model = model_of(SHAPES[shape])
        rotating = DuQuant(bits=16, activation_bits=8, **SMALL[DuQuant], compat=compat)
        rotating.quantize(model, states(exact))
        for linear in (each for each in model.modules() if isinstance(each, InputLinear)):
            linear.steps = torch.nn.ModuleList(step for step in linear.steps if not isinstance(step, TokenGrid))
        for layer in model.model.layers:
            layer.self_attn.rounding = None
    changed = [name for name, weight in model.state_dict().items() if not torch.equal(weight, exact.state_dict()[name])]
    assert any("q_proj" in name for name in changed)
    expected = logits(exact)
    gap = float((logits(model) - expected).norm() / expected.norm())
    assert gap > 0.05 if method is QuaRot and compat else gap < 1e-5, "published, it subtracts means of embeddings"


@pytest.mark.parametrize(("method", "shape"), [(SmoothQuant, "sdar"), (QuaRot, "dream"), (DuQuant, "llada")])
def test_eight_bits_are_nearly_the_model_four_are_further(method, shape):
    exact, gaps = logits(model_of(SHAPES[shape])).softmax(-1), []
    for bits in (8, 4):
        made = [model_of(SHAPES[shape]) for _ in range(1 + (bits == 4))]
        for model in made:
            whole = {"activation_clip": 1.0, "weight_clip": 1.0} if method is DuQuant else {}
            options = {"activation_bits": bits, "kv_bits": bits, **whole, **SMALL.get(method, {})}
            method(bits=bits, **options).quantize(model, states(model_of(SHAPES[shape])))
        assert torch.equal(logits(made[0]), logits(made[-1]))  # deterministic
        gaps.append(float((logits(made[0]).softmax(-1) - exact).abs().sum(-1).mean() / 2))
        errors = [each.errors["output"] for each in made[0].modules() if hasattr(each, "errors")]
        assert len(errors) == 14 and max(errors) < (0.05 if bits == 8 else 0.5)
    assert gaps[0] < 0.06 and gaps[0] < gaps[1] / 2


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_model_decodes_as_the_one_that_was_saved(method, tmp_path):
    plain = save_byte_checkpoint(tmp_path / "plain")
    model = load_model(plain)
    quantizer = method(bits=4, activation_bits=4, kv_bits=4, **SMALL.get(method, {}))
    quantizer.quantize(model, visited_states(load_model(plain), vocab=30))
    for path in plain.iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    save_quantized(model, tmp_path, {})
    again = open_model(tmp_path)
    assert torch.equal(logits(again), logits(model))
    save_quantized(again, tmp_path / "plain", {})
    for name in ("model.safetensors", "quantization.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    first = LLM(tmp_path).generate(["How many?"], max_new_tokens=12)[0].text
    joined = LLM(tmp_path, forwards="gathered").generate(["How many?"], max_new_tokens=12)[0].text
    assert first == joined
    with pytest.raises(DecodeError, match="keys and values are quantised"):
        FusedTrunk(again)


def test_shapes_that_cannot_be_rotated_are_refused():
    for shape, message in (
        ({"tie_word_embeddings": True}, "head is tied to its embedding"),
        ({"head_dim": 12}, "heads of 12 numbers cannot be rotated"),
        ({"intermediate_size": 26}, "no Hadamard matrix here for 26"),
        ({"num_attention_heads": 26, "head_dim": 2}, "no Hadamard matrix here for 26"),
    ):
        model = tiny_model(0, **shape)
        for check in (lambda model: check_shape(QuaRot(), model.config),
                      lambda model: QuaRot().quantize(model, visited_states(tiny_model(0)))):  # fmt: skip
            with pytest.raises(ConfigError, match=message):
                check(model)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny_model(0, **shape).parameters(),
                                                     strict=True))  # fmt: skip
    with pytest.raises(ConfigError, match=r"model\.layers\.0\.self_attn\.q_proj: block is 128, but a layer has 16"):
        DuQuant().quantize(tiny_model(0), visited_states(tiny_model(0)))


def test_token_grids_are_the_official_ones():
    for name, grid in {"b8.sym.c1.0": TokenGrid(8), "b4.sym.c1.0": TokenGrid(4), "b4.sym.c0.9": TokenGrid(4, clip=0.9),
                       "b4.asym.c1.0": TokenGrid(4, symmetric=False)}.items():  # fmt: skip
        assert share_off(grid(X[:16]), TENSORS[f"quarot.act.{name}"], 1e-5) < 1e-3, name
    assert (TokenGrid(4)(torch.zeros(2, 8)) == 0).all() and (TokenGrid(4, False)(torch.zeros(2, 8)) == 0).all()


def test_smoothing_is_the_official_one():
    most, weights = Greatest(), [W, TENSORS["smooth.in.W2"].float(), TENSORS["smooth.in.W3"].float()]
    for part in X.split(50):
        most.observe(part)
    torch.testing.assert_close(most.of_input, TENSORS["smooth.act_max"], rtol=1e-6, atol=0)
    everything = torch.cat(weights).abs().amax(0)
    for alpha in (0.5, 0.8):
        found = smoothing_scale(most.of_input, everything, alpha)
        torch.testing.assert_close(found, TENSORS[f"smooth.official.a{alpha}.scale"], rtol=1e-5, atol=1e-7)
    first = smoothing_scale(most.of_input, W.abs().amax(0), 0.5)
    torch.testing.assert_close(first, TENSORS["smooth.qdlm.a0.5.scale_first_only"], rtol=1e-5, atol=1e-7)
    scale = TENSORS["smooth.official.a0.5.scale"]
    torch.testing.assert_close(W * scale, TENSORS["smooth.official.a0.5.W"], rtol=1e-5, atol=1e-7)
    for bits, case in ((8, "W8A8"), (4, "W4A4")):
        for x, w, name in ((X, W, "plain"), (X / scale, W * scale, "smooth")):
            found = TokenGrid(bits)(x) @ on_grid(w, Grid(bits=bits, lowest=True)).values().T
            error = float((found - X @ W.T).square().mean())
            assert error == pytest.approx(CASES["smoothquant"][f"{case}.{name}"], rel=0.02)


def test_hadamard_transforms_are_the_official_ones():
    for order in (12, 20):
        matrix = hadamard(torch.eye(order)).T * order**0.5
        torch.testing.assert_close(matrix, TENSORS[f"quarot.had{order}"].float(), rtol=0, atol=1e-5)
    x_384 = TENSORS["quarot.in.x384"].float()
    for found, name in (
        (hadamard(x_384), "hadU.x384"), (hadamard(x_384), "hadU_cuda_layout.x384"),
        (transposed_hadamard(x_384), "hadUt.x384"), (hadamard(X[:8]), "hadU.X128"),
        (hadamard(torch.eye(16)), "hadU.eye16"), (hadamard(W), "exact_had.input_full"),
        (rotated(torch.eye(128), TENSORS["quarot.signs"].float())[:8], "Q.first8rows"),
        (Hadamard()(W.T.unflatten(-1, (-1, 32))).flatten(-2).T, "exact_had.output_headdim32"),
    ):  # fmt: skip
        torch.testing.assert_close(found, TENSORS[f"quarot.{name}"], rtol=0, atol=2e-5)
    for size in (1, 2, 24, 28, 76, 3584):
        assert base_order(size) in (1, 12, 28, 76)
        eye = torch.eye(size)[: min(size, 40)]
        torch.testing.assert_close(transposed_hadamard(hadamard(eye)), eye, rtol=0, atol=1e-5)


def test_rotated_weights_and_tokens_have_the_official_error():
    signs = TENSORS["quarot.signs"].float()
    for bits in (3, 4):
        grid = Grid(bits=bits, lowest=True, search=True)
        torch.testing.assert_close(
            on_grid(W, grid).scale_OG, TENSORS[f"quarot.w.b{bits}.sym.mse.scale"], rtol=1e-6, atol=0
        )
    assert float(rotated(X, signs).abs().max()) == pytest.approx(CASES["quarot"]["max_abs_XQ"], rel=1e-5)
    for bits, case in ((8, "W8A8"), (4, "W4A4")):
        for x, w, name in ((X, W, "plain"), (rotated(X, signs), rotated(W, signs), "rotated")):
            found = TokenGrid(bits)(x) @ on_grid(w, Grid(bits=bits, lowest=True, search=True)).values().T
            error = float((found - X @ W.T).square().mean())
            assert error == pytest.approx(CASES["quarot"]["out_mse"][f"{case}.{name}"], rel=0.02)


def test_duquants_transform_of_the_official_rotations_is_the_official_one():
    rotations, order = TENSORS["duquant.R"], TENSORS["duquant.perm"][0]
    for size in (4, 32):
        torch.testing.assert_close(base_rotation(size), TENSORS[f"duquant.base_rot.{size}"], rtol=0, atol=1e-6)
    assert torch.equal(zigzag(X.abs().amax(0), 32).int(), TENSORS["duquant.zigzag_perm_of_X"])
    first, second = (RotateBlocks(each) for each in rotations)
    assert torch.equal(zigzag(first(X).abs().amax(0), 32).int(), order)
    x, w = (second(Permute(order)(first(each))) for each in (X, W))
    torch.testing.assert_close(x[:32], TENSORS["duquant.X_transformed_first32"], rtol=0, atol=1e-5)
    torch.testing.assert_close(w, TENSORS["duquant.W_transformed"], rtol=0, atol=1e-5)
    rounded_x, rounded_w = TokenGrid(4, False, 0.9)(x), on_grid(w, Grid(bits=4, kind="asymmetric", clip=0.8)).values()
    assert share_off(rounded_w, TENSORS["duquant.W_fakequant"], 1e-5) < 1e-3
    assert share_off(rounded_x[:32], TENSORS["duquant.X_fakequant_first32"], 1e-5) < 1e-3
    error = float((rounded_x @ rounded_w.T - X @ W.T).square().mean())
    assert error == pytest.approx(CASES["duquant"]["out_mse_W4A4"], rel=1e-3)


@pytest.mark.parametrize("by_row", [False, True])
def test_the_search_finds_orthogonal_rotations_that_spread_outliers(by_row):
    found = find_rotation(X, 32, 16, torch.Generator().manual_seed(0), by_row)
    torch.testing.assert_close(found @ found.T, torch.eye(32), rtol=0, atol=1e-5)
    assert float(RotateBlocks(found)(X).abs().max()) < 0.5 * float(X.abs().max())


def test_a_step_turns_about_the_column_of_the_outlier_and_the_published_one_about_its_row():
    """One value at row 5, column 9: about its channel, 1 / sqrt(16) of it stays there."""
    x = torch.zeros(8, 16)
    x[5, 9] = 16.0
    spread, other = (
        RotateBlocks(find_rotation(x, 16, 1, torch.Generator().manual_seed(0), by_row))(x) for by_row in (False, True)
    )
    assert float(spread[5, 9]) == pytest.approx(4.0, abs=1e-4) and float(spread[5].norm()) == pytest.approx(16.0)
    assert float(other[5, 9]) != pytest.approx(4.0, abs=1e-2)


def test_a_norms_weight_goes_into_what_reads_it():
    model = tiny_model(0)
    layer = model.model.layers[0]
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    before = layer.mlp.gate_proj(layer.post_attention_layernorm(x))
    fuse_norm(layer.post_attention_layernorm, layer.mlp.gate_proj, layer.mlp.up_proj)
    assert (layer.post_attention_layernorm.weight == 1).all()
    torch.testing.assert_close(layer.mlp.gate_proj(layer.post_attention_layernorm(x)), before)
