"""A checkpoint from elsewhere as the base: config, DAG, import, and a train and an evaluate that start from it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from fixtures.byte_checkpoint import byte_adapter, save_byte_checkpoint
from small import NANO as NANO_FILE
from small import change_json

from lightningrl.config.experiment import Experiment, load
from lightningrl.errors import CheckpointError, ConfigError, StageError
from lightningrl.models.checkpoint import load_model, save_model
from lightningrl.pipeline import manifest, runner
from lightningrl.pipeline.plan import Plan, plan
from lightningrl.pipeline.runner import run_stage
from lightningrl.pipeline.stages import checkpoint as stage_module

NANO = yaml.safe_load(NANO_FILE.read_text())
STOP = 10
"""The token that only generation_config.json names as an end: the byte of a common letter."""


def official(folder: Path, shards: bool = False) -> Path:
    """A tiny checkpoint as the hub has them: nothing says block size or mask token, an end of turn beside the pad."""
    save_byte_checkpoint(folder, max_position_embeddings=512)
    if shards:
        save_model(load_model(folder), folder, eos_token_id=1, pad_token_id=1, max_shard_bytes=20_000)
    with change_json(folder / "config.json") as config:
        for key in ("block_size", "mask_token_id"):
            del config[key]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [STOP]}))
    return folder


def mask_of(folder: Path) -> int:
    from lightningrl.tokenization import load_tokenizer

    return load_tokenizer(folder).mask_token_id


def experiment(folder: Path, **base: object) -> Experiment:
    """gsm-mini and one run of two steps from a checkpoint in `folder`."""
    run = NANO["runs"][0] | {"steps": 2, "threshold": 0.02}
    tree = {name: value for name, value in NANO.items() if name not in ("model", "pretrain", "tokenizer")}
    tree |= {
        "benchmarks": [{"name": "gsm-mini", "train": 20, "validation": 2, "test": 3, "max_new_tokens": 8}],
        "base": {"checkpoint": str(folder), "block_size": 4, "mask_token_id": mask_of(folder)} | base,
        "runs": [run],
    }
    return Experiment.model_validate(tree)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.system, "set_thread_environment", lambda threads: None)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield official(tmp_path / "models" / "tiny", shards=True)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def imported(planned: Plan) -> Path:
    stage = planned.stage("checkpoint", "base")
    run_stage(planned, stage)
    return stage.folder


def test_the_plan_has_an_import_and_no_pretraining_and_evaluates_a_run_where_it_says(folder):
    tree = experiment(folder).model_dump(mode="json")
    planned = plan(Experiment.model_validate(tree))
    assert [stage.label for stage in planned][:6] == [
        "data/gsm-mini", "selfcheck/gsm-mini", "checkpoint/base", "train/lightningrl", "evaluate/base/gsm-mini",
        "evaluate/lightningrl/gsm-mini",
    ]  # fmt: skip
    base = planned.stage("checkpoint", "base")
    assert not base.inputs and not base.after
    assert planned.stage("train", "lightningrl").inputs["base"] is base
    assert planned.stage("evaluate", "base/gsm-mini").inputs["policy"] is base
    tree["benchmarks"].append(tree["benchmarks"][0] | {"name": "code-mini"})
    before = plan(Experiment.model_validate(tree))
    tree["runs"][0]["evaluate_on"] = ["gsm-mini", "code-mini"]
    after = plan(Experiment.model_validate(tree))
    evaluated = {s.name for s in after.of("evaluate")} - {s.name for s in before.of("evaluate")}
    assert evaluated == {"lightningrl/code-mini"}
    assert before.stage("train", "lightningrl").key == after.stage("train", "lightningrl").key
    for wrong in (["mbpp"], ["gsm-mini", "gsm-mini"]):
        tree["runs"][0]["evaluate_on"] = wrong
        with pytest.raises(ValueError, match=r"runs\.lightningrl\.evaluate_on"):
            Experiment.model_validate(tree)


def test_the_import_says_what_it_took_and_weights_are_links_that_stay_when_the_origin_goes(folder):
    made = imported(plan(experiment(folder)))
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(shards) > 1 and os.path.samefile(folder / shards[0], made / shards[0])
    said = json.loads((made / "checkpoint.json").read_text())
    assert (said["from"], said["revision"], said["shards"]) == ("folder", None, len(shards))
    assert str(folder) not in json.dumps(said)
    outputs = json.loads((made / "manifest.json").read_text())["outputs"]
    assert set(outputs) == {*said["files"], "checkpoint.json"}, "its manifest covers every file"
    assert all(outputs[name] == said["files"][name] for name in said["files"] if name != "config.json")
    shutil.rmtree(folder)
    model = load_model(made)
    assert said["parameters"] == sum(p.numel() for p in model.parameters()) and model.config.block_size == 4
    (made / shards[0]).unlink()
    with pytest.raises(StageError, match=f"{shards[0]} is missing"):
        manifest.check(made)


def test_where_a_hard_link_is_impossible_it_is_a_symbolic_one(folder, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(stage_module.os, "link", refuse)
    source = folder / "model.safetensors.index.json"
    assert stage_module.link(source, tmp_path / "there" / "x") == "symbolic links"
    assert (tmp_path / "there" / "x").is_symlink() and os.path.samefile(source, tmp_path / "there" / "x")


def test_a_train_and_an_evaluate_start_from_it(folder):
    planned = plan(experiment(folder))
    for kind in ("data", "selfcheck", "checkpoint", "train", "evaluate"):
        for stage in planned.of(kind):
            run_stage(planned, stage)
    base, trained = (planned.stage(*name) for name in (("checkpoint", "base"), ("train", "lightningrl")))
    manifest_inputs = json.loads((trained.folder / "manifest.json").read_text())["inputs"]
    assert manifest_inputs["base"]["key"] == base.key
    assert {p.name for p in trained.folder.iterdir()} >= {"tokenizer.json", "generation_config.json"}
    assert load_model(trained.folder).config == load_model(base.folder).config
    assert set(json.loads((trained.folder / "manifest.json").read_text())["outputs"]) >= {"model.safetensors"}
    rows = (planned.stage("evaluate", "base/gsm-mini").folder / "records.jsonl").read_text().splitlines()
    assert len(rows) == 3 * 2


def test_the_ends_of_generation_config_end_a_response(folder):
    from lightningrl.pipeline.stages.decoder import make_decoder
    from lightningrl.pipeline.stages.loading import load_policy

    made = imported(planned := plan(experiment(folder)))
    model, tokenizer = load_policy(made)
    decoder = make_decoder({"decoding": planned.experiment.decoding}, model, tokenizer, made)
    assert STOP in decoder.stop_ids and tokenizer.eos_token_id in decoder.stop_ids


def _other_block_size(folder: Path) -> None:
    with change_json(folder / "config.json") as config:
        config["block_size"] = 8


def _damaged_shard(folder: Path) -> None:
    sorted(folder.glob("model-*.safetensors"))[1].write_bytes(b"no")


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        ({"checkpoint": "nowhere"}, None, "no folder here and no name of a hub repository"),
        ({"mask_token_id": 3}, None, r"the tokenizer's mask token '<\|MASK\|>' is \d+, base.mask_token_id says 3"),
        ({"mask_token_id": 10**6}, None, "mask token 1000000 outside the vocabulary"),
        ({"sha256": "0" * 64}, None, "base.sha256 says 0000"),
        ({}, _other_block_size, "says block_size 8, the caller 4"),
        ({}, _damaged_shard, "damaged"),
    ],
)
def test_a_checkpoint_that_is_not_as_said_is_refused(folder, base, change, message):
    if change is not None:
        change(folder)
    with pytest.raises(CheckpointError, match=message):
        imported(plan(experiment(folder, **base)))


def test_required_pins_want_a_hash_of_a_folder_and_with_it_the_place_enters_no_key(folder, tmp_path):
    tree = experiment(folder).model_dump(mode="json")
    tree["data"]["require_pins"] = True
    with pytest.raises(CheckpointError, match=r"pinned by no `base\.sha256`"):
        imported(plan(Experiment.model_validate(tree)))
    tree["data"]["require_pins"] = False
    sha256 = json.loads((imported(plan(Experiment.model_validate(tree))) / "checkpoint.json").read_text())["sha256"]
    tree["data"]["require_pins"] = True
    tree["base"]["sha256"] = sha256
    here = plan(Experiment.model_validate(tree))
    elsewhere = json.loads(json.dumps(tree))
    elsewhere["base"]["checkpoint"] = str(shutil.copytree(folder, tmp_path / "copy"))
    moved = plan(Experiment.model_validate(elsewhere))
    assert imported(moved) == imported(here)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": {"checkpoint": "a/b", "block_size": 4, "mask_token_id": 1}}, "together with model and pretrain"),
        ({"model": None, "pretrain": None}, "found neither `base` nor `model` and `pretrain`"),
        ({"model": None}, "found pretrain; expected `base`"),
        (
            {"base": {"block_size": 4}, "model": None, "pretrain": None},
            r"base\.checkpoint: this key is required",
        ),
        (
            {"base": {"checkpoint": "a/b", "block_size": 4, "mask_token_id": 1, "revision": "main"}},
            r"base\.revision: found 'main'",
        ),
    ],
)
def test_a_config_has_one_base(tmp_path, change, message):
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(NANO | change))
    with pytest.raises(ConfigError, match=message):
        load(file)


def test_an_adapter_is_merged_by_the_import_and_is_in_its_key_by_its_hash(folder, tmp_path):
    from lightningrl.models.lora import load_merged

    adapter = byte_adapter(tmp_path / "adapter", load_model(folder, block_size=4, mask_token_id=mask_of(folder)))
    plain, with_one = plan(experiment(folder)), plan(experiment(folder, adapter=str(adapter)))
    expected = load_merged(folder, adapter, block_size=4, mask_token_id=mask_of(folder)).weights()
    made = imported(with_one)
    found = load_model(made)
    assert all(torch.equal(weight, expected[name]) for name, weight in found.weights().items())
    said = json.loads((made / "checkpoint.json").read_text())
    assert set(said["adapter"]["files"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert said["adapter"]["from"] == "folder" and str(adapter) not in json.dumps(said)
    sha = said["adapter"]["sha256"]
    moved = adapter.rename(tmp_path / "moved")
    pinned = [plan(experiment(folder, adapter=str(place), adapter_sha256=sha)) for place in (adapter, moved)]
    keys = [planned.stage("checkpoint", "base").key for planned in (plain, with_one, *pinned)]
    assert keys[2] == keys[3] and len(set(keys)) == 3, "the hash stands for the place, and none is another key"
    sources = with_one.stage("checkpoint", "base").sources
    assert "lightningrl/models/lora.py" in sources
    assert "lightningrl/models/lora.py" not in plain.stage("checkpoint", "base").sources
    with pytest.raises(CheckpointError, match=r"base\.adapter: found .*no folder here and no name of a hub"):
        imported(plan(experiment(folder, adapter="not/a/folder")))
    with pytest.raises(CheckpointError, match=r"have sha256 .* together, base\.adapter_sha256 says"):
        imported(plan(experiment(folder, adapter=str(moved), adapter_sha256="0" * 64)))
    with pytest.raises(ValueError, match="adapter_sha256 is given, and no adapter"):
        experiment(folder, adapter_sha256=sha)


def test_block_size_and_mask_token_may_be_left_out_where_the_files_say_them(folder):
    left_out = plan(experiment(folder, block_size=None, mask_token_id=None))
    with pytest.raises(CheckpointError, match="lacks block_size, mask_token_id"):
        imported(left_out)
    with change_json(folder / "config.json") as config:
        config |= {"block_size": 4, "mask_token_id": mask_of(folder)}
    made = imported(left_out)
    assert load_model(made).config.block_size == 4
