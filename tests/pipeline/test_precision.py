"""What decodes a finished policy does so in the precision of the config, which its key holds and its results say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fixtures.byte_checkpoint import save_byte_checkpoint
from small import NANO as NANO_FILE

from lightningrl.config.experiment import Experiment, load
from lightningrl.models.transformer import Transformer
from lightningrl.pipeline import runner
from lightningrl.pipeline.plan import Plan, plan
from lightningrl.pipeline.runner import run_stage
from lightningrl.pipeline.stages import decoder
from lightningrl.tokenization import load_tokenizer

DECODING = ("evaluate", "speed", "probe", "replay")


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """The plan of three problems and a run of one step from a tiny base, with every kind of stage that decodes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.system, "set_thread_environment", lambda threads: None)
    save_byte_checkpoint(tmp_path / "model", max_position_embeddings=512)
    tree = load(NANO_FILE).model_dump(mode="json", exclude_unset=True)
    tree = {name: value for name, value in tree.items() if name not in ("model", "pretrain", "tokenizer")}
    tree |= {
        "benchmarks": [{"name": "gsm-mini", "train": 20, "validation": 2, "test": 3, "max_new_tokens": 8}],
        "base": {
            "checkpoint": str(tmp_path / "model"), "block_size": 4, "published": "SDAR-8B-b32",
            "mask_token_id": load_tokenizer(tmp_path / "model").mask_token_id,
        },
        "runs": [tree["runs"][0] | {"steps": 1, "threshold": 0.02}],
        "speed": {"benchmarks": ["gsm-mini"], "prompts": 2, "warmup": 1, "repeats": 1},
        "report": {
            "tables": ["table7"], "figures": [], "replays": ["lightningrl"], "replayed_problems": 1,
            "probes": ["base", "lightningrl"], "probed_problems": 2,
        },
    }  # fmt: skip
    sweep = {"thresholds": [0.02], "primary_threshold": 0.02}

    def make(device: str = "cpu", **evaluation: str) -> Plan:
        changed = {"evaluation": sweep | evaluation, "resources": {"device": device}}
        return plan(Experiment.model_validate(tree | changed))

    return make


def keys(of: Plan) -> dict[str, str]:
    return {stage.label: stage.key for stage in of if stage.kind in DECODING}


def test_one_key_is_one_precision_whatever_the_word_and_the_device(planned):
    """Where nothing is said the key is that of what `auto` stands for on the config's device; training is as it was."""
    plain, on_gpu = planned(), planned("cuda")
    assert {stage.kind for stage in plain if stage.kind in DECODING} == set(DECODING)
    assert keys(plain) == keys(planned(precision="float32")) == keys(planned("cuda", precision="float32"))
    assert keys(on_gpu) == keys(planned(precision="bfloat16")) == keys(planned("cuda", precision="bfloat16"))
    assert not set(keys(plain).values()) & set(keys(on_gpu).values())
    for kind in ("data", "checkpoint", "train"):
        assert [stage.key for stage in plain.of(kind)] == [stage.key for stage in on_gpu.of(kind)]
    [one, other] = (of.stage("evaluate", "base/gsm-mini") for of in (plain, on_gpu))
    assert one.cache != other.cache, "nor is a record of one gathered for the other"
    assert "auto" not in json.dumps([stage.preimage["science"] for stage in plain if stage.kind in DECODING])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_models_are_loaded_in_it_and_results_say_it(planned, precision, monkeypatch):
    of, loaded, make_decoder = planned(precision=precision), [], decoder.make_decoder

    def noting(config, model: Transformer, *rest):
        loaded.append(model.lm_head.weight.dtype)
        return make_decoder(config, model, *rest)

    for kind in ("data", "selfcheck", "checkpoint", "train"):
        for stage in of.of(kind):
            run_stage(of, stage)
    monkeypatch.setattr(decoder, "make_decoder", noting)
    folders = {}
    for stage in (stage for stage in of if stage.kind in DECODING):
        run_stage(of, stage)
        folders[stage.label] = stage.folder
        science = json.loads((stage.folder / "manifest.json").read_text())["preimage"]["science"]
        assert science["precision"] == precision, stage.label
    assert len(loaded) == len(folders) + 1 and set(loaded) == {getattr(torch, precision)}, "a replay has two"
    rows = json.loads((folders["evaluate/base/gsm-mini"] / "summary.json").read_text())
    assert [row["dtype"] for row in rows] == [precision]
    assert json.loads((folders["speed/base/gsm-mini"] / "speed.json").read_text())["dtype"] == precision
    assert f", {precision}" in (folders["replay/lightningrl"] / "lightningrl-1.html").read_text()
    assert f"in {precision}" in of.stage("probe", "lightningrl/gsm-mini").log.read_text()
