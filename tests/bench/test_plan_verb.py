"""`lightningrl plan`: what it prints and writes for the shipped experiments; nothing is fetched or loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightningrl.bench.estimate.budget import DEVICES, Estimate, shapes_of
from lightningrl.bench.estimate.memory_table import memory_of
from lightningrl.cli import app
from lightningrl.config.experiment import load
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.targets import targets

CONFIG = PACKAGE.parent / "config"


def printed(*arguments: str, config: str = "paper.yaml"):
    return CliRunner().invoke(app.app, ["plan", "--config", str(CONFIG / config), *arguments])


def test_the_paper_on_eight_h100s(tmp_path: Path):
    done = printed("--out", str(tmp_path / "plan.json"))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["models"]["base"]["parameters"] == 8190735360
    assert found["memory"]["lightningrl-gsm8k"]["resident"]["decode replica"] == 16381470720
    assert all(row["fits"] for row in found["memory"].values())
    for name, row in found["runs"].items():
        has_value_model = name == "with-value" or name.startswith("tracerl")
        scored = [] if name.startswith("tracerl") else ["reference"]  # TraceRL's KL term is to the rollouts' policy
        values = ["value reference", "value update"] if has_value_model else []
        beside = ["tails", "judging", "saving"]
        assert [phase["name"] for phase in row["step"]] == ["rollout", *scored, "update", *values, *beside]
        assert all(phase["seconds"] > 0 for phase in row["step"])
        assert row["trained_responses"] == 128 * 32
        assert row["step_s"] == pytest.approx(sum(phase["seconds"] for phase in row["step"]))
        assert row["devices"] == (4 if "1_7b" in name else 8)
        assert row["gpu_hours"] == pytest.approx(row["devices"] * row["hours"])
        seconds = row["startup_s"] + 80 * row["step_s"] + 9 * row["validation"]["seconds"]
        assert row["hours"] == pytest.approx(seconds / 3600)
    hours = [row["gpu_hours"] for kind in ("runs", "evaluations") for row in found[kind].values()]
    assert found["gpu_hours"] == pytest.approx(sum(hours))
    for words in ("8,190,735,360 parameters", "update 0.4", "KV pages", "without checkpointing", "GPU-hours"):
        assert words in done.output


def test_no_save_takes_more_than_a_twentieth_of_the_steps_that_it_saves_and_the_disk_is_said():
    """One state of an 8B is 12 bytes a parameter; kept are two, and a third is being written."""
    experiment = load(CONFIG / "paper.yaml")
    estimate = Estimate(experiment, shapes_of(experiment), DEVICES["h100"], None)
    for run in experiment.runs:
        memory, step_s = estimate.memory(run), estimate.run(run)["step_s"]
        assert memory["save_s"] <= 0.05 * run.save_every * step_s, run.name
    memory = estimate.memory(experiment.run("lightningrl-gsm8k"))
    assert memory["disk"]["states that are kept"] == 2 * 12 * 8190735360
    assert memory["disk"]["a state that is being written"] == 12 * 8190735360
    assert memory["disk_bytes"] == (3 * 12 + 3 * 2) * 8190735360
    assert "disk: chosen weights" in printed().output


def test_the_table_of_memory_by_size_is_that_of_the_docs():
    """`lightningrl plan --memory-table` of the paper's config."""
    done = printed("--memory-table")
    assert done.exit_code == 0, done.output
    page = (PACKAGE.parent / "docs" / "benchmarks.md").read_text()
    assert done.output in page


def test_the_table_of_memory_has_no_reference_where_no_run_holds_one():
    """Of the paper's trainings only TraceRL's have a value model and compare with their own rollouts."""
    experiment = load(CONFIG / "paper.yaml")
    runs = [run for run in experiment.runs if run.name.startswith("tracerl")]
    assert runs and all(run.implementation.has_value_model for run in runs)
    held = {}
    for name, few in (("all", experiment), ("tracerl", experiment.model_copy(update={"runs": runs}))):
        points = memory_of(Estimate(few, shapes_of(few), DEVICES["h100"], None), "8b", True).points()
        held[name] = any("reference" in part for parts in points.values() for part in parts)
    assert held == {"all": True, "tracerl": False}


@pytest.mark.parametrize("config", ["paper.yaml", "config.yaml"])
def test_it_evaluates_what_the_dag_evaluates(config):
    experiment = load(CONFIG / config)
    estimate = Estimate(experiment, shapes_of(experiment), DEVICES["h100"], 8)
    assert set(estimate.to_json()["evaluations"]) == {stage.name for stage in plan(experiment).of("evaluate")}


