"""The collect stage: published rows, bases by name, speeds, and nothing at all; tables and figures made of it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from paper_runs import records

from lightningrl.config.report import Plot
from lightningrl.pipeline.stages import collect, figure, table
from lightningrl.pipeline.stages.collected import read_all, read_collected
from lightningrl.report.registry import FIGURES, INPUTS, NEEDS, TABLES
from lightningrl.report.series import SPEED_COLUMNS
from lightningrl.utils.files import write_json, write_jsonl

FILES = ("frontier", "headline", "pooled", "curves", "steps", "speed", "probes", "quantized", "trainings")
POLICIES = [
    {"name": "base", "role": "before", "algorithm": "threshold", "published": "SDAR-8B-b32", "base": ""},
    {"name": "small", "role": "before", "algorithm": "threshold", "published": "SDAR-1.7B-b32", "base": ""},
    {"name": "ours", "role": "after", "algorithm": "lightningrl", "benchmark": "gsm8k",
     "published": "LightningRL-8B-b32", "base": "base"},
    {"name": "small-ours", "role": "after", "algorithm": "lightningrl", "benchmark": "gsm8k",
     "published": "LightningRL-1.7B-b32", "base": "small"},
    {"name": "authors", "role": "released", "algorithm": "lightningrl", "published": "LightningRL-8B-b32",
     "base": "base"},
]  # fmt: skip


@pytest.fixture
def context(tmp_path: Path) -> SimpleNamespace:
    config = {"experiment": "e", "bootstrap": 20, "primary_threshold": 0.9, "seed": 0, "policies": POLICIES,
              "counterparts": {}, "benchmarks": ["gsm8k"]}  # fmt: skip
    folder = tmp_path / "collect"
    folder.mkdir()
    return SimpleNamespace(config=config, inputs={}, folder=folder, state=tmp_path / "state", report=lambda line: None)


def headline_of(context: SimpleNamespace, *names: str):
    for number, name in enumerate(names):
        folder = context.folder.parent / "evaluate" / name
        made = records(name, "gsm8k", 20, 0.7, 3 + number, number)
        write_jsonl(folder / "records.jsonl", [record.to_json() for record in made])
        context.inputs[f"evaluate/{name}/gsm8k"] = folder
    collect.run(context)
    return read_collected(context.folder, "headline").set_index("policy")


def test_bases_are_those_that_the_config_names(context) -> None:
    headline = headline_of(context, "base", "small", "ours", "small-ours", "authors")
    bases = {"base": "base", "small": "small", "ours": "base", "small-ours": "small", "authors": "base"}
    assert headline["base"].to_dict() == bases
    assert headline["accuracy_difference"].isna().to_dict() == {name: name == base for name, base in bases.items()}
    assert headline["published"].to_dict() == {each["name"]: each["published"] for each in POLICIES}
    assert headline["role"]["authors"] == "released"


def test_a_base_that_was_not_collected_leaves_its_columns_empty(context) -> None:
    ours = headline_of(context, "small", "ours").loc["ours"]
    assert ours["base"] == "" and ours[["accuracy_difference", "aup_anchored"]].isna().all() and ours["aup"] > 0


def test_curves_and_speeds_say_what_they_stand_for(context) -> None:
    train, measured = context.folder.parent / "train", context.folder.parent / "speed"
    write_jsonl(train / "metrics.jsonl", [{"step": 1, "reward_total_mean": 0.5}])
    write_json(train / "selection.json", {"chosen": {"step": 1}})
    row = dict.fromkeys(set(SPEED_COLUMNS) - {"role", "published"}, 1.0) | {"policy": "base", "benchmark": "gsm8k"}
    write_json(measured / "speed.json", row | {"device": "0", "extra": 2, "prefill_included": True})
    context.inputs |= {"train/ours": train, "speed/base/gsm8k": measured}
    collect.run(context)
    curves, speed = read_all(context.folder, ("curves", "speed"))
    expected = ["ours", "after", "gsm8k", "LightningRL-8B-b32"]
    assert curves[["run", "role", "benchmark", "published"]].to_numpy().tolist() == [expected]
    shown = ["policy", "role", "published", "device", "extra", "prefill_included"]
    assert speed[shown].to_numpy().tolist() == [["base", "before", "SDAR-8B-b32", "0", 2, True]]


def test_nothing_collected_is_headers_of_which_the_papers_tables_and_figures_are_made(context) -> None:
    collect.run(context)
    assert {path.name for path in context.folder.iterdir()} == {f"{name}.csv" for name in FILES}
    assert all((context.folder / f"{name}.csv").read_text().count("\n") == 1 for name in FILES)
    assert [len(each) for each in read_all(context.folder, "frontier")] == [0]  # one table may be named alone
    for name in [name for name in NEEDS if name.startswith("table")] + ["figure7", "figure8"]:
        kind, registry, stage, n_files = (
            ("table", TABLES, table, 4) if name.startswith("table") else ("figure", FIGURES, figure, 3)
        )
        made = SimpleNamespace(
            config={"name": name, "collected": INPUTS[f"{kind}s"][name], "members": {kind: registry[name]},
                    "plot": Plot(), "policies": ["base"]},
            inputs={"collect": context.folder}, folder=context.folder.parent / name, state=context.state,
            report=lambda line: None,
        )  # fmt: skip
        stage.run(made)
        assert len(list(made.folder.iterdir())) == n_files
