"""A decoder, a length, a block size or an adapter that a model cannot have is said before its weights are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fixtures.byte_checkpoint import byte_adapter, save_byte_checkpoint
from fixtures.tiny import CoinJudge, tiny_examples
from small import NANO as NANO_FILE
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.config.experiment import Experiment, load
from lightningrl.errors import ConfigError
from lightningrl.inference.llm import LLM
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.stages import evaluate, probe, replay, speed, train
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.tokenization import load_tokenizer
from lightningrl.training.world import World
from lightningrl.utils import files

LLADA = {"family": "llada", "attention": "full", "qk_norm": False, "head_dim": 4, "rms_norm_eps": 1e-5}
STAGES: dict[str, tuple[str, Callable[[StageContext], Any]]] = {
    "evaluate": ("base/gsm-mini", evaluate.run),
    "speed": ("base/gsm-mini", speed.run),
    "probe": ("base/gsm-mini", probe.run),
    "replay": ("lightningrl", replay.run),
    "train": ("lightningrl", lambda context: train._setup(context, World(), CoinJudge())),
}


def tree(folder: Path, **changes: Any) -> dict[str, Any]:
    found = load(NANO_FILE).model_dump(mode="json", exclude_unset=True)
    found = {name: value for name, value in found.items() if name not in ("model", "pretrain", "tokenizer")}
    return found | {
        "benchmarks": [{"name": "gsm-mini", "train": 20, "validation": 2, "test": 3, "max_new_tokens": 10}],
        "base": {"checkpoint": str(folder), "published": "SDAR-8B-b32"},
        "evaluation": {"thresholds": [0.5], "primary_threshold": 0.5},
        "runs": [found["runs"][0] | {"steps": 1, "threshold": 0.5}],
        "speed": {"benchmarks": ["gsm-mini"], "prompts": 2, "warmup": 1, "repeats": 1},
        "report": {
            "tables": ["table7"], "figures": [], "replays": ["lightningrl"], "replayed_problems": 1,
            "probes": ["base", "lightningrl"], "probed_problems": 2,
        },
    } | changes  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each family, without weights: whatever reads them fails with another error."""
    folder = tmp_path_factory.mktemp("fitting")
    found = {"sdar": save_byte_checkpoint(folder / "sdar"), "llada": save_byte_checkpoint(folder / "llada", **LLADA)}
    for each in found.values():
        (each / "model.safetensors").unlink()
    return found


def context_of(kind: str, checkpoint: Path, tmp_path: Path, **changes: Any) -> StageContext:
    stage = plan(Experiment.model_validate(tree(checkpoint, **changes))).stage(kind, STAGES[kind][0])
    for split in ("train", "validation", "test"):
        files.write_jsonl(tmp_path / "data" / f"{split}.jsonl", (asdict(each) for each in tiny_examples(split, 3)))
    inputs = {role: checkpoint if role != "data" else tmp_path / "data" for role in stage.inputs}
    config = {**stage.config, "members": dict(stage.members)}
    return StageContext(config, inputs, tmp_path / "out", tmp_path / "state", cache=tmp_path / "cache")


@pytest.mark.parametrize("kind", STAGES)
def test_every_stage_that_decodes_says_what_does_not_fit_before_weights_are_read(kind, checkpoints, tmp_path):
    def refused(family: str, **changes: Any) -> str:
        with pytest.raises(ConfigError) as told:
            STAGES[kind][1](context_of(kind, checkpoints[family], tmp_path, **changes))
        return str(told.value)

    assert "fast_dllm_v1_dual" in (said := refused("llada")) and "`decoding`" in said
    assert "has full attention" in refused("llada", decoding={"preset": "mbd"})
    canvas = {"preset": "fast_dllm_v1_dual", "schedule_options": {"block_size": 4}}
    said = refused("llada", decoding=canvas)
    assert "benchmarks.t.max_new_tokens" in said and "10 new tokens are no whole blocks of 4" in said
    long = [{"name": "gsm-mini", "train": 20, "validation": 2, "test": 3, "max_new_tokens": 250}]
    said = refused("sdar", benchmarks=long)
    assert "the model has 256" in said and "benchmarks.t.max_new_tokens, or its prompts" in said


def test_training_says_before_weights_are_read_what_has_no_likelihood(checkpoints, tmp_path):
    decoding = {"preset": "fast_dllm_v1_dual", "schedule_options": {"block_size": 5}}
    with pytest.raises(ConfigError, match="likelihood of what it decodes is not exact"):
        STAGES["train"][1](context_of("train", checkpoints["llada"], tmp_path, decoding=decoding))