def test_a_response_at_the_length_limit_costs_what_goes_through_one_forward_and_fits_where_memory_is_enough():
    """120 prompt tokens as assumed and 8,192 of response, 2.85 a forward: 8,288 clean positions, 2,874 copies of 32."""
    experiment = load(CONFIG / "paper.yaml")
    run, shapes = experiment.run("lightningrl-gsm8k"), shapes_of(experiment)
    for gpu, gpus, fits in (("h200", 1, False), ("h100", 1, False), ("h200", 4, True), ("h100", 8, True)):
        assert Estimate(experiment, shapes, DEVICES[gpu], gpus).memory(run)["fits"] is fits, (gpu, gpus)

    def row(positions):
        estimate = Estimate(experiment, shapes, DEVICES["h100"], 8)
        return estimate.memory(run.model_copy(update={"microbatch_positions": positions}))

    found = [row(positions)["longest_response_positions"] for positions in (None, 10**6, 32_768, 1)]
    assert found == [100_256, 100_256, 32_768, 8_320]
    assert run.microbatch_positions == 32_768
    assert row(1)["micro_batch_positions"] == 256 + 32, "a forward has a response's clean positions and one block"
    name = "longest_response_with_checkpointing"
    assert (row(None)["update_fits"][name], row(32_768)["update_fits"][name]) == (False, True)


def test_what_is_assumed_can_be_said(tmp_path: Path):
    usual, said = tmp_path / "usual.json", tmp_path / "said.json"
    printed("--out", str(usual))
    printed("--out", str(said), "--tpf", "6", "--response-tokens", "151", "--update-share", "0.2", "--kept", "1")
    one, two = (json.loads(path.read_text())["runs"]["lightningrl-gsm8k"] for path in (usual, said))
    assert two["rolled_out_responses"] == 4096 < one["rolled_out_responses"]
    assert two["step"][2]["positions"] < one["step"][2]["positions"]
    assert (one["rounds"], two["rounds"]) == (4, 1)
    assert two["step"][2]["operations"] / two["step"][2]["seconds"] == pytest.approx(0.2 * 989e12, rel=1e-2)


def test_forwards_in_float32_take_fifteen_times_the_arithmetic_of_bfloat16():
    """67 of 989 TFLOP/s, and twice the bytes a number."""
    experiment = load(CONFIG / "paper.yaml")
    run, evaluation = experiment.run("lightningrl-gsm8k"), experiment.evaluation
    slow = experiment.model_copy(update={"evaluation": evaluation.model_copy(update={"precision": "float32"})})
    found = []
    for each, precision in ((experiment, "bfloat16"), (slow, "float32")):
        estimate = Estimate(each, shapes_of(each), DEVICES["h100"], 8)
        phases = {
            phase["name"]: phase for phase in estimate.run(run.model_copy(update={"precision": precision}))["step"]
        }
        point = estimate.evaluations()["base/gsm8k"]["point"]
        found.append((phases["reference"]["seconds"], phases["rollout"]["seconds"], point["seconds"]))
    (reference, rollout, evaluated), in_float32 = found
    assert in_float32[0] == pytest.approx(15 * reference)
    assert 10 * rollout < in_float32[1] < 25 * rollout and 5 * evaluated < in_float32[2] < 25 * evaluated
    processor = DEVICES["h100"].computing_in("float32")
    assert processor.computing_in("float32") == processor, "what computes in float32 anyway stays as it was measured"


ENDLESS = ("--prompt-tokens", "--response-tokens", "--tpf", "--turn-ms", "--tails", "--longest-tokens")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(((option, "inf"), "inf") for option in ENDLESS),
        (("--reserve", "1"), "'reserve' is 1.0, expected within [0, 1)"),
    ],
)
def test_numbers_without_a_plan_are_refused_in_a_sentence(arguments, message):
    done = printed(*arguments)
    assert done.exit_code == 2 and message in done.stderr and done.stdout == "", done.output


def test_nothing_need_be_left_free():
    assert "of 80.0 GB without the reserve" in printed("--reserve", "0").stdout


def table1(*arguments: str) -> dict[str, int]:
    """Hours of Table 1 by the words before them."""
    done = printed("--ladder", "table1", *arguments)
    assert done.exit_code == 0, done.output
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    return {words: int(hours.replace(",", "")) for words, hours in rows}


