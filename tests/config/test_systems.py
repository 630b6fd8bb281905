"""Rows of the tables: what each system is when everything is filled in, and entries that cannot be."""

from __future__ import annotations

import pytest
import yaml
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.config.decoding import Decoding
from lightningrl.config.experiment import Experiment, load
from lightningrl.config.registries import DECODER, REGISTRIES
from lightningrl.decoding.presets import PRESETS
from lightningrl.errors import StageError
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan
from lightningrl.utils.registry import resolve

NANO = PACKAGE.parent / "config" / "nano.yaml"


def experiment(*systems: dict, **keys: object) -> Experiment:
    """Nano with these entries and keys."""
    tree = load(NANO).model_dump(mode="json", exclude_unset=True)
    return Experiment.model_validate(tree | {"systems": list(systems)} | keys)


def section(**keys: object) -> Decoding:
    return Decoding.model_validate(keys)


def system(name: str, *systems: dict, **keys: object):
    return next(each for each in experiment(*systems, **keys).all_systems() if each.name == name)


def test_without_entries_every_policy_is_a_system_decoded_as_the_experiment_says():
    made = experiment()
    names = ["base", "lightningrl", "grpo-traj", "supervised", "lightningrl-code"]
    assert [each.name for each in made.all_systems()] == [each.policy for each in made.all_systems()] == names
    for each in made.all_systems():
        assert each.decoding == made.decoding and each.quantizer is None and each.base == "base"
        assert (each.thresholds, each.primary_threshold) == ([0.02, 0.9], 0.9)


def test_an_entry_with_the_name_of_a_policy_changes_its_row_and_others_are_added_behind():
    entries = [
        {"name": "eb", "policy": "lightningrl", "decoding": {"preset": "entropy_bounded"}},
        {"name": "base", "primary_threshold": 0.02, "decoding": {"schedule": "separate"}},
    ]
    base, usual, *_, eb = experiment(*entries).all_systems()
    assert (base.name, eb.name) == ("base", "eb")
    assert (base.primary_threshold, base.algorithm) == (0.02, "threshold")
    assert base.decoding != usual.decoding == section()
    assert (eb.policy, eb.role, eb.base, eb.algorithm, eb.evaluate_on) == (
        "lightningrl", "after", "base", "lightningrl", ["gsm-mini"],
    )  # fmt: skip
    assert (eb.thresholds, eb.primary_threshold) == ([0.35], 0.35)  # as published: nano's sweep is of another selector
    assert (eb.decoding.selector, eb.decoding.ranking) == ("cumulative_entropy", "neg_entropy")


def test_a_system_of_the_same_selector_has_the_experiments_sweep():
    usual = system("x", {"name": "x", "policy": "base", "decoding": {"preset": "sdar_dynamic"}})
    assert usual.thresholds == [0.02, 0.9]
    own = system("x", {"name": "x", "policy": "base", "thresholds": [0.3, 0.5], "primary_threshold": 0.5})
    assert (own.thresholds, own.primary_threshold) == ([0.3, 0.5], 0.5)
    one = system("x", {"name": "x", "policy": "base", "thresholds": [0.3]})
    assert one.primary_threshold == 0.3


def test_the_options_of_a_piece_go_with_the_piece():
    below = section(selector="threshold", selector_options={"inclusive": True}, rows=8)
    assert section(selector="quota").over(below).selector_options == {}
    assert section(stop="inside_block").over(below).selector_options == {"inclusive": True}
    assert section(selector="threshold").over(below).selector_options == {"inclusive": True}
    assert section(selector="quota").over(below).rows == 8
    changed = section(preset="lmdeploy_dynamic", selector="quota")
    assert (changed.selector, changed.selector_options) == ("quota", {})
    older = section(preset="lmdeploy_dynamic", cache="fused")
    assert (older.schedule, older.selector_options) == ("fused", {"inclusive": True})
    kept = section(preset="lmdeploy_dynamic", stop="inside_block")
    assert (kept.selector_options, kept.stop) == ({"inclusive": True}, "inside_block")


