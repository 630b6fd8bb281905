"""Keys: what changes them, what does not, and what a wrong name in the config meets."""

from __future__ import annotations

import random
from typing import Any

import pytest
import yaml
from small import NANO, nano_plan

from lightningrl.config.experiment import Experiment, load
from lightningrl.errors import ConfigError, StageError
from lightningrl.pipeline import code_digest
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.plan import Plan, plan


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


def keys(of: Plan) -> dict[str, str]:
    return {stage.label: stage.key for stage in of}


def changed(change: dict[str, Any]) -> set[str]:
    before, after = keys(nano_plan()), keys(planned(change))
    assert before.keys() == after.keys()
    return {label for label, key in after.items() if before[label] != key}


def of_kinds(*kinds: str) -> set[str]:
    return {stage.label for stage in nano_plan() if stage.kind in kinds}


def later() -> set[str]:
    return of_kinds("collect", "table", "figure", "release")


def test_every_stage_follows_what_it_reads():
    seen = set()
    for stage in nano_plan():
        assert {id(source) for source in stage.inputs.values()} <= seen, stage.name
        seen.add(id(stage))
    assert nano_plan().stages[-1].kind == "release"
    absent = {"checkpoint", "distill_data", "quantize", "speed", "probe"}
    assert {stage.kind for stage in nano_plan()} == set(KINDS) - absent


def test_the_stages_of_nano():
    assert of_kinds("train") == {
        f"train/{run}" for run in ("lightningrl", "grpo-traj", "supervised", "lightningrl-code")
    }
    assert of_kinds("evaluate") == {
        "evaluate/base/gsm-mini", "evaluate/base/code-mini", "evaluate/lightningrl/gsm-mini",
        "evaluate/grpo-traj/gsm-mini", "evaluate/supervised/gsm-mini", "evaluate/lightningrl-code/code-mini",
    }  # fmt: skip
    matched = nano_plan().stage("train", "supervised").inputs["matched"]
    assert matched is nano_plan().stage("train", "lightningrl")
    assert "matched" not in nano_plan().stage("train", "grpo-traj").inputs


def test_folders_and_files():
    stage, release = nano_plan().stage("evaluate", "base/gsm-mini"), nano_plan().release
    assert stage.folder.as_posix() == f"results/nano/evaluate/base/gsm-mini-{stage.key}"
    assert stage.outputs == (*KINDS["evaluate"].files, "manifest.json")
    assert release.folder.as_posix() == f"results/nano/release-{release.key}"
    assert {"tables/main.tex", "tables/main.sources.json", "figures/frontier.pdf"} <= set(release.files)


def test_upstream_and_downstream_are_what_a_stage_is_made_from_and_what_is_made_from_it():
    of = nano_plan()
    train = of.stage("train", "grpo-traj")
    upstream = {"data/gsm-mini", "data/code-mini", "tokenizer/tokenizer", "pretrain/base", "train/grpo-traj"}
    assert {stage.label for stage in of.upstream(train)} == upstream
    downstream = of.downstream(lambda stage: stage is train)
    assert {stage.label for stage in of if stage.folder in downstream} == later() | {
        "train/grpo-traj", "evaluate/grpo-traj/gsm-mini"
    }  # fmt: skip


def test_the_order_of_keys_and_inputs_changes_nothing():
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = [(key, shuffled(item)) for key, item in value.items()]
            random.Random(7).shuffle(items)
            return dict(items)
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    tree = yaml.safe_load(NANO.read_text())
    assert list(shuffled(tree)) != list(tree)
    assert keys(plan(Experiment.model_validate(shuffled(tree)))) == keys(nano_plan())
    tree["benchmarks"].reverse()
    for stage in (*plan(Experiment.model_validate(tree)), *nano_plan()):
        assert list(stage.inputs) == sorted(stage.inputs)
        assert stage.kind != "pretrain" or list(stage.config["max_new_tokens"]) == ["code-mini", "gsm-mini"]


RESOURCES = {
    "pretrain_threads": 7, "train_threads": 7, "evaluate_threads": 7, "speed_threads": 7, "judge_workers": 7,
    "max_minutes": 3.0, "device": "cuda", "train_processes": 7, "checkpoint_activations": True, "evaluate_parts": 7,
    "jobs": {"train/8b": {"gpus": 7, "cpus": 7, "memory_gb": 7, "hours": 7}},
}  # fmt: skip