def test_table_1_takes_1400_to_1700_hours_before_and_at_most_700_with_all_named_options():
    """And the page of measurements has what the command prints."""
    found = table1()
    words, hours = list(found), list(found.values())
    assert 1400 <= hours[0] <= 1700 and hours[-1] <= 700 and hours == sorted(hours, reverse=True)
    assert words[0].startswith("before") and words[1] == "with the defaults"
    page = (CONFIG.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert printed("--ladder", "table1").stdout in page, "stale: print it anew with plan --ladder table1"


def test_a_step_has_one_tail_and_the_state_before_one_a_round_whatever_is_said():
    four, one = table1("--tails", "4"), table1()
    assert one == table1("--tails", "1")
    assert one["with the defaults"] < four["with the defaults"]
    assert next(iter(one.values())) == next(iter(four.values()))


def test_a_target_that_there_is_not_is_answered_with_those_there_are():
    done = printed("--ladder", "table99")
    assert done.exit_code == 2 and "--ladder: found 'table99', allowed: table1, " in done.stderr


@pytest.mark.parametrize("config", sorted(path.name for path in CONFIG.glob("*.yaml")))
def test_every_config_that_is_shipped_has_a_plan(config, tmp_path: Path):
    done = printed("--gpus", "8", "--out", str(tmp_path / "plan.json"), config=config)
    assert done.exit_code == 0 and done.stdout.splitlines()[-1].endswith("GPU-hours"), done.output
    for name, row in json.loads((tmp_path / "plan.json").read_text())["evaluations"].items():
        [line] = [line for line in done.stdout.splitlines() if line.startswith(f"{name} ")]
        cells = 10 if "forwards_per_response" in row else 6  # by likelihood nothing is decoded: four are blank
        assert row["point"] is None or len(line.split()) == cells, line


def test_the_miniature_has_a_plan_too_and_its_control_is_left_out():
    done = printed("--gpus", "1", config="config.yaml")
    assert done.exit_code == 0 and "not estimated: supervised (supervised)" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--gpu", "v100"), "--gpu: found 'v100'"), (("--model-size", "9b"), "--model-size: found '9b'")],
)
def test_a_wrong_word_is_answered_with_the_right_ones(arguments, message):
    done = printed(*arguments)
    assert done.exit_code == 2 and message in done.stderr


def test_no_torch_is_imported_for_it():
    program = (
        "import sys; from lightningrl.cli.app import app; app(sys.argv[1:], standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", program, "plan", "--config", str(CONFIG / "paper.yaml")]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_check_finds_equal_what_must_be_equal(tmp_path: Path):
    out = tmp_path / "check.json"
    done = printed("--check", "--response-tokens", "16", "--out", str(out))
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert all(predicted == counted for predicted, counted in found["exact"].values())
    assert all(predicted == pytest.approx(counted) for predicted, counted in found["about"].values())
    assert set(found["seconds"]) == {"rollout", "reference", "update"}


def test_what_a_kill_costs_at_most_is_told_where_clusters_are_described(tmp_path: Path):
    experiment = load(CONFIG / "paper.yaml")
    runs = Estimate(experiment, shapes_of(experiment), DEVICES["h100"], None).to_json()["runs"]
    most = {}
    for run in experiment.runs:
        is_small = run.base in ("sdar-8b-b8", "sdar-8b-b4")
        method, task = run.name.partition("-")[0], run.name.rpartition("-")[2]
        group = "small" if is_small else f"{'tracerl-' * (method == 'tracerl')}{task}"
        hours = run.save_every * runs[run.name]["step_s"] / 3600
        most[group] = f"{max(hours, float(most.get(group, 0))):.1f}"
        assert run.save_every == (20 if is_small else 10)
    page = " ".join((CONFIG.parent / "docs" / "cluster.md").read_text(encoding="utf-8").split())
    assert f"{most['gsm8k']} hours of a training on GSM8K, {most['math']} on MATH, {most['code']} on code" in page
    assert f"{most['tracerl-code']} of TraceRL on code" in page and f"at most {most['small']} hours" in page


def test_the_hours_of_all_targets_are_those_of_the_plan_quantisations_included():
    experiment = load(CONFIG / "quantization.yaml")
    found = Estimate(experiment, shapes_of(experiment), DEVICES["h100"], 1).to_json()
    everything = targets(plan(experiment), found)[-1]
    assert everything.name == "all" and sum(row["gpu_hours"] for row in found["quantizations"].values()) > 0
    assert everything.gpu_hours == pytest.approx(found["gpu_hours"])


def test_a_wrong_target_or_two_things_to_show_are_refused_before_anything_is_printed():
    wrong, two = printed("--ladder", "tabel1"), printed("--ladder", "table1", "--targets")
    assert (wrong.exit_code, wrong.stdout, two.exit_code, two.stdout) == (2, "", 2, "")
    assert "Did you mean 'table1'?" in wrong.stderr and "--targets and --ladder" in two.stderr


def test_help_says_all_that_is_not_counted():
    text = " ".join(CliRunner().invoke(app.app, ["plan", "--help"]).stdout.split())
    counted = {"train", "quantize", "evaluate"}
    quick = {"data", "tokenizer", "collect", "table", "figure", "release"}
    for kind in KINDS.keys() - counted - quick:
        assert {"pretrain": "pre-training", "checkpoint": "checkpoints"}.get(kind, kind) in text, kind