@pytest.mark.parametrize(
    ("change", "stays"),
    [
        ({"quantizer": "rtn"}, False),
        ({"decoding": {"schedule": "separate"}}, False),
        ({"thresholds": [0.9]}, False),
        ({"primary_threshold": 0.02}, False),
        ({"evaluate_on": []}, True),
        ({"decoding": {"selector": "threshold"}}, True),
    ],
)
def test_a_run_that_is_measured_otherwise_than_its_series_leaves_it(change, stays):
    runs = load(NANO).model_dump(mode="json", exclude_unset=True)["runs"]
    runs[1] = {key: value for key, value in runs[1].items() if key not in ("seed", "series")} | {"seeds": [3, 4]}
    made = {each.name: each for each in experiment({"name": "grpo-traj-3"} | change, runs=runs).all_systems()}
    assert made["grpo-traj-3"].series == ("grpo-traj" if stays else "")
    assert made["grpo-traj-4"].series == "grpo-traj"
    together = {each.name: each for each in experiment({"name": "grpo-traj"} | change, runs=runs).all_systems()}
    assert {together[f"grpo-traj-{seed}"].series for seed in (3, 4)} == {"grpo-traj"}


def test_a_series_gives_a_system_a_run_and_a_series_of_its_own():
    runs = load(NANO).model_dump(mode="json", exclude_unset=True)["runs"]
    runs[1] = {key: value for key, value in runs[1].items() if key not in ("seed", "series")} | {"seeds": [3, 4]}
    entry = {"name": "w4", "policy": "grpo-traj", "quantizer": {"name": "rtn"}}
    made = {each.name: each for each in experiment(entry, runs=runs).all_systems()}
    for seed in (3, 4):
        each = made[f"w4-{seed}"]
        assert (each.policy, each.series, each.seed) == (f"grpo-traj-{seed}", "w4", seed)
        assert made[each.policy].series == "grpo-traj" and made[each.policy].quantizer is None
        assert system(f"grpo-traj-{seed}", {"name": "grpo-traj", "thresholds": [0.9]}, runs=runs).thresholds == [0.9]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_every_piece_by_a_name_that_there_is(name):
    preset, decoding = PRESETS[name], section(preset=name)
    for piece in DECODER:
        assert preset["decoding"][piece] in resolve(REGISTRIES[piece])
    assert "selector_options" in preset["decoding"] and preset["source"]
    other = section(selector="scripted", selector_options={"x": 1}, ranking="position", stop="inside_block", rows=3)
    assert decoding.over(other) == decoding.over(section(rows=3))  # it says the same whatever it is merged over
    assert "preset" not in decoding.science()


def test_a_quantizers_options_may_stand_beside_its_name_and_its_data_be_left_out():
    def quantizer(said):
        return system("x", {"name": "x", "policy": "base", "quantizer": said}).quantizer

    short = quantizer({"name": "gptq", "bits": 4, "group": 32, "calibration": "decode"})
    assert short == quantizer({"name": "gptq", "options": {"bits": 4, "group": 32}})
    assert (short.calibration.source, short.calibration.problems) == ("decode", 128)
    assert quantizer("awq").calibration.source == "decode" and quantizer("rtn").calibration is None
    assert quantizer({"name": "quarot", "calibration": "clean", "kv_bits": 4}).options == {"kv_bits": 4}


def test_a_quantize_stage_looks_at_train_problems_by_the_systems_own_decoder():
    entries = [
        {"name": "a", "policy": "lightningrl-code", "quantizer": "gptq"},
        {"name": "b", "policy": "lightningrl-code", "quantizer": "gptq", "thresholds": [0.3]},
        {"name": "c", "policy": "base", "quantizer": {"name": "gptq", "calibration": "clean"}},
        {"name": "d", "policy": "base", "quantizer": {"name": "gptq", "calibration": "clean"}, "thresholds": [0.3]},
    ]  # fmt: skip
    stages = {stage.name: stage for stage in plan(experiment(*entries)).of("quantize")}
    assert sorted(stages) == ["a", "b", "c"]  # clean text does not depend on the threshold
    assert [stages[name].config["threshold"] for name in "ab"] == [0.9, 0.3] and "threshold" not in stages["c"].config
    assert [stages[name].inputs["data"].name for name in "abc"] == ["code-mini", "code-mini", "gsm-mini"]
    assert stages["a"].members["selector"].endswith(":Threshold")


