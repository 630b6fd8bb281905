"""A config that cannot be used is refused with the key's path, what was found, and what is allowed."""

from __future__ import annotations

from copy import deepcopy
from itertools import product
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from lightningrl.config.experiment import Experiment, load
from lightningrl.config.machine import ACKNOWLEDGEMENT, Sandbox
from lightningrl.config.reading import explain
from lightningrl.errors import ConfigError
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.sandbox.levels import LEVELS

NANO = PACKAGE.parent / "config" / "nano.yaml"
RUN = {"name": "ours", "role": "after", "algorithm": "lightningrl", "benchmark": "gsm-mini", "steps": 2}
RELEASED = {"name": "x", "role": "released", "checkpoint": "a/b", "block_size": 8, "mask_token_id": 5}
GONE = object()


def changed(folder: Path, changes: dict) -> Path:
    """Nano with each `a.b.0.c` of the changes set to its value."""
    tree = yaml.safe_load(NANO.read_text())
    for path, value in changes.items():
        node, (*above, last) = tree, path.split(".")
        for part in above:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if value is GONE:
            del node[last]
        else:
            node[int(last) if isinstance(node, list) else last] = value
    (folder / "mine.yaml").write_text(yaml.safe_dump(tree))
    return folder / "mine.yaml"


def series(**second) -> dict:
    """Two runs of a series, the second with these changes."""
    runs = [RUN | {"series": "s"}, RUN | {"series": "s", "name": "b", "seed": 1} | second]
    return {"runs": runs, "report.replays": []}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"thresholds": [0.5]}, ["thresholds: unknown key", "evaluation", "experiment"]),
        (
            {"benchmarks.0.name": "gsm-mimi"},
            ["benchmarks.0.name: there is no benchmark 'gsm-mimi'. Did you mean `gsm-mini`? Allowed: arc-challenge, "],
        ),
        ({"evaluation.tresholds": [0.5]}, ["evaluation.tresholds: unknown key", "primary_threshold, samples"]),
        ({"runs.1.learning_rat": 1}, ["runs.1.learning_rat: unknown key", "learning_rate"]),
        (
            {"pretrain.diffusion.decy": 1},
            ["pretrain.diffusion.decy: unknown key", "decay, objective, rate, sequences, steps"],
        ),
        ({"resources.jobs": {"table": {}}}, ["resources.jobs: found 'table'", "train", "<rule>/<size of a model>"]),
        ({"resources.jobs": {"train/8B": {"gpus": 8}}}, ["train/8B", "train/8b"]),
        ({"resources.jobs": {"tran": {"gpus": 8}}}, ["resources.jobs: found 'tran'", "Did you mean `train`?"]),
        ({"resources.jobs": {"train/1_7b": {"gpus": 4}}}, ["found 'train/1_7b'", "sizes of this experiment: none."]),
        ({"resources.jobs": {"train/": {"gpus": 4}}}, ["resources.jobs: found 'train/'"]),
        ({"resources.jobs": {"train/8b": {"gpu": 1}}}, ["resources.jobs.train/8b.gpu: unknown key", "gpus"]),
        ({"resources.jobs": {"train": {"memory_gb": 0.0004}}}, ["jobs.train.memory_gb: found 0.0004", "0.001"]),
        ({"resources.jobs": {"train": {"hours": 1e12}}}, ["jobs.train.hours: found 1000000000000.0", "8760"]),
        (
            {"runs.1.method": {"nll": 0.1}},
            ["runs.grpo-traj.method.nll: unknown key", "Allowed here: advantage, clip_"],
        ),
        ({"runs.0.method": {"nl": 0.1}}, ["lightningrl.method.nl: unknown key. Did you mean `nll`?", "shrink, value"]),
        ({"runs.0.method": {"kl": -1}}, ["runs.lightningrl.method.kl: found -1", "greater than or equal to 0"]),
        ({"runs.0.method": {"value": {"lamb": 1}}}, ["method.value.lamb: unknown key", "clip, gamma, lam, learning"]),
        ({"runs.0.method": {"rewards": [{"name": "speed"}]}}, ["rewards.0.name: found 'speed'", "accuracy, tpf"]),
        ({"runs.2.method": {"kl": 0.1}}, ["runs.supervised.method.kl: unknown key. Allowed here: none"]),
        ({"runs.0.algorithm": "grpo"}, ["there is no algorithm 'grpo'. Did you mean `grpo_traj`? Allowed: d2f, d3llm"]),
        ({"runs.0.algorithm": "json:loads"}, ["json:loads is not an algorithm; expected a subclass of lightningrl.rl"]),
        ({"runs.0.algorithm": "nobody:own"}, ["nobody:own: no module 'nobody'; install it or put it on PYTHONPATH"]),
        (
            {"runs.0.base": "grpo-traj"},
            ["runs.lightningrl.base: found 'grpo-traj'", "['base'] (base policies, and the"],
        ),
        (
            {
                "runs.1.base": "lightningrl",
                "runs.0.match_compute": "grpo-traj",
                "runs.2.match_compute": "lightningrl-code",
            },
            ["it waits for itself, through", "a run cannot match the compute of one that begins from it"],
        ),
        ({"runs.0.steps": "many", "sead": 1}, ["runs.0.steps: found 'many'", "integer", "sead"]),  # all told at once
        ({"runs.0.steps": 0}, ["runs.0.steps: found 0", "greater than 0"]),
        ({"plugins": ["mydlm.nmes"]}, ["experiment:\n  plugins.0: mydlm.nmes:MEMBERS: no module 'mydlm'; install it"]),
        ({"report.tables": ["main", "main"]}, ["report.tables.1: 'main' is listed twice, here and at 0; keep one"]),
        ({"runs.0.benchmark": "gsm-mimi"}, ["'code-mini']. Did you mean `gsm-mini`?"]),
        ({"report.replays": ["ligtningrl"]}, ["report.replays.0: found 'ligtningrl'", "Did you mean `lightningrl`?"]),
        ({"decoding": {"selector": "treshold"}}, ["decoding.selector: there is no selector 'treshold'. Did you"]),
        ({"runs.0.role": "before"}, ["runs.0.role: found 'before'", "after|rival|control"]),
        ({"evaluation.thresholds": [0.5, 1.3]}, ["evaluation.thresholds", "within (0, 1]", "found 1.3"]),
        ({"evaluation.thresholds": [float("nan")]}, ["evaluation.thresholds", "finite"]),
        ({"evaluation.thresholds": [0.9, 0.5]}, ["evaluation.thresholds", "strictly increasing", "[0.9, 0.5]"]),
        ({"evaluation.thresholds": 0.9}, ["evaluation.thresholds: found 0.9", "list"]),
        ({"evaluation.primary_threshold": 0.8}, ["evaluation.primary_threshold: found 0.8", "[0.02, 0.9]"]),
        ({"runs.0.threshold": 1.3}, ["runs.lightningrl.threshold", "within (0, 1]", "found 1.3"]),
        ({"runs.0.benchmark": "gsm8k"}, ["benchmark: found 'gsm8k'", "['gsm-mini', 'code-mini']"]),
        ({"runs.2.match_compute": "nobody"}, ["match_compute: found 'nobody'", "'lightningrl'"]),
        ({"model.num_attention_heads": 3, "model.num_key_value_heads": 2}, ["(3) must be a multiple of num_key_value"]),
        ({"model.block_size": GONE}, ["model.block_size: this key is required"]),
        ({"experiment": "My Run"}, ["experiment: found 'My Run'", "pattern"]),
        ({"seed": -1}, ["seed: found -1", "greater than or equal to 0"]),
        ({"runs.1.name": "base"}, ["two policies are named 'base'", "the experiment's own"]),
        ({"runs.1.name": "lightningrl"}, ["two policies are named 'lightningrl'"]),
        ({"report.replayed_problems": 13}, ["report.replayed_problems: found 13", "12 test problems"]),
        (
            {"report.figures": ["reliability", "together"]},
            ["['reliability', 'together'] show what `report.probes`"],
        ),
        ({"report.tables": ["phrasing"]}, ["['phrasing'] show what `report.probes` found"]),
        ({"report.figures": ["ablations"]}, ["shows runs with the role `ablation`"]),
        ({"runs.0.base": "sdar-4b"}, ["runs.lightningrl.base: found 'sdar-4b'", "['base']"]),
        ({"checkpoints": [RELEASED]}, ["checkpoints.x.base: found None", "['base']"]),
        ({"pretrain.mixture": {"gsm8k": 1.0}}, ["pretrain.mixture", "['gsm8k']"]),
        ({"pretrain.mixture": {"gsm-mini": 0.0}}, ["pretrain.mixture", "more than 0"]),
        ({"pretrain.mixture": {"gsm-mini": -1.0}}, ["pretrain.mixture.gsm-mini: found -1.0"]),
        ({"runs.0.updates": 20}, ["runs.lightningrl.updates: found 20", "at most its prompts (2)"]),
        ({"model.max_position_embeddings": 24}, ["model.max_position_embeddings: found 24", "needs more than 32"]),
        ({"runs.0.seeds": [1, 1]}, ["different numbers"]),
        ({"runs.0.seeds": [-1]}, ["runs.0.seeds.0: found -1", "greater than or equal to 0"]),
        ({"runs.0.seeds": [1], "runs.0.seed": 2}, ["`seed` and `series` must not be"]),
        ({"runs.0.seeds": [1], "runs.0.series": "s"}, ["`seed` and `series` must not be"]),
        (series(steps=3), ["runs.b.steps: found 3, but 2 in ours; runs of a series differ in their seeds only"]),
        (series(method={"nll": 0.0}), ["runs.b.method: found ", "nll=0.0"]),
        (series(seed=0), ["two of the series 's' have the same seed, [0, 0]"]),
        ({"runs": [RUN | {"series": "base"}], "report.replays": []}, ["called 'base', and so is a policy outside it"]),
        ({"sandbox.level": "none"}, ["sandbox: level `none`", f"acknowledge: {ACKNOWLEDGEMENT}"]),
        ({"sandbox": {"level": "none", "acknowledge": ACKNOWLEDGEMENT.lower()}}, [f"acknowledge: {ACKNOWLEDGEMENT}"]),
        ({"sandbox": {"level": "none", "acknowledge": f"{ACKNOWLEDGEMENT}."}}, [f"acknowledge: {ACKNOWLEDGEMENT}"]),
    ],
)
def test_a_wrong_value_is_answered_with_path_found_and_allowed(tmp_path, changes, expected):
    file = changed(tmp_path, changes)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(file) in str(caught.value)
    for part in expected:
        assert part in str(caught.value)


