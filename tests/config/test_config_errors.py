"""A config that cannot be used is refused with the key's path, what was found, and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightningrl.config.experiment import load
from lightningrl.errors import ConfigError
from lightningrl.pipeline.code_digest import PACKAGE

NANO = PACKAGE.parent / "config" / "nano.yaml"


def refused(tmp_path: Path, path: str, value: object) -> str:
    """The message for nano with `a.b.0.c` set to `value`."""
    tree = yaml.safe_load(NANO.read_text())
    node = tree
    *above, last = path.split(".")
    for part in above:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    node[int(last) if isinstance(node, list) else last] = value
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(file) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("thresholds", [0.5], ["thresholds: unknown key", "evaluation", "experiment"]),
        (
            "benchmarks.0.name",
            "gsm-mimi",
            ["benchmarks.0.name: there is no benchmark 'gsm-mimi'. Did you mean `gsm-mini`? Allowed: code-mini, "],
        ),
        ("evaluation.tresholds", [0.5], ["evaluation.tresholds: unknown key", "primary_threshold, samples"]),
        ("runs.1.learning_rat", 1, ["runs.1.learning_rat: unknown key", "learning_rate"]),
        ("pretrain.diffusion.decy", 1, ["pretrain.diffusion.decy: unknown key", "decay, rate, sequences, steps"]),
        ("resources.jobs", {"table": {}}, ["resources.jobs: found 'table'", "train", "<rule>/<size of a model>"]),
        ("resources.jobs", {"train/8b": {"gpu": 1}}, ["resources.jobs.train/8b.gpu: unknown key", "gpus"]),
        (
            "runs.1.method",
            {"nll": 0.1},
            ["runs.grpo-traj.method.nll: unknown key", "Allowed here: advantage, clip_high, clip_low, filter_accuracy"],
        ),
        (
            "runs.0.method",
            {"nl": 0.1},
            ["lightningrl.method.nl: unknown key. Did you mean `nll`?", "shrink, value"],
        ),
        ("runs.0.method", {"kl": -1}, ["runs.lightningrl.method.kl: found -1", "greater than or equal to 0"]),
        (
            "runs.0.method",
            {"value": {"lamb": 1}},
            ["method.value.lamb: unknown key", "clip, gamma, lam, learning_rate"],
        ),
        ("runs.0.method", {"rewards": [{"name": "speed"}]}, ["method.rewards.0.name: found 'speed'", "accuracy, tpf"]),
        ("runs.2.method", {"kl": 0.1}, ["runs.supervised.method.kl: unknown key. Allowed here: none"]),
        ("runs.0.algorithm", "grpo", ["there is no algorithm 'grpo'. Did you mean `grpo_traj`? Allowed: grpo_traj, "]),
        ("runs.0.algorithm", "json:loads", ["json:loads is not an algorithm; expected a subclass of lightningrl.rl"]),
        ("runs.0.algorithm", "nobody:own", ["nobody:own: no module 'nobody'; install it or put it on PYTHONPATH"]),
        ("runs.1.match_compute", "lightningrl", ["runs.grpo-traj.match_compute", "only a control spends it"]),
        ("runs.0.steps", "many", ["runs.0.steps: found 'many'", "integer"]),
        ("runs.0.steps", 0, ["runs.0.steps: found 0", "greater than 0"]),
        ("runs.0.role", "before", ["runs.0.role: found 'before'", "after|rival|control"]),
        ("evaluation.thresholds", [0.5, 1.3], ["evaluation.thresholds", "within (0, 1)", "found 1.3"]),
        ("evaluation.thresholds", [0.9, 0.5], ["evaluation.thresholds", "strictly increasing", "[0.9, 0.5]"]),
        ("evaluation.thresholds", 0.9, ["evaluation.thresholds: found 0.9", "list"]),
        ("evaluation.primary_threshold", 0.8, ["evaluation.primary_threshold: found 0.8", "[0.02, 0.9]"]),
        ("runs.0.threshold", 1.3, ["runs.lightningrl.threshold", "within (0, 1)", "found 1.3"]),
        ("runs.0.benchmark", "gsm8k", ["benchmark: found 'gsm8k'", "['gsm-mini', 'code-mini']"]),
        ("runs.2.match_compute", "nobody", ["match_compute: found 'nobody'", "'lightningrl'"]),
        ("model.num_attention_heads", 3, ["num_attention_heads", "head"]),
        ("experiment", "My Run", ["experiment: found 'My Run'", "pattern"]),
        ("seed", -1, ["seed: found -1", "greater than or equal to 0"]),
        ("runs.1.name", "base", ["two policies are named 'base'", "the experiment's own"]),
        ("runs.1.name", "lightningrl", ["two policies are named 'lightningrl'"]),
        ("report.replayed_problems", 13, ["report.replayed_problems: found 13", "12 test problems"]),
        ("resources.jobs", {"train/8B": {"gpus": 8}}, ["train/8B", "train/8b"]),
        ("runs.0.base", "sdar-4b", ["runs.lightningrl.base: found 'sdar-4b'", "['base']"]),
        (
            "checkpoints",
            [{"name": "x", "role": "released", "checkpoint": "a/b", "block_size": 8, "mask_token_id": 5}],
            ["checkpoints.x.base: found None", "['base']"],
        ),
        ("pretrain.mixture", {"gsm8k": 1.0}, ["pretrain.mixture", "['gsm8k']"]),
        ("pretrain.mixture", {"gsm-mini": 0.0}, ["pretrain.mixture", "more than 0"]),
        ("pretrain.mixture", {"gsm-mini": -1.0}, ["pretrain.mixture.gsm-mini: found -1.0"]),
        ("runs.0.updates", 20, ["runs.lightningrl.updates: found 20", "at most its prompts (2)"]),
        ("model.max_position_embeddings", 24, ["model.max_position_embeddings: found 24", "needs more than 32"]),
    ],
)
def test_a_wrong_value_is_answered_with_path_found_and_allowed(tmp_path, path, value, expected):
    if path == "model.num_attention_heads":
        expected = expected[:1]
        message = refused(tmp_path, "model", yaml.safe_load(NANO.read_text())["model"] | {
            "num_attention_heads": 3, "num_key_value_heads": 2,
        })  # fmt: skip
        assert "(3) must be a multiple of num_key_value_heads (2)" in message
    else:
        message = refused(tmp_path, path, value)
    for part in expected:
        assert part in message


def test_a_missing_key_is_named(tmp_path):
    tree = yaml.safe_load(NANO.read_text())
    del tree["model"]["block_size"]
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=r"model\.block_size: this key is required"):
        load(file)


def test_all_mistakes_are_told_at_once(tmp_path):
    tree = yaml.safe_load(NANO.read_text())
    tree["sead"] = 1
    tree["runs"][0]["steps"] = "many"
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert "sead" in str(caught.value) and "runs.0.steps" in str(caught.value)


def test_files_that_are_no_config(tmp_path):
    file = tmp_path / "x.yaml"
    with pytest.raises(ConfigError, match=r"x\.yaml does not exist"):
        load(file)
    file.write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected a mapping of keys, found list"):
        load(file)
    file.write_text("a: [1\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        load(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


def test_extends_merges_mappings_and_replaces_lists(tmp_path):
    (tmp_path / "base.yaml").write_text(NANO.read_text())
    file = tmp_path / "more.yaml"
    file.write_text("extends: base.yaml\nexperiment: more\nevaluation: {thresholds: [0.5, 0.9]}\n")
    more, nano = load(file), load(NANO)
    assert more.experiment == "more"
    assert more.evaluation.thresholds == [0.5, 0.9]
    assert more.evaluation.shard == nano.evaluation.shard == 6
    assert more.runs == nano.runs


def test_extends_in_a_circle_or_into_nothing(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ConfigError, match="goes round in a circle"):
        load(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("extends: gone.yaml\n")
    with pytest.raises(ConfigError, match=r"gone\.yaml does not exist \(extended by .*c\.yaml\)"):
        load(tmp_path / "c.yaml")


def seeded(tmp_path: Path, **keys) -> Path:
    """Nano with a run of these keys, and a control that matches it."""
    run = {"name": "ours", "role": "after", "algorithm": "lightningrl", "benchmark": "gsm-mini", "steps": 2} | keys
    control = run | {"name": "control", "role": "control", "algorithm": "supervised", "match_compute": "ours"}
    tree = {"extends": str(NANO), "runs": [run, control], "report": {"replays": []}}
    (tmp_path / "seeded.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "seeded.yaml"


def test_seeds_make_a_run_each_and_controls_match_the_run_of_their_own_seed(tmp_path):
    runs = load(seeded(tmp_path, seeds=[3, 5])).runs
    assert [(run.name, run.seed, run.series, run.match_compute) for run in runs] == [
        ("ours-3", 3, "ours", None), ("ours-5", 5, "ours", None),
        ("control-3", 3, "control", "ours-3"), ("control-5", 5, "control", "ours-5"),
    ]  # fmt: skip
    alone = load(seeded(tmp_path, seed=3)).runs[0]
    assert alone.series == "" and alone.science() == runs[0].science() | {"name": "ours"}  # a series is no science


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"seeds": [1, 1]}, "different numbers"),
        ({"seeds": [-1]}, "different numbers"),
        ({"seeds": [1], "seed": 2}, "`seed` and `series` must not be"),
        ({"seeds": [1], "series": "s"}, "`seed` and `series` must not be"),
    ],
)
def test_seeds_that_say_two_things_are_refused(tmp_path, keys, said):
    with pytest.raises(ConfigError, match=said):
        load(seeded(tmp_path, **keys))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 3}, r"runs.b.steps: found 3, but 2 in ours; runs of a series differ in their seeds only"),
        ({"method": {"nll": 0.0}}, r"runs.b.method: found .*nll=0.0"),
        ({"seed": 0}, r"two of the series 's' have the same seed, \[0, 0\]"),
        ({"series": "base"}, "a series is called 'base', and so is a policy outside it"),
    ],
)
def test_a_series_whose_runs_differ_in_more_than_their_seeds_is_refused(tmp_path, changes, said):
    run = {
        "name": "ours",
        "role": "after",
        "algorithm": "lightningrl",
        "benchmark": "gsm-mini",
        "steps": 2,
        "series": "s",
    }
    tree = {"extends": str(NANO), "runs": [run, run | {"name": "b", "seed": 1} | changes], "report": {"replays": []}}
    (tmp_path / "series.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=said):
        load(tmp_path / "series.yaml")


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({"figures": ["reliability", "together"]}, r"\['reliability', 'together'\] show what `report.probes` found"),
        ({"tables": ["phrasing"]}, r"\['phrasing'\] show what"),
        ({"figures": ["ablations"]}, "shows runs with the role `ablation`"),
    ],
)
def test_what_nothing_can_be_shown_in_is_refused_before_anything_runs(tmp_path, report, said):
    (tmp_path / "empty.yaml").write_text(yaml.safe_dump({"extends": str(NANO), "report": report}))
    with pytest.raises(ConfigError, match=said):
        load(tmp_path / "empty.yaml")
