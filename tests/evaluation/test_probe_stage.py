"""Probes as a stage, and the validation split as what is evaluated, with a tiny random base."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.tiny import requests_of, tiny_model

from lightningrl.config.experiment import Experiment
from lightningrl.config.registries import REGISTRIES
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.schedules.full_sequence import DualCache, FullSequence, WholeSequence
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.stops import WholeCanvas
from lightningrl.pipeline import runner
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.runner import run_stage
from lightningrl.pipeline.stages.probe import one_a_forward
from lightningrl.tokenization import load_tokenizer
from lightningrl.utils import files
from lightningrl.utils.registry import resolve

NAME = "base/gsm-mini"


@pytest.fixture
def planned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.system, "set_thread_environment", lambda threads: None)
    save_byte_checkpoint(tmp_path / "model", max_position_embeddings=512)
    mask = load_tokenizer(tmp_path / "model").mask_token_id

    def make(probes=("base", "ours"), validation=4, thresholds=(0.02, 0.9), split="validation", **report):
        return plan(Experiment.model_validate({
            "experiment": "t",
            "benchmarks": [
                {"name": "gsm-mini", "train": 8, "validation": validation, "test": 3, "max_new_tokens": 12}
            ],
            "base": {"checkpoint": str(tmp_path / "model"), "block_size": 4, "mask_token_id": mask},
            "evaluation": {"thresholds": list(thresholds), "primary_threshold": thresholds[0], "split": split},
            "runs": [
                {"name": "ours", "role": "after", "algorithm": "lightningrl", "benchmark": "gsm-mini", "steps": 1}
            ][:validation],
            "report": {"tables": ["study"], "figures": [], "replays": [], "probes": list(probes)} | report,
        }))  # fmt: skip

    return make


def test_probes_are_planned_where_the_config_names_them(planned):
    assert [stage.name for stage in planned().of("probe")] == [NAME, "ours/gsm-mini"]
    assert [stage.name for stage in planned(probes=["ours"]).of("probe")] == ["ours/gsm-mini"]
    assert not planned(probes=[]).of("probe")
    assert {"probe/base/gsm-mini", "probe/ours/gsm-mini"} <= set(planned().of("collect")[0].inputs)
    key = planned().stage("probe", NAME).key
    assert planned(probed_problems=2).stage("probe", NAME).key != key == planned(split="test").stage("probe", NAME).key
    assert [stage.name for stage in planned(probes=["base"]).of("probe")] == [NAME], "where it is evaluated"
    for wrong, why, validation in (
        (["theirs"], "probes.0: found 'theirs'", 4),
        (["ours", "ours"], "probes.1: .ours. is listed twice", 4),
        (["base"], "found only base; .*or give a benchmark validation problems", 0),
    ):
        with pytest.raises(ValueError, match=why):
            planned(probes=wrong, validation=validation)


def test_a_probe_counts_the_tokens_of_the_same_answers_as_an_evaluation_of_the_validation_split(planned):
    of = planned()
    for kind, name in (("data", "gsm-mini"), ("selfcheck", "gsm-mini"), ("checkpoint", "base"), ("evaluate", NAME)):
        run_stage(of, of.stage(kind, name))
    run_stage(of, of.stage("probe", NAME))
    data = of.stage("data", "gsm-mini").folder
    asked = [row["uid"] for row in files.read_jsonl(data / "validation.jsonl")]
    records = list(files.read_jsonl(of.stage("evaluate", NAME).folder / "records.jsonl"))
    assert [r["uid"] for r in records if r["threshold"] == 0.02] == asked and len(asked) == 4
    probe = pd.read_csv(of.stage("probe", NAME).folder / "probe.csv").set_index(["measure", "label"])
    tokens = sum(r["response_tokens"] for r in records if r["threshold"] == 0.02)
    assert probe.loc[("class_together", "all"), "count"] == tokens
    classes = probe.loc["class_together"].drop("all")
    assert classes["count"].sum() == tokens
    mean = (classes["count"] * classes["value"]).sum() / tokens
    assert probe.loc[("class_together", "all"), "value"] == pytest.approx(mean)
    assert probe.loc["confidence", "count"].sum() == probe.loc[("calibration_error", "all"), "count"] > 0
    assert (probe.loc["agreement", "value"].between(0, 1)).all()
    assert {"phrasing_nats_greedy", "phrasing_nats_sampled"} <= set(probe.index.get_level_values(0))


@pytest.mark.parametrize("schedule", [FullSequence(8), FullSequence(3), WholeSequence(), DualCache(6)])
def test_one_a_forward_is_that_on_canvases_too_whatever_the_models_blocks_are(schedule):
    """Confidence is measured where one token is revealed at a time; the model's own blocks have 4 positions."""
    model, length = tiny_model(3, attention="full", block_size=4), 24
    usual = DecodePolicy(Threshold(0.1), schedule=schedule, stop=WholeCanvas())
    careful = one_a_forward(usual, resolve(REGISTRIES["selector"])["quota"], length, model.config.block_size)
    [found] = BlockDecoder(model, ()).decode(requests_of([5], length), careful)
    assert found.stats.denoise_forwards == found.stats.emitted_tokens == length
    assert careful == replace(usual, selector=careful.selector)


def test_a_split_that_has_no_problems_is_not_evaluated(planned):
    assert not planned(probes=(), validation=0).of("evaluate")
    assert NAME in [stage.name for stage in planned(probes=(), validation=0, split="test").of("evaluate")]