ODD = (None, True, 3, -1.5, "x", "a:b", [], [[]], ["x"], [1], {}, {"x": 1}, {"name": []}, [{}], float("inf"))
RICH = {
    "bases": [{"name": "llada", "family": "llada", "match_compute": "base", "pretrain": {
        "autoregressive": None, "diffusion": {"objective": "masked"},
    }}],
    "checkpoints": [{"name": "x", "checkpoint": "a/b", "block_size": 8, "mask_token_id": 5, "evaluate_on": []}],
    "decoding": {"selector": "threshold", "selector_options": {}, "schedule": "fused", "rows": 3},
    "systems": [
        {"name": "w4", "policies": ["base"], "decoding": {"preset": "sdar_dynamic"}, "thresholds": [0.5], "quantizer": {
            "name": "gptq", "options": {"bits": 4}, "calibration": {"source": "clean", "problems": 3},
        }},
        {"name": "llada", "decoding": {"preset": "llada"}, "thresholds": [8], "evaluate_on": ["gsm-mini"]},
        {"name": "served", "endpoint": {"model": "toy", "extra_body": {"top_p": 1}, "stop": ["a"]}},
    ],
    "resources": {"jobs": {"train": {"gpus": 1}}}, "sandbox": {"level": "auto"}, "plugins": [],
}  # fmt: skip
"""Sections that nano leaves out."""
DISTILLED = RUN | {
    "name": "dp", "role": "rival", "algorithm": "dparallel", "decoding": {"preset": "sdar_dynamic"},
    "method": {"data": {"decoding": {"selector": "quota"}, "shard": 3}, "adapter": {"rank": 2}},
}  # fmt: skip