def validated(tmp_path: Path, found: dict[str, Any]) -> str:
    """What `validate` says of a config with these keys that it refuses; empty: it takes it. A crash is neither."""
    path = tmp_path / "config.yaml"
    files.write_json(path, found)
    done = CliRunner().invoke(app, ["validate", "--config", str(path)], catch_exceptions=False)
    assert done.exit_code in (0, 2), done.output
    return done.stderr if done.exit_code else ""


def test_a_crash_is_taken_for_nothing_else(tmp_path, monkeypatch):
    def crash(config):
        raise RuntimeError("somebody's mistake")

    monkeypatch.setattr("lightningrl.cli.validate.load", crash)
    with pytest.raises(RuntimeError, match="somebody's mistake"):
        validated(tmp_path, {})


def test_validate_knows_the_family_of_a_folder_and_names_the_key(tmp_path):
    sdar = save_byte_checkpoint(tmp_path / "sdar")
    llada = save_byte_checkpoint(tmp_path / "llada", **LLADA)
    assert not validated(tmp_path, tree(sdar))
    plain = {"runs": [], "report": {"tables": [], "figures": []}, "speed": {"benchmarks": []}}
    said = validated(tmp_path, tree(llada, **plain))
    assert "decoding, of base (base): " in said and "fast_dllm_v1_dual" in said
    dual = {"preset": "fast_dllm_v1_dual"}
    said = validated(tmp_path, tree(llada, **plain, decoding=dual))
    assert "benchmarks.gsm-mini.max_new_tokens, for decoding" in said and "no whole blocks of 4" in said
    assert not validated(tmp_path, tree(llada, **plain, decoding=dual | {"schedule_options": {"block_size": 5}}))
    said = validated(
        tmp_path, tree(sdar, systems=[{"name": "dual", "policy": "base", "decoding": {"preset": "d3llm"}}])
    )
    assert "systems.dual.decoding, of dual (base): " in said and "is for models with full attention" in said
    training = tree(llada, decoding=dual | {"schedule_options": {"block_size": 5}})
    assert "runs.lightningrl: " in validated(tmp_path, training)


def test_validate_knows_whether_a_distillation_and_its_decoder_fit_the_base(tmp_path):
    sdar, llada = save_byte_checkpoint(tmp_path / "sdar"), save_byte_checkpoint(tmp_path / "llada", **LLADA)
    canvas = {"preset": "fast_dllm_v1_dual", "schedule_options": {"block_size": 5}}
    run = {"name": "dp", "role": "rival", "algorithm": "dparallel", "benchmark": "gsm-mini", "steps": 1}
    plain = {"decoding": canvas, "report": {"tables": [], "figures": []}, "speed": {"benchmarks": []}}

    def said(folder: Path, data: dict[str, Any], decoding: dict[str, Any] = canvas, **more: Any) -> str:
        runs = [run | {"threshold": 0.9, "method": {"data": data}} | more]
        return validated(tmp_path, tree(folder, **plain | {"decoding": decoding}, runs=runs))

    assert not said(llada, {})
    told = said(llada, {"decoding": {"preset": "sdar_dynamic"}})
    assert "runs.dp.method.data.decoding, by which base makes the data of dp: " in told and "fast_dllm_v1_dual" in told
    told = said(llada, {"decoding": canvas | {"schedule_options": {"block_size": 4}}})
    assert "for runs.dp.method.data.decoding" in told and "no whole blocks of 4" in told
    assert "is for models with full attention" in said(sdar, {"decoding": {"preset": "d3llm"}}, {})
    assert "runs.dp: d2f" in said(sdar, {}, {}, algorithm="d2f")


def pretrained(**base: Any) -> dict[str, Any]:
    """Nano with a further base that is a LLaDA, changed."""
    found = load(NANO_FILE).model_dump(mode="json", exclude_unset=True)
    own = {
        "name": "llada",
        "family": "llada",
        "pretrain": {"autoregressive": None, "diffusion": {"objective": "masked"}},
    }
    row = {"name": "llada", "decoding": {"preset": "llada"}, "thresholds": [8]}
    return found | {"bases": [own | base], "systems": [row]}


