"""Tokens a second as a stage: where it is planned, what it counts, how its seconds add up, how it stops."""

import json

import pytest
from fixtures.byte_checkpoint import save_byte_checkpoint

from lightningrl.bench import speed as bench
from lightningrl.bench.speed import Batch, Clock, SpeedMeasurement
from lightningrl.config.experiment import Experiment
from lightningrl.decoding.ledger import Forward, Part
from lightningrl.errors import Interrupted
from lightningrl.pipeline import runner
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.runner import run_stage
from lightningrl.report.series import SPEED_COLUMNS
from lightningrl.tokenization import load_tokenizer
from lightningrl.types import EvalRecord
from lightningrl.utils import files

NAME = "base/gsm-mini"


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """The plan of five gsm-mini problems with a tiny base, and with changes of the `speed` section."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.system, "set_thread_environment", lambda threads: None)
    save_byte_checkpoint(tmp_path / "model", max_position_embeddings=512)
    mask = load_tokenizer(tmp_path / "model").mask_token_id

    def make(published="SDAR-8B-b32", tables=("table7",), **speed):
        return plan(Experiment.model_validate({
            "experiment": "t",
            "benchmarks": [{"name": "gsm-mini", "train": 8, "validation": 2, "test": 5, "max_new_tokens": 12}],
            "base": {
                "checkpoint": str(tmp_path / "model"), "block_size": 4, "mask_token_id": mask, "published": published,
            },
            "evaluation": {"thresholds": [0.02, 0.9], "primary_threshold": 0.02},
            "speed": {"benchmarks": ["gsm-mini"], "prompts": 3, "warmup": 1, "repeats": 2} | speed,
            "report": {"tables": list(tables), "figures": [], "replays": []},
        }))  # fmt: skip

    return make


def measure(of):
    for kind, name in (("data", "gsm-mini"), ("checkpoint", "base"), ("speed", NAME)):
        run_stage(of, of.stage(kind, name))
    return json.loads((of.stage("speed", NAME).folder / "speed.json").read_text())


def test_it_is_planned_only_where_a_table_needs_it_and_for_the_rows_it_names(planned):
    assert [stage.name for stage in planned().of("speed")] == [NAME]
    assert not planned(tables=["main"]).of("speed") and not planned(published="").of("speed")
    assert not planned(benchmarks=[]).of("speed")  # the table's own benchmark is not in this experiment
    collect = planned(tables=["main", "table7"]).of("collect")
    assert [set(stage.inputs) for stage in collect] == [{"evaluate/base/gsm-mini"}, {"speed/base/gsm-mini"}]
    with pytest.raises(ValueError, match=r"speed.benchmarks.0: found 'gsm8k'"):
        planned(benchmarks=["gsm8k"])


def test_its_key_holds_how_it_is_measured_and_not_where(planned):
    before = planned().stage("speed", NAME)
    assert planned(batch=2).stage("speed", NAME).key != before.key
    assert planned(tables=["main", "table7"]).stage("speed", NAME).key == before.key


@pytest.mark.parametrize("batch", [1, 2])
def test_counts_are_those_of_the_evaluation_and_prefill_and_the_rest_add_up(planned, batch):
    of = planned(batch=batch)
    row = measure(of)
    run_stage(of, of.stage("selfcheck", "gsm-mini"))
    run_stage(of, of.stage("evaluate", NAME))
    rows = files.read_jsonl(of.stage("evaluate", NAME).folder / "records.jsonl")
    records = [r for r in map(EvalRecord.from_json, rows) if r.threshold == 0.02][:3]
    assert row["tokens"] == sum(r.response_tokens for r in records) > 0
    assert row["denoise_forwards"] == sum(r.denoise_forwards for r in records)
    assert row["tpf"] == pytest.approx(row["tokens"] / row["denoise_forwards"])
    assert (row["prompts"], row["warmup_prompts"], row["batch"], row["threshold"]) == (3, 1, batch, 0.02)
    assert row["prefill_included"] is True and 0 < row["prefill_seconds"] < row["seconds"]
    assert row["prefill_seconds"] + row["decode_seconds"] == pytest.approx(row["seconds"])
    assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
    assert row["tokens_per_second_without_prefill"] > row["tokens_per_second"]
    assert row["tokens_per_second_low"] <= row["tokens_per_second_high"]
    assert row["dtype"] == "float32" and row["device"] and row["schedule"] == "fused"
    assert set(SPEED_COLUMNS) - {"role", "published"} <= set(row)
    assert all(not isinstance(value, dict | list) for value in row.values())


def test_stopped_it_starts_anew_and_finished_it_stays(planned, monkeypatch):
    of = planned()
    whole = measure(of)
    stage = of.stage("speed", NAME)
    assert run_stage(of, stage) is False
    for path in stage.folder.iterdir():
        path.unlink()
    asked = iter([False] * 3 + [True])

    def stop(context):
        if next(asked):
            raise Interrupted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("lightningrl.pipeline.stages.speed._stop_if_asked", stop)
        with pytest.raises(Interrupted):
            run_stage(of, stage)
    assert not (stage.folder / "speed.json").exists()
    assert run_stage(of, stage)
    again = json.loads((stage.folder / "speed.json").read_text())
    assert (again["tokens"], again["repeats"]) == (whole["tokens"], 2)


def test_a_turn_counts_as_prefill_by_its_share_of_positions(monkeypatch):
    now = iter([0.0, 1.0, 5.0, 6.0])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(now))
    clock = Clock()
    clock.start()
    clock.add(Forward((Part("prefill", 1, 8, 8, 0),), 9.0))
    clock.add(Forward((Part("prefill", 1, 12, 8, 0), Part("denoise", 1, 4, 8, 1)), 9.0))
    clock.add(Forward((Part("fused", 1, 4, 8, 1),), 9.0))
    assert clock.prefill_seconds == 1.0 + 4.0 * 12 / 16
    assert [forward.seconds for forward in clock.forwards] == [1.0, 4.0, 1.0]


def test_the_told_repeat_is_the_median_one_and_the_interval_holds_the_rate():
    class Two(Batch):
        tokens = 10

    def repeat(*seconds):
        return tuple(Two(s, 0.0, ()) for s in seconds)

    found = SpeedMeasurement((repeat(1.0, 3.0), repeat(1.0, 2.0), repeat(9.0, 9.0)))
    assert [batch.seconds for batch in found.median_repeat] == [1.0, 3.0]
    low, high = found.interval(0)
    assert low == pytest.approx(10 / 9) and high == 10.0 and found.interval(0) == (low, high)
