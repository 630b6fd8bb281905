"""The format of engines: the same weights bit for bit, by our reading and by the library's own."""

from __future__ import annotations

import json

import pytest
import torch
from fixtures.byte_checkpoint import save_byte_checkpoint
from safetensors.torch import load_file, save_file

from lightningrl.config.base import Base
from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.inference.llm import LLM
from lightningrl.models.checkpoint import load_model
from lightningrl.pipeline.stages import checkpoint, fitting
from lightningrl.quantization.open import open_model
from lightningrl.quantization.protocol import Calibration
from lightningrl.quantization.rtn import RoundToNearest
from lightningrl.quantization.stored import save_quantized
from lightningrl.quantization.uniform import Grid, attach, on_grid, quantized_of

pytest.importorskip("compressed_tensors", reason="the extra `ptq` is not installed")
from lightningrl.quantization.compressed import write

LLADA = {"family": "llada", "attention": "full", "qk_norm": False, "num_key_value_heads": 4, "head_dim": 4}


def quantised(folder, shape=None, dtype=torch.float32, **options):
    """A quantised checkpoint's folder and its model."""
    plain = save_byte_checkpoint(folder / "plain", **(shape or {}))
    model = RoundToNearest(**options).quantize(load_model(plain, dtype=dtype), Calibration())
    for path in plain.iterdir():
        if path.suffix == ".json":
            (folder / path.name).write_bytes(path.read_bytes())
    save_quantized(model, folder, {})
    return folder, model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [{}, LLADA])
@pytest.mark.parametrize(
    "options",
    [
        {"bits": 4, "group": 8},
        {"bits": 8},
        {"bits": 4, "symmetric": False},
        {"bits": 8, "symmetric": False, "group": 4},
    ],
)
def test_a_round_trip_gives_the_same_weights_bit_for_bit(tmp_path, options, shape, dtype):
    folder, model = quantised(tmp_path, shape, dtype, **options)
    write(folder, tmp_path / "engines")
    again = open_model(tmp_path / "engines", dtype=None)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())
    assert sum(quantized_of(layer) is not None for layer in again.modules()) == 14
    if shape:  # decoded over a whole canvas
        return
    answer = LLM(tmp_path / "engines").generate(["How many?"], max_new_tokens=8)[0].text
    assert answer == LLM(folder).generate(["How many?"], max_new_tokens=8)[0].text


@pytest.mark.parametrize("options", [{"bits": 4, "group": 8}, {"bits": 8, "symmetric": False}])
def test_the_library_itself_makes_the_same_of_the_files(tmp_path, options):
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationConfig

    folder, model = quantised(tmp_path, **options)
    write(folder, tmp_path / "engines")
    said = json.loads((tmp_path / "engines" / "config.json").read_text())["quantization_config"]
    [scheme] = QuantizationConfig.model_validate(said).config_groups.values()
    tensors = load_file(tmp_path / "engines" / "model.safetensors")
    for name, layer in model.named_modules():
        if quantized_of(layer) is not None:
            own = {key.removeprefix(f"{name}."): each for key, each in tensors.items() if key.startswith(f"{name}.")}
            assert torch.equal(PackedQuantizationCompressor.decompress(own, scheme)["weight"], layer.weight), name