def test_every_resource_is_among_those_that_change_nothing():
    assert set(RESOURCES) == set(nano_plan().experiment.resources.model_dump()), "a new resource: add it above"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"decoding": {"selector": "threshold"}, "evaluation.samples": 1}, set()),  # the defaults, said
        ({"resources": RESOURCES, "evaluation.precision": "float32"}, set()),
        # The jail's level is in each record: the machine's fact, like the number of workers.
        ({"sandbox": {"level": "none", "acknowledge": "I run model-written code without a jail"}}, set()),
        ({"sandbox": {"level": "landlock"}}, set()),
        ({"experiment": "other"}, later()),
        ({"evaluation.thresholds": [0.02, 0.5, 0.9]}, of_kinds("evaluate") | later()),
        ({"runs.1.method": {"kl": 0.5}}, {"train/grpo-traj", "evaluate/grpo-traj/gsm-mini"} | later()),
        (
            {"runs.0.method": {"kl": 0.5}},  # and the control that matches its compute
            {"train/lightningrl", "train/supervised", "evaluate/lightningrl/gsm-mini", "evaluate/supervised/gsm-mini",
             "replay/lightningrl"} | later(),
        ),
        (
            {"benchmarks.1.prompt": {"suffix": "Be brief."}},  # the base saw no prompt's suffix
            {"train/lightningrl-code", "evaluate/base/code-mini", "evaluate/lightningrl-code/code-mini"} | later(),
        ),
        ({"seed": 5}, set(keys(nano_plan()))),
    ],
    ids=lambda value: next(iter(value), "nothing") if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_change_renames_what_it_concerns(change, expected):
    assert changed(change) == expected


@pytest.mark.parametrize(
    ("change", "is_shared"), [({"evaluation.thresholds": [0.02, 0.5, 0.9]}, True), ({"evaluation.samples": 2}, False)]
)
def test_one_more_threshold_costs_that_threshold_only(change, is_shared):
    for stage in planned(change).of("evaluate"):
        before = nano_plan().stage("evaluate", stage.name)
        assert (stage.cache == before.cache) == is_shared and stage.folder != before.folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoding": {"selector": "best"}}, r"decoding\.selector: there is no selector 'best'.*Allowed: .*threshold"),
        ({"report.figures": ["pie"]}, r"report\.figures: there is no figure 'pie'.*Allowed: .*frontier"),
        ({"report.tables": ["all"]}, r"report\.tables: there is no table 'all'.*Allowed: .*main"),
        ({"report.tables": ["ast:Expr", "ast:expr"]}, "two table stages would be named 'ast-expr'"),
        ({"report.tables": ["ast:nope"]}, r"report\.tables: ast:nope: module ast has no attribute 'nope'"),
        (
            {"runs.0.published": "LightningRL-8B-B32"},
            r"runs.lightningrl.published: .*'LightningRL-8B-B32'; did you mean 'Light",
        ),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_those_that_can(change, message):
    with pytest.raises(ConfigError, match=message):
        planned(change)


def test_figures_of_evaluations_are_refused_where_nothing_is_evaluated():
    """Tables are then empty, and figures of training have all that they show."""
    silent = {"systems": [{"name": system.name, "evaluate_on": []} for system in load(NANO).all_systems()]}
    with pytest.raises(ConfigError, match=r"report\.figures: \['frontier'\] show evaluations, but nothing is"):
        planned(silent | {"report.figures": ["frontier", "rewards"]})
    assert not planned(silent | {"report.figures": ["rewards"]}).of("evaluate")


def test_an_unknown_stage_is_answered_with_the_known_ones():
    with pytest.raises(StageError, match="It has: base"):
        nano_plan().stage("pretrain", "big")


def test_a_plug_in_is_part_of_the_key(tmp_path, monkeypatch):
    plug_in = tmp_path / "pie_plug_in.py"
    plug_in.write_text("def draw(table, out_dir, options=None): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    change = {"report.figures": ["pie_plug_in:draw"]}
    stage = planned(change).of("figure")[0]
    assert stage.name == "pie_plug_in-draw"
    plug_in.write_text("def draw(table, out_dir, options=None): return []\n")
    assert planned(change).of("figure")[0].key != stage.key


def test_a_quantised_model_that_systems_share_is_named_whatever_their_order():
    entries = [{"name": name, "policy": "base", "quantizer": "rtn"} for name in ("b", "a")]
    entries[0]["thresholds"] = [0.9]
    one, other = (planned({"systems": each}) for each in (entries, entries[::-1]))
    assert [stage.name for stage in one.of("quantize")] == ["a"]
    assert {each.label: each.folder for each in one if each.kind in ("quantize", "evaluate")} == {
        each.label: each.folder for each in other if each.kind in ("quantize", "evaluate")
    }


def test_an_edit_of_a_family_renames_what_works_with_weights_and_what_follows(monkeypatch):
    before, found = keys(nano_plan()), code_digest.file_digest
    edited = lambda path: "edited" if path.match("models/families/sdar.py") else found(path)  # noqa: E731
    monkeypatch.setattr(code_digest, "file_digest", edited)
    after = keys(planned())
    renamed = {label for label, key in after.items() if before[label] != key}
    assert renamed == of_kinds("pretrain", "train", "evaluate", "speed", "probe", "replay") | later()
    external = plan(load(NANO.parent / "paper.yaml"))
    for stage in external:
        works = stage.kind in ("checkpoint", "train", "evaluate", "speed", "probe", "replay", "quantize")
        assert ("lightningrl/models/families/sdar.py" in stage.sources) == works, stage.label


def test_the_other_experiments_can_be_planned():
    for path in sorted(NANO.parent.glob("*.yaml")):
        assert len(plan(load(path)).stages) > 10, path