def places(tree, above=()):
    """The path of every key and every item of a tree."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield (*above, key)
        yield from places(value, (*above, key))


def test_no_odd_value_of_any_key_is_answered_with_anything_but_its_mistakes():
    tree = yaml.safe_load(NANO.read_text()) | RICH
    tree["runs"] = [*tree["runs"], DISTILLED]
    Experiment.model_validate(tree)
    refused = 0
    for path, value in product(places(tree), ODD):
        node = odd = deepcopy(tree)
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value
        try:
            Experiment.model_validate(odd)
        except ConfigError:
            refused += 1
        except ValidationError as error:
            refused += bool(explain(error, Experiment))
    assert refused > 2000


def test_without_a_jail_goes_with_the_exact_sentence_alone():
    assert Sandbox(level="none", acknowledge=ACKNOWLEDGEMENT).level == "none"
    assert ACKNOWLEDGEMENT in (Sandbox.model_fields["acknowledge"].description or "")
    assert Sandbox.model_fields["level"].annotation.__args__ == ("auto", *LEVELS)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, r"a\.yaml does not exist"),
        ({"a.yaml": "# nothing\n"}, r"a\.yaml: expected a mapping of keys, the file is empty"),
        (
            {"a.yaml": "report: {}\nseed: 1\nreport: {}\n"},
            r"a\.yaml: .* key `report` twice, in lines 1 and 3; keep one",
        ),
        (
            {"a.yaml": "extends: b.yaml\n", "b.yaml": "runs:\n- {name: a, name: b}\n"},
            r"b\.yaml: found the key `name` twice, in lines 2 and 2",
        ),
        ({"a.yaml": "a: \xff\n"}, "is not YAML"),
        ({"a.yaml": "- 1\n"}, "expected a mapping of keys, found list"),
        ({"a.yaml": "a: [1\n"}, r'is not YAML.*in "[^"]*a\.yaml", line 1'),
        ({"a.yaml": None}, "cannot be read"),
        ({"a.yaml": "extends: b.yaml\n", "b.yaml": "extends: a.yaml\n"}, "goes round in a circle"),
        ({"a.yaml": "extends: gone.yaml\n"}, r"gone\.yaml does not exist \(extended by .*a\.yaml\)"),
    ],
)
def test_files_that_are_no_config(tmp_path, files, said):
    for name, text in files.items():
        (tmp_path / name).mkdir() if text is None else (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        load(tmp_path / "a.yaml")


def test_extends_merges_mappings_and_replaces_lists(tmp_path):
    (tmp_path / "base.yaml").write_text(NANO.read_text())
    file = tmp_path / "more.yaml"
    file.write_text("extends: base.yaml\nexperiment: more\nevaluation: {thresholds: [0.5, 0.9]}\n")
    more, nano = load(file), load(NANO)
    assert more.experiment == "more" and more.runs == nano.runs
    assert more.evaluation.thresholds == [0.5, 0.9] and more.evaluation.shard == nano.evaluation.shard == 6


def test_seeds_make_a_run_each_and_controls_match_the_run_of_their_own_seed(tmp_path):
    def runs(**keys):
        own = RUN | keys
        control = own | {"name": "control", "role": "control", "algorithm": "supervised", "match_compute": "ours"}
        return load(changed(tmp_path, {"runs": [own, control], "report.replays": []})).runs

    spread = runs(seeds=[3, 5])
    assert [(run.name, run.seed, run.series, run.match_compute) for run in spread] == [
        ("ours-3", 3, "ours", None), ("ours-5", 5, "ours", None),
        ("control-3", 3, "control", "ours-3"), ("control-5", 5, "control", "ours-5"),
    ]  # fmt: skip
    alone = runs(seed=3)[0]
    assert alone.series == "" and alone.science() == spread[0].science() | {"name": "ours"}  # a series is no science
