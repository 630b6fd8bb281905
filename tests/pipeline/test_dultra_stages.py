"""dUltra's two runs through plan, validate and stage, and what every algorithm says of a base that it cannot train."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.tiny import CoinJudge, tiny_examples
from test_fitting import LLADA, tree, validated

from lightningrl.bench.costs import operations_of, work_of
from lightningrl.bench.estimate.budget import DEVICES, Estimate, shapes_of
from lightningrl.bench.memory import OVERHEAD
from lightningrl.config.experiment import Experiment
from lightningrl.errors import ConfigError, TrainingError
from lightningrl.models.checkpoint import load_model, save_model
from lightningrl.models.families.protocol import NO_MASK
from lightningrl.pipeline.plan import Plan, plan
from lightningrl.pipeline.stages import train
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.training.world import World
from lightningrl.utils import files

CAUSAL = {
    "family": "qwen2", "attention": "causal", "logit_shift": True, "qkv_bias": True, "qk_norm": False, "block_size": 1,
    "mask_token_id": NO_MASK,
}  # fmt: skip
CANVAS = {"preset": "fast_dllm_v1_dual", "schedule_options": {"block_size": 32}}
PLANNER = {
    "name": "planner", "role": "after", "algorithm": "planner_pretraining", "benchmark": "gsm-mini", "steps": 1,
    "sequences": 1, "microbatch": 1, "validate_every": 1, "learning_rate": 1e-3, "threshold": 1.0,
    "decoding": {"preset": "dultra_b32"}, "method": {"length": 64},
}  # fmt: skip
DULTRA = PLANNER | {
    "name": "dultra", "algorithm": "dultra", "prompts": 1, "responses": 2, "updates": 1, "method": {},
}  # fmt: skip
ROW = {"name": "planner", "decoding": {"preset": "dultra_b32"}}
PLAIN = {"report": {"tables": [], "figures": []}, "speed": {"benchmarks": []}}
BENCHMARKS = [{"name": "gsm-mini", "train": 20, "validation": 2, "test": 3, "max_new_tokens": 32}]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    shapes = {"sdar": {}, "llada": LLADA, "planned": LLADA | {"has_planner": True}, "qwen": CAUSAL}
    return {name: save_byte_checkpoint(folder / name, **shape) for name, shape in shapes.items()}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    count, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(count)
    torch.use_deterministic_algorithms(deterministic)


def tree_of(folder: Path, *runs: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return tree(folder, benchmarks=BENCHMARKS, decoding=CANVAS, runs=list(runs), **(PLAIN | changes))


def plan_of(*arguments: Any, **changes: Any) -> Plan:
    return plan(Experiment.model_validate(tree_of(*arguments, **changes)))


class Coin(CoinJudge):
    """It is made as a benchmark's judge is."""

    def __init__(self, workers: int = 1) -> None:
        pass


def context_of(planned: Plan, run: str, inputs: dict[str, Path], tmp_path: Path) -> StageContext:
    stage = planned.stage("train", run)
    for split in ("train", "validation"):
        files.write_jsonl(tmp_path / "data" / f"{split}.jsonl", (asdict(each) for each in tiny_examples(split, 2)))
    members = dict(stage.members) | {"judge": f"{__name__}:Coin"}
    config, inputs = {**stage.config, "members": members}, {"data": tmp_path / "data", **inputs}
    return StageContext(config, inputs, tmp_path / "out", tmp_path / "state", cache=tmp_path / "cache")


def test_a_planner_is_trained_from_a_base_without_one_with_the_decoder_that_needs_it(checkpoints, tmp_path):
    """The whole stage: the base is validated with the new planner, and the checkpoint has it."""
    train.run(context_of(plan_of(checkpoints["llada"], PLANNER), "planner", {"base": checkpoints["llada"]}, tmp_path))
    base, made = load_model(checkpoints["llada"]), load_model(tmp_path / "out")
    assert made.config.has_planner and not base.config.has_planner
    weights = dict(made.named_parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in base.named_parameters())
    assert [row["skipped"] for row in files.read_jsonl(tmp_path / "out" / "metrics.jsonl")] == [0.0]


def test_a_run_in_which_no_step_took_an_update_ends_with_an_error_however_short_it_is(checkpoints, tmp_path):
    """Two steps are fewer than the five running that end one while it goes on; the planner's weights are no numbers."""
    model, base = load_model(checkpoints["planned"]), tmp_path / "base"
    shutil.copytree(checkpoints["planned"], base)
    model.planner.mask_linear.bias.data.fill_(float("nan"))
    ids = json.loads((base / "config.json").read_text())
    save_model(model, base, eos_token_id=ids["eos_token_id"], pad_token_id=ids["pad_token_id"])
    run = PLANNER | {"steps": 2, "validate_every": 2, "decoding": {}}
    with pytest.raises(TrainingError, match="no update could be taken in 2 steps running"):
        train.run(context_of(plan_of(base, run), "planner", {"base": base}, tmp_path))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_validate_takes_the_run_and_its_row_and_refuses_others_without_a_planner(checkpoints, tmp_path):
    llada = checkpoints["llada"]
    assert not validated(tmp_path, tree_of(llada, PLANNER, systems=[ROW]))
    said = validated(tmp_path, tree_of(llada, PLANNER, systems=[ROW | {"name": "other", "policy": "base"}]))
    assert "systems.other.decoding, of other (base): " in said and "unshifted logits, and no planner" in said
    said = validated(tmp_path, tree_of(llada, PLANNER | {"algorithm": "dparallel", "method": {}}))
    assert "runs.planner.decoding" in said and "unshifted logits, and no planner" in said


