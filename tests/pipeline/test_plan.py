"""Keys: what changes them, what does not, and what a wrong name in the config meets."""

from __future__ import annotations

import random
from typing import Any

import pytest
import yaml

from lightningrl.config.experiment import Experiment, load
from lightningrl.errors import ConfigError, StageError
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.plan import Plan, plan

NANO = PACKAGE.parent / "config" / "nano.yaml"


def planned(change: dict[str, Any] | None = None) -> Plan:
    """The plan of nano with `a.b.0.c: value` changes."""
    tree = yaml.safe_load(NANO.read_text())
    for path, value in (change or {}).items():
        node: Any = tree
        *above, last = path.split(".")
        for part in above:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        node[int(last) if isinstance(node, list) else last] = value
    return plan(Experiment.model_validate(tree))


def keys(of: Plan) -> dict[tuple[str, str], str]:
    return {(stage.kind, stage.name): stage.key for stage in of}


def changed(change: dict[str, Any]) -> set[str]:
    before, after = keys(planned()), keys(planned(change))
    assert before.keys() == after.keys()
    return {f"{kind}/{name}" for (kind, name), key in after.items() if before[kind, name] != key}


def later(of: Plan) -> set[str]:
    return {f"{s.kind}/{s.name}" for s in of if s.kind in ("collect", "table", "figure", "release")}


def test_every_stage_follows_what_it_reads():
    seen = set()
    for stage in planned():
        assert {id(source) for source in stage.inputs.values()} <= seen, stage.name
        seen.add(id(stage))
    assert [stage.kind for stage in planned()][-1] == "release"
    assert {stage.kind for stage in planned()} == set(KINDS) - {"checkpoint", "quantize", "speed", "probe"}


def test_the_stages_of_nano():
    names = {f"{stage.kind}/{stage.name}" for stage in planned()}
    runs = ["lightningrl", "grpo-traj", "supervised", "lightningrl-code"]
    assert {name for name in names if name.startswith("train/")} == {f"train/{run}" for run in runs}
    assert {name for name in names if name.startswith("evaluate/")} == {
        "evaluate/base/gsm-mini", "evaluate/base/code-mini", "evaluate/lightningrl/gsm-mini",
        "evaluate/grpo-traj/gsm-mini", "evaluate/supervised/gsm-mini", "evaluate/lightningrl-code/code-mini",
    }  # fmt: skip


def test_the_control_reads_the_run_whose_compute_it_matches():
    of = planned()
    assert of.stage("train", "supervised").inputs["matched"] is of.stage("train", "lightningrl")
    assert "matched" not in of.stage("train", "grpo-traj").inputs


def test_folders_and_files():
    stage = planned().stage("evaluate", "base/gsm-mini")
    assert stage.folder.as_posix() == f"results/nano/evaluate/base/gsm-mini-{stage.key}"
    assert stage.outputs == (*KINDS["evaluate"].files, "manifest.json")
    release = planned().release
    assert release.folder.as_posix() == f"results/nano/release-{release.key}"
    assert {"tables/main.tex", "figures/frontier.pdf"} <= set(release.files)


def test_key_order_changes_nothing():
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = [(key, shuffled(item)) for key, item in value.items()]
            random.Random(7).shuffle(items)
            return dict(items)
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    tree = yaml.safe_load(NANO.read_text())
    assert list(shuffled(tree)) != list(tree)
    assert keys(plan(Experiment.model_validate(shuffled(tree)))) == keys(planned())


def test_a_stage_sees_inputs_in_an_order_of_their_names():
    tree = yaml.safe_load(NANO.read_text())
    tree["benchmarks"].reverse()
    for stage in (*plan(Experiment.model_validate(tree)), *planned()):
        assert stage.kind == "release" or list(stage.inputs) == sorted(stage.inputs)
        assert stage.kind != "pretrain" or list(stage.config["max_new_tokens"]) == ["code-mini", "gsm-mini"]


def test_explicit_defaults_change_nothing():
    assert changed({"decoding": {"selector": "threshold"}, "evaluation.samples": 1}) == set()