BASE = {"name": "x", "policy": "base"}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"name": "x"}], "systems.x.policy: left out, and there is no policy 'x', allowed: one of ['base', 'light"),
        ([{"name": "x", "policy": "bass"}], "systems.x.policy: found 'bass', allowed: one of ['base'"),
        ([{"name": "x", "policy": "ligtningrl"}], "Did you mean `lightningrl`?"),
        ([BASE | {"decoding": {"selector": "treshold"}}], "x.decoding.selector: there is no selector 'treshold'. Did"),
        ([BASE | {"quantizer": "rnt"}], "systems.x.quantizer.name: there is no quantizer 'rnt'. Did you mean `rtn`"),
        ([{"name": "lightningrl", "policy": "base"}], "'lightningrl' is a policy by itself"),
        ([BASE, BASE | {"policy": "lightningrl"}], "two systems are named 'x'"),
        ([{"name": "base", "thresholds": [0.9]}, {"name": "base"}], "two systems are named 'base'"),
        ([BASE | {"decoding": {"preset": "sdar_dynamc"}}], "Did you mean `sdar_dynamic`"),
        ([BASE | {"decoding": {"selector": "quota"}}], "systems.x.thresholds: left out, but"),
        ([BASE | {"decoding": {"preset": "sdar_static"}}], "systems.x.thresholds: left out"),
        ([BASE | {"thresholds": [0.5, 1.2]}], "systems.x.thresholds.1: a threshold is a probability within (0, 1]"),
        ([BASE | {"thresholds": [0.5, 0.2]}], "strictly increasing"),
        ([BASE | {"thresholds": [0.2, 0.5]}], "systems.x.primary_threshold: found 0.9"),
        ([BASE | {"evaluate_on": ["gsm8k"]}], "systems.x.evaluate_on.0: found 'gsm8k'"),
        (
            [BASE | {"quantizer": {"name": "rtn", "calibration": {"benchmark": "gsm8k"}}}],
            "systems.x.quantizer.calibration.benchmark: found 'gsm8k'",
        ),
        (
            [BASE | {"decoding": {"selector": "quote"}, "thresholds": [4]}],
            "systems.x.decoding.selector: there is no",
        ),
        (
            [BASE | {"quantizer": {"name": "rnt"}}],
            "systems.x.quantizer.name: there is no quantizer 'rnt'. Did you",
        ),
        ([BASE | {"quantizer": {"name": "rtn", "bits": 4, "options": {"bits": 4}}}], "found 'bits' twice"),
        ([BASE | {"quantizer": {"name": "gptq", "bits": 9}}], "bits is 9: "),
        ([BASE | {"quantizer": {"name": "gptq", "group": 33}}], "group is 33, but a layer has 32 inputs"),
        ([BASE | {"quantizer": "duquant"}], "block is 128, but a layer has 32 inputs"),
        (
            [BASE | {"quantizer": {"name": "gptq", "calibration": "dirty"}}],
            "quantizer.calibration.source: found 'dirty'",
        ),
        (
            [BASE | {"quantizer": {"name": ["rtn"]}}],
            "systems.0.quantizer.name: found ['rtn']; input should be a",
        ),
        ([BASE | {"quantizer": {"bits": 4}}], "systems.0.quantizer.name: this key is required"),
        ([BASE | {"quantizer": {"name": "rtn", "options": 4}}], "systems.0.quantizer: options: found 4, expected arg"),
        ([BASE | {"quantizer": {"name": "rtn", "options": [4]}}], "systems.0.quantizer: options: found [4], expected"),
        ([BASE | {"quantizer": {"name": "rtn", "bits": [4]}}], "systems.0.quantizer.options.bits.bool: found [4]"),
        ([BASE | {"quantizer": {"name": "rtn", "bits": "four"}}], "systems.x.quantizer.options: quantizer RoundToNear"),
        (
            [BASE | {"quantizer": "lightningrl.quantization.rtn:Nope"}],
            "systems.x.quantizer.name: lightningrl.quantization.rtn:Nope: module lightningrl.quantization.rtn has no",
        ),
        (
            [BASE | {"quantizer": "lightningrl.quantization.registry:QUANTIZERS"}],
            "systems.x.quantizer.name: lightningrl.quantization.registry:QUANTIZERS is no quantizer; expected a class",
        ),
        ([BASE | {"quantizer": "getpass:getuser"}], "systems.x.quantizer.options: quantizer getuser made"),
        ([BASE | {"quantizer": "textwrap:dedent"}], "systems.x.quantizer.options: quantizer dedent: dedent() missing"),
        ([BASE | {"decoding": {"preset": ["llada"]}}], "systems.0.decoding.preset: found ['llada']"),
        ([BASE | {"published": "LightningRL-8b"}], "systems.x.published: the published tables have no row"),
        (
            [BASE | {"quantizer": {"name": "rtn", "options": {"bitz": 4}}}],
            "systems.x.quantizer.options: quantizer RoundToNearest has no option 'bitz'; its options are bits, group",
        ),
        ([BASE | {"quantizer": {"name": "rtn", "options": {"bits": 9}}}], "bits is 9"),
        (
            [BASE | {"quantizer": {"name": "rtn", "options": {"group": 33}}}],
            "systems.x.quantizer.options: group is 33, but a layer has 32 inputs",
        ),
        (
            [BASE | {"decoding": {"preset": "sdar_static"}, "thresholds": [2.5]}],
            "x.thresholds.0 (found 2.5, of systems.x.decoding): quota: steps is 2.5",
        ),
        (
            [BASE | {"decoding": {"selector_options": {"stepz": 3}}}],
            "argument 'stepz'; its options are inclusive, steps; found {'stepz': 3}",
        ),
    ],
)
def test_validate_says_why_an_entry_cannot_be(tmp_path, entries, message):
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump({"extends": str(NANO), "systems": entries}))
    done = CliRunner().invoke(app, ["validate", "--config", str(file)])
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("fixtures.outsider:Stale", "runs.lightningrl: Stale() keeps stale"),
        ("full_sequence", "in the states that the model saw"),
    ],
)
def test_validate_refuses_what_training_would_refuse_after_pre_training(tmp_path, schedule, message):
    file, tree = tmp_path / "stale.yaml", yaml.safe_load(NANO.read_text())
    for accepts, code in ((False, 2), (True, 0 if "Stale" in schedule else 2)):
        runs = [run | ({"accept_inexact_caches": accepts} if run["role"] != "control" else {}) for run in tree["runs"]]
        file.write_text(yaml.safe_dump(tree | {"decoding": {"schedule": schedule}, "runs": runs}))
        done = CliRunner().invoke(app, ["validate", "--config", str(file)])
        assert done.exit_code == code and (message in done.stderr) == (code == 2), done.stderr


