"""`lightningrl export`, what `plan` says of quantizers, and what the stage refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import yaml
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.tiny import tiny_model
from official_quantizers import visited_states
from typer.testing import CliRunner

from lightningrl.bench.estimate.budget import DEVICES, Estimate, shapes_of
from lightningrl.bench.model_shape import Shape
from lightningrl.cli.app import app
from lightningrl.config.experiment import load
from lightningrl.errors import CheckpointError
from lightningrl.models.checkpoint import load_model
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.stages import quantize
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.quantization.open import open_model
from lightningrl.quantization.protocol import Calibration, make_quantizer
from lightningrl.quantization.registry import PASSES, QUANTIZERS
from lightningrl.quantization.rtn import RoundToNearest
from lightningrl.quantization.stored import save_quantized


@pytest.fixture
def quantised(tmp_path):
    plain = save_byte_checkpoint(tmp_path / "plain")
    model = RoundToNearest(bits=4, group=8).quantize(load_model(plain), Calibration())
    save_quantized(model, tmp_path / "w4", {})
    for path in plain.iterdir():
        if path.suffix == ".json":
            (tmp_path / "w4" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "w4"


def test_a_folder_that_is_there_stays_and_a_new_one_is_read_like_the_quantised_one(quantised, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "precious").write_text("precious")
    done = CliRunner().invoke(app, ["export", str(quantised), "--out", str(tmp_path / "there")])
    assert done.exit_code == 2 and "already exists; name a new folder" in done.stderr
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["precious"]
    pytest.importorskip("compressed_tensors", reason="the extra `ptq` is not installed")
    done = CliRunner().invoke(app, ["export", str(quantised), "--out", str(tmp_path / "new")])
    assert done.exit_code == 0 and "4 bits, groups of 8" in done.stderr, done.stderr
    one, other = open_model(quantised), open_model(tmp_path / "new")
    assert all(torch.equal(weight, other.state_dict()[name]) for name, weight in one.state_dict().items())


def test_an_adapter_that_is_not_merged_and_a_quantised_checkpoint_are_not_quantised(quantised, tmp_path):
    config = {"members": {"quantizer": QUANTIZERS["rtn"]}, "options": {}, "seed": 0}
    context = StageContext(config, {"policy": quantised}, tmp_path / "out", tmp_path / "state")
    with pytest.raises(CheckpointError, match="is quantised already: quantise the checkpoint that it was made from"):
        quantize.run(context)
    (tmp_path / "plain" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"an adapter that is not merged.*name it as `adapter`"):
        quantize.run(replace(context, inputs={"policy": tmp_path / "plain"}))


@pytest.mark.parametrize("name", ["gptq", "smoothquant", "quarot", "duquant"])
def test_a_layer_runs_as_often_as_the_plan_counts(name):
    model, options = tiny_model(3), {"gptq": {"group": 8}, "duquant": {"block": 8, "steps": 2}}
    found, runs = visited_states(tiny_model(3)), []
    model.model.layers[1].register_forward_pre_hook(lambda *_: runs.append(1))
    make_quantizer(QUANTIZERS[name], options.get(name, {})).quantize(model, found)
    assert len(runs) == PASSES[name] * len(found.forwards)


def test_the_plan_says_bytes_and_seconds_and_an_eight_billion_model_fits_one_gpu(tmp_path):
    tree = yaml.safe_load((PACKAGE.parent / "config" / "nano.yaml").read_text())
    names = ["rtn", "gptq", "awq", "smoothquant", "quarot", "duquant"]
    tree |= {
        "runs": [],
        "report": {"figures": [], "tables": []},
        "systems": [{"name": f"q-{n}", "policy": "base", "quantizer": n} for n in names],
    }
    (tmp_path / "q.yaml").write_text(yaml.safe_dump(tree))
    experiment = load(tmp_path / "q.yaml")
    estimate = Estimate(experiment, {"base": Shape.of_size("8b", 32)}, DEVICES["h100"], 1)
    found = estimate.to_json()["quantizations"]
    assert list(found) == [f"q-{name}" for name in names] and all(each["fits"] for each in found.values())
    rtn, gptq, awq = (found[f"q-{name}"] for name in ("rtn", "gptq", "awq"))
    assert rtn["tokens"] == rtn["seconds"] == 0 and rtn["bytes"] < gptq["bytes"] < awq["bytes"]
    # By hand: weights that are trained here are float32; a layer of 193 million weights stands there once more in it.
    shape = Shape.of_size("8b", 32)
    parts = gptq["points"]["rounding a layer"]
    assert parts["weights"] == 4 * shape.parameters and parts["a layer in float32, twice"] == pytest.approx(
        0.772e9, rel=1e-3
    )
    assert parts["second moments"] == 6 * 4 * 12288**2 and gptq["tokens"] == awq["tokens"] > 1000
    # 5 passes of 2 x 6.95e9 operations a position, at 45 % of a fifteenth of 989e12; the columns of 36 layers.
    trunk = 5 * 2 * shape.trunk_matrices * gptq["tokens"] / (0.45 * 989e12 / 15)
    columns = 36 * 2e-4 * (3 * 4096 + 4096 + 2 * 4096 + 12288)
    assert trunk + columns < gptq["seconds"] < 2 * (trunk + columns) + 60
    assert json.loads(json.dumps(found)) == found


def test_every_quantised_system_of_the_real_size_fits_80_gb_and_decodes_as_its_evaluation_does():
    experiment = load(PACKAGE.parent / "config" / "quantization-paper.yaml")
    found = Estimate(experiment, shapes_of(experiment), DEVICES["h100"], None).to_json()
    assert all(each["fits"] for each in found["quantizations"].values())
    weights = 2 * found["models"]["base"]["parameters"]
    assert all(parts["weights"] == weights for parts in found["quantizations"]["base-w3-awq"]["points"].values())
    # One token a forward over whole canvases: of a problem as many seconds as in its evaluation on the same problems,
    # but for the rows that decode together, 16 and not 64.
    [evaluated] = [row for name, row in found["evaluations"].items() if name == "llada-instruct-w3-gptq/gsm8k"]
    each_s = evaluated["point"]["seconds"] / evaluated["problems"]
    row = found["quantizations"]["llada-instruct-w3-gptq"]
    assert 128 * each_s < row["seconds"] < 3 * 128 * each_s + 1000 and row["tokens"] == 2**18