def test_resources_change_nothing():
    resources = {
        "pretrain_threads": 7, "train_threads": 7, "evaluate_threads": 7, "speed_threads": 7, "judge_workers": 7,
        "max_minutes": 3.0, "device": "cuda", "train_processes": 7, "checkpoint_activations": True, "evaluate_parts": 7,
        "jobs": {"train/8b": {"gpus": 7, "cpus": 7, "memory_gb": 7, "hours": 7}},
    }  # fmt: skip
    assert set(resources) == set(planned().experiment.resources.model_dump()), "a new resource: add it here"
    assert changed({"resources": resources}) == set()


def test_the_jail_level_changes_nothing():
    """It is in each record: the machine's fact, like the number of workers."""
    acknowledged = {"level": "none", "acknowledge": "I run model-written code without a jail"}
    assert changed({"sandbox": acknowledged}) == set() == changed({"sandbox": {"level": "landlock"}})


def test_the_experiments_name_is_only_in_what_prints_it():
    assert changed({"experiment": "other"}) == later(planned())


def test_one_more_threshold_costs_that_threshold_only():
    more = {"evaluation.thresholds": [0.02, 0.5, 0.9]}
    evaluations = {f"evaluate/{stage.name}" for stage in planned().of("evaluate")}
    assert changed(more) == evaluations | later(planned())
    for stage in planned(more).of("evaluate"):
        before = planned().stage("evaluate", stage.name)
        assert stage.cache == before.cache
        assert stage.folder != before.folder


def test_another_sample_count_shares_no_cache():
    for stage in planned({"evaluation.samples": 2}).of("evaluate"):
        assert stage.cache != planned().stage("evaluate", stage.name).cache


def test_one_run_changes_alone():
    assert changed({"runs.1.method": {"kl": 0.5}}) == {"train/grpo-traj", "evaluate/grpo-traj/gsm-mini"} | later(
        planned()
    )


def test_a_matched_run_takes_its_control_along():
    expected = {
        "train/lightningrl",
        "train/supervised",
        "evaluate/lightningrl/gsm-mini",
        "evaluate/supervised/gsm-mini",
        "replay/lightningrl",
    }
    assert changed({"runs.0.method": {"kl": 0.5}}) == expected | later(planned())


def test_a_seed_changes_everything():
    assert changed({"seed": 5}) >= {f"{s.kind}/{s.name}" for s in planned() if s.kind != "release"} - {
        "release/release"
    }


def test_another_prompt_leaves_the_base_alone():
    expected = {
        "train/lightningrl-code", "evaluate/base/code-mini", "evaluate/lightningrl-code/code-mini",
    }  # fmt: skip
    assert changed({"benchmarks.1.prompt": {"suffix": "Be brief."}}) == expected | later(planned())


@pytest.mark.parametrize(
    ("change", "where", "allowed"),
    [
        ({"decoding": {"selector": "best"}}, "decoding.selector: there is no selector 'best'", "threshold"),
        ({"report.figures": ["pie"]}, "report.figures: there is no figure 'pie'", "frontier"),
        ({"report.tables": ["all"]}, "report.tables: there is no table 'all'", "main"),
    ],
)
def test_a_name_that_no_registry_has_is_refused_with_those_it_has(change, where, allowed):
    with pytest.raises(ConfigError) as caught:
        planned(change)
    assert where in str(caught.value)
    assert allowed in str(caught.value).split("Allowed: ")[1]


def test_a_plug_in_is_part_of_the_key(tmp_path, monkeypatch):
    plug_in = tmp_path / "pie_plug_in.py"
    plug_in.write_text("def draw(table, out_dir, options=None): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    change = {"report.figures": ["pie_plug_in:draw"]}
    stage = planned(change).of("figure")[0]
    assert stage.name == "pie_plug_in-draw"
    plug_in.write_text("def draw(table, out_dir, options=None): return []\n")
    assert planned(change).of("figure")[0].key != stage.key


def test_two_stages_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="two table stages would be named 'main'"):
        planned({"report.tables": ["main", "main"]})


def test_an_unknown_stage_is_answered_with_the_known_ones():
    with pytest.raises(StageError, match="It has: base"):
        planned().stage("pretrain", "big")


def test_the_other_experiments_can_be_planned():
    for path in sorted((PACKAGE.parent / "config").glob("*.yaml")):
        assert len(plan(load(path)).stages) > 10, path


def test_a_mistyped_row_of_the_published_tables_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match=r"runs.lightningrl.published: .*'LightningRL-8B-B32'; did you mean 'Light"):
        planned({"runs.0.published": "LightningRL-8B-B32"})