@pytest.mark.parametrize(
    ("base", "run", "told"),
    [
        ("llada", DULTRA, "runs.dultra: dUltra trains a model with a planner, and this llada model has none"),
        ("sdar", PLANNER, "runs.planner: a planner reads whole canvases"),
        ("llada", PLANNER | {"method": {"length": 300}}, "runs.planner.method.length: found 300, the model has 256"),
        ("sdar", PLANNER | {"algorithm": "d2f", "method": {}}, "runs.planner: d2f teaches a model that sees its whole"),
        ("qwen", PLANNER | {"algorithm": "dparallel", "method": {}}, "runs.planner: a qwen2 model has no mask token"),
        ("planned", DULTRA | {"method": {"teacher": {"checkpoint": "sdar"}}},
         "runs.dultra.method.teacher: found a sdar model with block_causal attention"),
    ],
)  # fmt: skip
def test_what_an_algorithm_cannot_train_is_said_by_validate_and_by_the_stage(checkpoints, tmp_path, base, run, told):
    """Before a weight is read, in the same words."""
    inputs = {"base": checkpoints[base]}
    if "teacher" in run["method"]:
        inputs["teacher"] = checkpoints["sdar"]
        run = run | {"method": {"teacher": {"checkpoint": str(checkpoints["sdar"])}}}
    assert told in " ".join(validated(tmp_path, tree_of(inputs["base"], run)).split())
    with pytest.raises(ConfigError) as error:
        train._setup(context_of(plan_of(inputs["base"], run), run["name"], inputs, tmp_path), World(), CoinJudge())
    assert told in str(error.value)


def taught(folder: Path, **more: Any) -> dict[str, Any]:
    return DULTRA | {"method": {"teacher": {"checkpoint": str(folder), "microbatch": 4} | more}}


def test_a_teacher_is_imported_like_a_base_and_its_runs_key_depends_on_it(checkpoints, tmp_path):
    """One import for all runs with the same one. A hash in place of the name makes the key the content's."""
    planned, qwen = checkpoints["planned"], checkpoints["qwen"]
    both = plan_of(planned, taught(qwen), taught(qwen) | {"name": "again"}, DULTRA | {"name": "alone"})
    assert [stage.name for stage in both.of("checkpoint")] == ["base", "dultra-teacher"]
    inputs = {stage.name: set(stage.inputs) for stage in both.of("train")}
    assert inputs == {"dultra": {"base", "data", "teacher"}, "again": {"base", "data", "teacher"},
                      "alone": {"base", "data"}}  # fmt: skip
    key = lambda **more: plan_of(planned, taught(**more)).stage("train", "dultra").key  # noqa: E731
    hashed = {"sha256": "0" * 64}
    assert key(folder=qwen) != key(folder=planned) and key(folder=qwen) != key(folder=qwen, **hashed)
    assert key(folder=qwen, **hashed) == key(folder=planned, **hashed) != key(folder=qwen, sha256="1" * 64)
    assert key(folder=qwen) != key(folder=qwen, weight=0.5)
    setup = train._setup(
        context_of(plan_of(planned, taught(qwen)), "dultra", {"base": planned, "teacher": qwen}, tmp_path), World(),
        CoinJudge(),
    )  # fmt: skip
    assert setup.checkpoints == {"teacher": qwen}
    setup.run.implementation.trainer(setup)


def test_the_plan_counts_a_teacher_whole_on_each_device_and_its_forwards(checkpoints, tmp_path):
    """7.6 billion parameters in bfloat16 beside an 8B on eight devices; each scores all twelve responses."""
    run = DULTRA | {"responses": 12, "precision": "bfloat16"}
    found = []
    for teacher in ({}, {"method": {"teacher": {"checkpoint": "Qwen/Qwen2.5-7B-Instruct", "microbatch": 4}}}):
        experiment = Experiment.model_validate(tree_of(checkpoints["planned"], run | teacher))
        estimate = Estimate(experiment, shapes_of(experiment, "8b"), DEVICES["h100"], 8)
        found.append((estimate.memory(estimate.experiment.runs[0]), estimate.run(estimate.experiment.runs[0])))
    (without, _), (with_it, step) = found
    whole = 2 * 7_615_616_512
    assert with_it["resident"]["teacher"] == whole and "teacher" not in without["resident"]
    for point, total in without["point_bytes"].items():
        if not point.startswith("load"):
            assert with_it["point_bytes"][point] == pytest.approx(total + whole)
    assert with_it["point_bytes"]["teacher scores"] > sum(with_it["resident"].values()) > whole + OVERHEAD
    assert "load: teacher" in with_it["points"]
    [phase] = [each for each in step["step"] if each["name"] == "teacher"]
    lengths, shape = (
        step["lengths"],
        estimate._beside(estimate.experiment.runs[0], estimate.lengths("gsm-mini"))[0].shape,
    )
    length = lengths["prompt_tokens"] + lengths["response_tokens"]
    assert phase["positions"] == 12 * length
    assert phase["operations"] == operations_of(12 * work_of(length, lengths["response_tokens"], length / 2), shape)
    assert json.dumps(with_it)