def test_stages_are_of_systems_and_a_quantizer_is_in_no_other_stages_key():
    entries = [
        {"name": "static", "policy": "base", "decoding": {"preset": "sdar_static"}, "thresholds": [4]},
        {"name": "w8", "policy": "lightningrl", "quantizer": "rtn"},
        {"name": "w4", "policy": "lightningrl", "quantizer": {"name": "rtn", "options": {"bits": 4}}},
        {"name": "w4-eb", "policy": "lightningrl", "quantizer": {"name": "rtn", "options": {"bits": 4}},
         "decoding": {"preset": "entropy_bounded"}},
    ]  # fmt: skip
    before, after = plan(experiment()), plan(experiment(*entries))
    old = {stage.label: stage.key for stage in before if stage.kind not in ("collect", "table", "figure", "release")}
    new = {stage.label: stage for stage in after}
    assert all(new[label].key == key for label, key in old.items())
    assert [stage.name for stage in after.of("quantize")] == ["w4", "w8"]  # one for both systems of four bits
    assert new["evaluate/w4-eb/gsm-mini"].inputs["policy"] is new["quantize/w4"]
    with pytest.raises(
        StageError, match=r"no quantize stage 'w4-eb'\. It has: w4, w8\. The weights of w4-eb are those of w4"
    ):
        after.stage("quantize", "w4-eb")
    assert new["evaluate/static/code-mini"].inputs["policy"] is new["pretrain/base"]
    quantization = {"lightningrl/quantization/rtn.py", "lightningrl/quantization/stored.py"}
    for stage in after:
        held = quantization & set(stage.sources)
        assert held == (quantization if stage.kind == "quantize" else quantization & held), stage.label
        if stage.kind != "quantize" and not stage.name.startswith("w"):
            assert not held, stage.label
    assert "lightningrl/quantization/stored.py" in new["evaluate/w8/gsm-mini"].sources
    rows = {row["name"]: row for row in new["collect/frontier"].config["policies"]}
    assert (rows["static"]["base"], rows["static"]["algorithm"], rows["static"]["primary_threshold"]) == (
        "base", "quota", 4.0,
    )  # fmt: skip
    assert (rows["w4"]["base"], rows["w4"]["algorithm"], rows["w4"]["benchmark"]) == ("base", "lightningrl", "gsm-mini")