def test_a_folder_that_the_library_wrote_is_read(tmp_path):
    """Its own quantisation of one layer, packed by it; and the other format, int8 codes as they are."""
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(num_bits=4, group_size=8, strategy="group", symmetric=True)
    plain = save_byte_checkpoint(tmp_path / "plain")
    model, name = load_model(plain), "model.layers.1.mlp.up_proj"
    for form in ("pack-quantized", "int-quantized"):
        weight = model.get_parameter(f"{name}.weight").detach()
        grid = on_grid(weight, Grid(bits=4, kind="wide"), 8)
        tensors = {key: each.clone() for key, each in model.state_dict().items() if key != f"{name}.weight"}
        if form == "pack-quantized":
            scheme = QuantizationScheme(targets=["Linear"], weights=args)
            made = PackedQuantizationCompressor.compress({"weight": weight, "weight_scale": grid.scale_OG}, scheme)
            tensors |= {f"{name}.{key}": each for key, each in made.items()}
        else:
            tensors |= {
                f"{name}.weight": (grid.codes_OI.int() - 8).to(torch.int8),
                f"{name}.weight_scale": grid.scale_OG,
            }
        folder = tmp_path / form
        folder.mkdir()
        save_file({key: each.contiguous() for key, each in tensors.items()}, folder / "model.safetensors")
        about = {"quant_method": "compressed-tensors", "format": form, "ignore": ["re:.*self_attn.*", "lm_head"],
                 "config_groups": {"group_0": {"targets": [r"re:.*layers\.1\.mlp\.up_proj$"],
                                               "weights": args.model_dump(mode="json")}}}  # fmt: skip
        config = json.loads((plain / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": about}))
        found = open_model(folder)
        assert torch.equal(found.get_parameter(f"{name}.weight"), grid.values())
        about["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8}
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": about}))
        with pytest.raises(CheckpointError, match="quantises activations or caches, and weights alone are read"):
            open_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("bits", "it has 3 bits, and engines load 4 and 8"),
        ("order", "groups follow the order of activations.*static_groups: true"),
        ("mixed", "its layers have different grids"),
    ],
)
def test_what_engines_do_not_load_is_refused(tmp_path, change, message):
    folder, model = quantised(tmp_path, bits=3 if change == "bits" else 4, group=8)
    layer = model.model.layers[0].mlp.up_proj
    if change == "order":
        quantized = quantized_of(layer)
        quantized = type(quantized)(
            quantized.codes_OI, quantized.scale_OG, quantized.zero_OG, 4, True, torch.arange(16).flip(0).to(torch.int32)
        )
        attach(layer, quantized)
    if change == "mixed":
        attach(layer, on_grid(layer.weight, Grid(bits=4), 4))
    save_quantized(model, folder, {})
    with pytest.raises(ConfigError, match=message):
        write(folder, tmp_path / "engines")
    assert not (tmp_path / "engines").exists()


def test_inputs_on_grids_are_refused(tmp_path):
    from official_quantizers import visited_states

    from lightningrl.quantization.smoothquant import SmoothQuant

    folder, _ = quantised(tmp_path, bits=8)
    model = load_model(tmp_path / "plain")
    SmoothQuant().quantize(model, visited_states(load_model(tmp_path / "plain"), vocab=30))
    save_quantized(model, folder, {})
    with pytest.raises(ConfigError, match="inputs are changed when they are computed"):
        write(folder, tmp_path / "engines")


def groups(weights, targets=("Linear",)):
    return {"config_groups": {"group_0": {"targets": targets and list(targets), "weights": weights}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (groups({"num_bits": 4}, targets=None), r"group_0\.targets is None, expected a list"),
        (groups({"num_bits": 4}, targets=["re:(["]), r"targets has 're:\(\[', no regular expression"),
        (groups([4]), "weights is .*expected keys"),
        (groups({"num_bits": "4"}), "weights is .*expected keys"),
        (groups({"num_bits": 4.0}), "weights is .*expected keys"),
        (groups(None), "pack-quantized of None bits"),
        ({"config_groups": [{"targets": ["Linear"]}]}, "config_groups is .*expected groups by name"),
        ({"config_groups": {"group_0": ["Linear"]}}, "expected groups by name"),
        ({"ignore": ["re:["]}, r"ignore has 're:\[', no regular expression"),
        ({"ignore": "lm_head"}, "ignore is 'lm_head', expected a list"),
        ({"ignore": [4]}, "expected a list of names"),
        ({"format": None}, "is None of 4 bits"),
    ],
)
def test_a_quantization_config_that_is_damaged_is_named(tmp_path, change, message):
    folder, _ = quantised(tmp_path, bits=4, group=8)
    about = write(folder, tmp_path / "engines")
    config = json.loads((tmp_path / "engines" / "config.json").read_text())
    (tmp_path / "engines" / "config.json").write_text(json.dumps(config | {"quantization_config": about | change}))
    with pytest.raises(CheckpointError, match=message):
        open_model(tmp_path / "engines")


@pytest.mark.parametrize("index", ["{", "{}", '{"weight_map": ["model.safetensors"]}', "[]"])
def test_an_index_that_is_damaged_is_named(tmp_path, index):
    folder, _ = quantised(tmp_path, bits=4, group=8)
    write(folder, tmp_path / "engines")
    (tmp_path / "engines" / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"index\.json is damaged.*Restore"):
        open_model(tmp_path / "engines")


def test_an_experiments_checkpoints_are_plain_ones_and_a_folder_with_codes_says_so(tmp_path):
    folder, _ = quantised(tmp_path, bits=4, group=8)
    write(folder, tmp_path / "engines")
    for each in (folder, tmp_path / "engines"):
        base = Base(checkpoint=str(each), block_size=4, mask_token_id=23)
        with pytest.raises(CheckpointError, match="is quantised, and `base` and `checkpoints` take plain weights"):
            checkpoint.check(each, base)
        with pytest.raises(CheckpointError, match=r"base\.checkpoint: .*is quantised"):
            fitting.inspected(base, "base")