@pytest.mark.parametrize(
    ("base", "told"),
    [
        (
            {"pretrain": {"autoregressive": None}},
            "bases.llada.pretrain.diffusion.objective: the objective BlockDiffusion is for models with block-causal",
        ),
        (
            {"pretrain": {"diffusion": {"objective": "masked"}}},
            "bases.llada.pretrain.autoregressive.objective: the objective MaskedNext is for",
        ),
        (
            {"family": "Dream", "pretrain": {"autoregressive": {"objective": "next_token"}}},
            "bases.llada.pretrain.diffusion.objective: the objective BlockDiffusion is for models",
        ),
        ({"model": {"head_dim": 8}}, "bases.llada.model: the config.json of a llada model cannot say this shape"),
    ],
)
def test_validate_says_what_a_base_cannot_learn_or_be(tmp_path, base, told):
    assert not validated(tmp_path, pretrained())
    assert told in validated(tmp_path, pretrained(**base))


def test_validate_says_by_which_decoder_a_base_cannot_be_validated_while_it_is_trained(tmp_path):
    """Where nothing is evaluated, and where the base's own row decodes otherwise than its training does."""
    found = pretrained()
    blocks = {"name": "llada", "decoding": {"schedule": "fused"}, "evaluate_on": []}
    told = validated(tmp_path, found | {"systems": [blocks]})
    assert "systems.llada.decoding, by which llada is validated while it is pre-trained: " in told
    own = {"name": "base", "decoding": {"preset": "sdar_dynamic"}}
    runs = {"runs": [], "report": {"tables": [], "figures": [], "replays": []}}
    tree = found | {"systems": [own, *found["systems"]], "decoding": {"preset": "d3llm"}, **runs}
    told = validated(tmp_path, tree)
    assert "decoding, by which base is validated while it is pre-trained: " in told
    objective = {"autoregressive": None, "diffusion": {**found["pretrain"]["diffusion"], "objective": "masked"}}
    told = validated(tmp_path, pretrained() | {"pretrain": found["pretrain"] | objective})
    assert "pretrain.diffusion.objective: the objective `masked` is for models with full" in told
    assert "bases." not in told


def test_validate_says_which_key_a_parameter_came_from(tmp_path):
    sdar = save_byte_checkpoint(tmp_path / "sdar")
    quota, runs = {"selector": "quota"}, tree(sdar)["runs"]
    sweep = {"thresholds": [2, 4], "primary_threshold": 2}
    said = validated(tmp_path, tree(sdar, decoding=quota, evaluation=sweep, runs=[runs[0] | {"threshold": 0.03}]))
    assert "runs.lightningrl.threshold (found 0.03, of decoding): quota: steps is 0.03" in said
    mixed = [runs[0] | {"threshold": 2, "rollout_thresholds": [2, 0.5]}]
    assert "runs.lightningrl.rollout_thresholds.1 (found 0.5" in validated(
        tmp_path, tree(sdar, decoding=quota, evaluation=sweep, runs=mixed)
    )
    system = {"name": "few", "policy": "base", "decoding": quota, "thresholds": [2, 2.5], "primary_threshold": 2}
    assert "systems.few.thresholds.1 (found 2.5" in validated(tmp_path, tree(sdar, systems=[system]))
    sweep = {"thresholds": [0.5, 2], "primary_threshold": 2}
    said = validated(tmp_path, tree(sdar, decoding=quota, evaluation=sweep, runs=[runs[0] | {"threshold": 2}]))
    assert "evaluation.thresholds.0 (found 0.5" in said
    bad = {"schedule": "full_sequence", "schedule_options": {"block_size": -1}}
    said = validated(tmp_path, tree(sdar, systems=[{"name": "bad", "policy": "base", "decoding": bad}]))
    assert "systems.bad.decoding: " in said and "thresholds" not in said


def test_validate_looks_at_weights_and_adapters_of_a_folder_by_their_headers(tmp_path):
    sdar = save_byte_checkpoint(tmp_path / "sdar")
    other = save_byte_checkpoint(tmp_path / "other", hidden_size=32)
    own, foreign = (byte_adapter(tmp_path / f"lora-{each.name}", LLM(each).model) for each in (sdar, other))
    given = {"checkpoint": str(sdar), "mask_token_id": load_tokenizer(sdar).mask_token_id}
    assert not validated(tmp_path, tree(sdar, base=given | {"adapter": str(own)}))
    said = validated(tmp_path, tree(sdar, base=given | {"adapter": str(foreign)}))
    assert "base.adapter: " in said and "The adapter's base is" in said
    assert "base.adapter: the adapter" in validated(
        tmp_path, tree(sdar, base=given | {"adapter": str(tmp_path / "no")})
    )
    (sdar / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    assert "base.checkpoint: " in (said := validated(tmp_path, tree(sdar))) and "by config.json" in said
