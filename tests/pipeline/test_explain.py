"""A number in a table is followed back to its records, weights and data, from manifests alone, and computed again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from small import FORWARDS, change_json, forge, make, run, small_plan

from lightningrl.cli import app
from lightningrl.report import tables
from lightningrl.results.tables import find_table
from lightningrl.utils.files import sha256_file


def explained(cell: str, table: str = "main", *options: object) -> dict:
    return json.loads(run("explain", table, "--cell", cell, "--json", *options).stdout)


def said(*arguments: object, status: int = 0) -> str:
    return " ".join(run("explain", *arguments, status=status).stdout.split())


def test_a_table_lists_what_each_row_was_made_from(two_versions):
    plan = two_versions[1]
    listed = json.loads((plan.stage("table", "frontier").folder / "frontier.sources.json").read_text())
    stage = plan.stage("evaluate", "grpo-traj/gsm-mini")
    records = stage.folder / "records.jsonl"
    assert listed["grpo-traj/gsm-mini@0.02"] == [
        {
            "stage": "evaluate/grpo-traj/gsm-mini", "key": stage.key, "files": {records.name: sha256_file(records)},
            "folder": stage.folder.relative_to("results").as_posix(), "threshold": 0.02, "records": 16,
            "records_at_threshold": 8,
        }
    ]  # fmt: skip
    assert len(listed) == 2 * len(plan.of("evaluate"))


def test_the_chain_goes_from_the_table_to_the_data(two_versions):
    links = explained("grpo-traj/gsm-mini:tpf")["links"]
    assert [link["title"] for link in links] == ["table", "collected", "records", "weights", "base", "data", "data"]
    plan = two_versions[1]
    assert links[2]["folder"] == str(plan.stage("evaluate", "grpo-traj/gsm-mini").folder)
    assert links[3]["folder"] == str(plan.stage("train", "grpo-traj").folder)
    weights = plan.stage("train", "grpo-traj").folder / "model.safetensors"
    assert links[3]["files"] == {"model.safetensors": sha256_file(weights)}
    assert links[3]["facts"]["chosen"].startswith("step 4: validation_tpf 2.5")
    assert "learning_rate 0.5" in links[3]["facts"]["run"] and "algorithm grpo_traj" in links[3]["facts"]["run"]
    assert links[2]["facts"]["records"] == "16, 8 of them at threshold 0.9"
    assert links[2]["facts"]["proof selfcheck/gsm-mini"] == "official 8 of 8 right"
    assert all(link["is_here"] and link["commit"] for link in links)
    assert {"train.jsonl", "test.jsonl", "sources.json"} <= set(links[5]["files"])
    matched = [link["title"] for link in explained("supervised/gsm-mini:tpf")["links"]]
    assert matched[3:6] == ["weights", "base", "matched run"]


@pytest.mark.parametrize(
    ("cell", "value", "how"),
    [
        ("base/gsm-mini:tpf", 6 / FORWARDS["base"], "48 response tokens in 48 denoise forwards"),
        ("lightningrl/gsm-mini:tpf", 6 / FORWARDS["lightningrl"], "48 response tokens in 24 denoise forwards"),
        ("lightningrl/gsm-mini:accuracy_pct", 50.0, "4 right of 8"),
        ("lightningrl/gsm-mini@0.9:forwards_per_problem", 3.0, "24 denoise forwards for 8 answers"),
        ("lightningrl/gsm-mini:aup", None, "all records collected anew, and the table made of them"),
        ("lightningrl/gsm-mini:aup_anchored_difference_high", None, "all records collected anew"),
        ("lightningrl/gsm-mini:accuracy_difference", None, "all records collected anew"),
    ],
)
def test_the_number_is_computed_again_from_the_records(two_versions, cell, value, how):
    found = explained(cell)
    again = found["recomputed"]
    assert again["how"].startswith(how) and float(found["text"]) == again["value"]
    assert value is None or again == {"value": value, "how": how}


def test_rows_of_a_sweep_are_told_apart_by_threshold(two_versions):
    assert explained("base/gsm-mini@0.02:accuracy_pct", "frontier")["recomputed"]["value"] == 25.0
    assert "no row 'base/gsm-mini'. Rows: base/gsm-mini@0.02, base/gsm-mini@0.9," in (
        run("explain", "frontier", "--cell", "base/gsm-mini:tpf", status=2).stderr
    )


def test_rows_of_thresholds_that_are_nearly_equal_have_names_of_their_own(two_versions):
    """As two of 0.9 and 0.9000001; `:g` prints both as 0.9."""
    file = two_versions[1].stage("table", "frontier").folder / "frontier.csv"
    file.write_text(file.read_text().replace(",0.02,", ",0.9000001,"))
    labels = find_table(str(file), Path("results")).labels
    assert {"base/gsm-mini@0.9", "base/gsm-mini@0.9000001"} <= set(labels) and len(set(labels)) == len(labels)
    table = find_table(str(file), Path("results"))
    assert [table.cell(f"{label}:tpf").label for label in labels] == labels


@pytest.mark.parametrize("where", ["release copy", "stage's file", "stage's folder"])
def test_a_table_may_be_a_path(two_versions, where):
    folder = two_versions[1].stage("table", "main").folder
    paths = {"release copy": "results/nano/latest/tables/main.csv", "stage's file": folder / "main.csv"}
    found = explained("base/gsm-mini:tpf", str(paths.get(where, folder)))
    assert found["recomputed"]["value"] == 1.0
    assert ("release" in [link["title"] for link in found["links"]]) == (where == "release copy")


def test_an_older_release_is_explained_by_its_key(two_versions):
    for plan, tpf in zip(two_versions, (6 / 4, 6 / 5), strict=True):
        assert explained("grpo-traj/gsm-mini:tpf", "main", "--release", plan.release.key)["recomputed"]["value"] == tpf


def test_a_table_of_before_sources_were_written_is_explained_alike(two_versions):
    expected = explained("lightningrl/gsm-mini:tpf")
    folder = two_versions[1].stage("table", "main").folder
    (folder / "main.sources.json").unlink()
    assert explained("lightningrl/gsm-mini:tpf") == expected


def test_a_copy_from_another_machine_without_weights_and_data_is_enough(two_versions, tmp_path):
    weights = sha256_file(two_versions[1].stage("train", "lightningrl").folder / "model.safetensors")
    copy = tmp_path / "elsewhere" / "theirs"
    shutil.copytree("results/nano", copy, symlinks=True)
    shutil.rmtree("results")
    for kind in ("data", "train", "pretrain", "tokenizer", "selfcheck", "cache"):
        shutil.rmtree(copy / kind)
    links = explained("lightningrl/gsm-mini:tpf", "main", "--results", copy)["links"]
    assert [(link["title"], link["is_here"]) for link in links[2:]] == [
        ("records", True), ("weights", False), ("data", False)
    ]  # fmt: skip
    assert links[3]["files"]["model.safetensors"] == weights
    assert "not here; recorded" in said("main", "--cell", "base/gsm-mini:tpf", "--results", copy)


def test_what_was_changed_is_an_error_and_what_is_missing_is_said(two_versions):
    folder = two_versions[1].stage("evaluate", "base/gsm-mini").folder
    records = (folder / "records.jsonl").read_text()
    (folder / "records.jsonl").write_text(records.replace('"correct":false', '"correct":true', 1))
    cell = ("main", "--cell", "base/gsm-mini:accuracy_pct")
    assert "records.jsonl is damaged" in run("explain", *cell, status=2).stderr
    (folder / "records.jsonl").unlink()
    shown = said(*cell)
    assert "not done: " in shown and "records.jsonl is not here" in shown
    path = two_versions[1].stage("train", "lightningrl").manifest
    path.write_text(path.read_text().replace('"learning_rate": 0.0001', '"learning_rate": 0.0002'))
    done = run("explain", "main", "--cell", "lightningrl/gsm-mini:tpf", status=2)
    assert "was changed: its key does not follow" in done.stderr
    with change_json(two_versions[1].stage("evaluate", "lightningrl/gsm-mini").manifest) as tree:
        tree["outputs"]["records.jsonl"]["sha256"] = "0" * 64
    done = run("explain", "main", "--cell", "lightningrl/gsm-mini:tpf", status=2)
    assert "key or hashes differ from those that were recorded" in done.stderr


def test_records_that_fit_the_table_but_not_what_was_collected_are_an_error(two_versions):
    """As when somebody changes records, and the table and its list of sources after them."""
    table = two_versions[1].stage("table", "main").folder
    stage = two_versions[1].stage("evaluate", "base/gsm-mini")
    records = stage.folder / "records.jsonl"
    before = sha256_file(records)
    records.write_text(records.read_text().replace('"correct":false', '"correct":true'))
    listed = (table / "main.sources.json").read_text().replace(before, sha256_file(records))
    forge(table / "main.sources.json", listed)
    forge(table / "main.csv", (table / "main.csv").read_text().replace(",50.0,", ",100.0,"))
    cell = ("--cell", "base/gsm-mini:accuracy_pct")
    for name in ("main", str(table)):
        said = run("explain", name, *cell, status=2).stderr
        assert f"{records} is damaged: its sha256 is {sha256_file(records)}" in said and f"says {before}" in said
        assert f"{two_versions[1].stage('collect', 'frontier').manifest} says" in said
    shutil.rmtree(two_versions[1].stage("collect", "frontier").folder)
    assert f"{stage.manifest} says {before}" in run("explain", str(table), *cell, status=2).stderr


def test_sources_that_name_what_was_not_collected_are_an_error(two_versions):
    table, stage = two_versions[1].stage("table", "main").folder, two_versions[1].stage("evaluate", "base/gsm-mini")
    listed = (table / "main.sources.json").read_text()
    for old, new in ((f'"{stage.key}"', '"00000000"'), ('"evaluate/base/gsm-mini"', '"evaluate/mine/gsm-mini"')):
        forge(table / "main.sources.json", listed.replace(old, new))
        said = run("explain", "main", "--cell", "base/gsm-mini:tpf", status=2).stderr
        assert "main.sources.json says that base/gsm-mini was made from evaluate/" in said
        assert "manifest.json lists" in said


def test_a_table_that_is_not_the_one_that_was_released_is_an_error(two_versions):
    with change_json(two_versions[1].stage("table", "main").manifest) as tree:
        tree["outputs"]["main.csv"]["sha256"] = "0" * 64
    for name in ("main", "results/nano/latest/tables/main.csv"):
        done = run("explain", name, "--cell", "base/gsm-mini:tpf", status=2)
        assert "is not what results/nano/" in done.stderr and "hashes differ from" in done.stderr


def test_a_table_that_says_another_number_than_its_records_is_an_error(two_versions):
    file = two_versions[1].stage("table", "main").folder / "main.csv"
    changed = file.read_text().replace(",50.0,", ",60.0,")
    file.write_text(changed)
    cell = ("main", "--cell", "base/gsm-mini:accuracy_pct")
    assert "main.csv is damaged" in run("explain", *cell, status=2).stderr
    forge(file, changed)
    done = run("explain", *cell, status=2)
    assert "the table says 60.0, its records, read by today's code, give 50.0" in done.stderr
    assert "NOT THE SAME" in done.stdout


@pytest.mark.parametrize("text", ['{"chosen": {"step": 9}, "rule": "mine"}', "null", "[]", '{"chosen": 5}'])
def test_facts_are_told_from_whole_files_only(two_versions, text):
    stage, data = two_versions[1].stage("train", "lightningrl"), two_versions[1].stage("data", "gsm-mini")
    file, cell = stage.folder / "selection.json", ("main", "--cell", "lightningrl/gsm-mini:tpf")
    before = file.read_text()
    file.write_text(text)
    assert f"{file} is damaged: its sha256 is" in run("explain", *cell, status=2).stderr
    if not text.startswith('{"chosen": {'):
        forge(file, text)
        assert f"{file} is damaged: expected a mapping" in run("explain", *cell, status=2).stderr
    forge(file, before)
    (data.folder / "sources.json").write_text(text)
    assert "sources.json is damaged: its sha256 is" in run("explain", *cell, status=2).stderr


def test_a_damaged_manifest_of_what_was_collected_is_said_at_the_end_of_the_way_there(two_versions):
    two_versions[1].stage("collect", "frontier").manifest.write_text("{")
    done = run("explain", "main", "--cell", "base/gsm-mini:tpf", "--json", status=2)
    found = json.loads(done.stdout)
    assert [(link["title"], link["is_here"]) for link in found["links"]] == [("table", True), ("collected", False)]
    assert found["recomputed"]["value"] == 1.0 and "manifest.json is damaged" in done.stderr


def test_a_row_of_a_benchmark_that_was_not_evaluated_is_computed_again(two_versions, monkeypatch):
    """As a plug-in's table has an average over benchmarks."""

    def averaged(headline):
        return main(pd.concat([headline, headline.iloc[:1].assign(benchmark="average", tpf=7.0)]))

    main = tables.main
    monkeypatch.setattr(tables, "main", averaged)
    run("redraw", "results/nano", "--out", "again", "--table", "main")
    forge(two_versions[1].stage("table", "main").folder / "main.csv", Path("again/tables/main.csv").read_text())
    (two_versions[1].stage("table", "main").folder / "main.sources.json").unlink()
    found = explained("base/average:tpf")
    assert found["recomputed"] == {"value": 7.0, "how": "all records collected anew, and the table made of them"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("main", "--cell", "ppo/gsm-mini:tpf"), "no row 'ppo/gsm-mini'. Rows: base/gsm-mini, lightningrl/gsm-mini"),
        (("main", "--cell", "base/gsm-mini:speed"), "no column 'speed'. Columns: threshold, n_problems"),
        (("main", "--cell", "base/gsm-mini:role"), "is 'before', no number. Columns of numbers: threshold, n_problems"),
        (("main", "--cell", "tpf"), "expected ROW:COLUMN, like base/gsm-mini:tpf"),
        (("tables9",), "neither a file nor a table of release"),
        (("main", "--release", "00000000"), "has no such release"),
        (("main", "--results", "nowhere"), "nowhere is no folder"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(two_versions, arguments, message):
    assert message in run("explain", *arguments, status=2).stderr


def test_a_table_with_a_row_a_number_is_explained_like_one_with_a_column(two_versions):
    """As the paper's tables are written: published, measured, difference."""
    lines = ["part,benchmark,row,policy,metric,value,low,high"]
    lines += ["published,gsm-mini,R,,tpf,9.0,,", "measured,gsm-mini,R,lightningrl,tpf,2.0,1.5,2.5"]
    lines += ["measured,gsm-mini,R,lightningrl,aup,150.0,,", "difference,gsm-mini,R,lightningrl,tpf,-7.0,,"]
    forge(two_versions[1].stage("table", "main").folder / "main.csv", "\n".join(lines) + "\n")
    assert explained("lightningrl/gsm-mini:tpf")["recomputed"]["how"] == "48 response tokens in 24 denoise forwards"
    shown = said("main", "--cell", "lightningrl/gsm-mini:difference.tpf")
    assert "is not among the numbers that are collected from records" in shown


def test_without_a_cell_rows_and_columns_are_listed(two_versions):
    shown = said("main")
    assert "base/gsm-mini, lightningrl/gsm-mini" in shown and "accuracy_pct, accuracy_pct_low" in shown


@pytest.fixture(scope="module")
def _pooled(tmp_path_factory: pytest.TempPathFactory):
    runs = {name: {"seeds": [0, 1]} for name in ("lightningrl", "supervised")}
    runs["grpo_traj"] = {"published": "LightningRL-8B-b32"}
    root = tmp_path_factory.mktemp("pooled")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return root, make(small_plan(tables=("study", "criteria", "table7"), **runs), patch)


@pytest.fixture
def pooled(_pooled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Series of two seeds, and speeds."""
    shutil.copytree(_pooled[0] / "results", tmp_path / "results", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return _pooled[1]


def test_a_mean_over_seeds_goes_back_to_the_records_of_each(pooled):
    found = explained("lightningrl/gsm-mini:tpf", "study")
    assert [link["folder"] for link in found["links"] if link["title"] == "records"] == [
        str(pooled.stage("evaluate", f"lightningrl-{seed}/gsm-mini").folder) for seed in (0, 1)
    ]
    assert len([link for link in found["links"] if link["title"] == "weights"]) == 2
    assert found["recomputed"]["value"] == (6 / 2 + 6 / 3) / 2, "the mean of ratios, not the ratio of sums"
    assert found["recomputed"]["how"] == (
        "mean of 2 runs: 48 response tokens in 16 denoise forwards; 48 response tokens in 24 denoise forwards"
    )
    assert explained("base/gsm-mini:tpf", "study")["recomputed"]["value"] == 6 / FORWARDS["base"]


@pytest.mark.parametrize(
    ("table", "column"),
    [("study", "accuracy_difference_low"), ("study", "aup_anchored"), ("criteria", "tpf_ratio"), ("criteria", "cliff")],
)
def test_what_is_made_of_several_seeds_is_made_again(pooled, table, column):
    """Nano has no threshold 0.7 to lose accuracy at: its `cliff` does not apply."""
    found = explained("lightningrl/gsm-mini:" + column, table)
    assert found["recomputed"]["value"] == (float(found["text"]) if column != "cliff" else None)
    assert bool(found["text"]) == (column != "cliff") and "made" in found["recomputed"]["how"]


def test_a_copy_of_a_table_with_results_of_its_own_asks_for_its_stage(pooled):
    shutil.rmtree(pooled.stage("table", "table7").folder)
    shown = said("table7", "--cell", "grpo-traj/gsm-mini:tokens_per_second")
    assert "not done: table7 is made of results collected for it alone" in shown
    done = run("redraw", "results/nano", "--table", "table7", "--out", "again", status=2)
    assert "copy table/table7-<key>" in done.stderr


def test_a_series_of_which_nothing_was_collected(pooled):
    file = pooled.stage("table", "study").folder / "study.csv"
    forge(file, file.read_text().replace("lightningrl,", "printed,"))
    shown = said("study", "--cell", "printed/gsm-mini:tpf")
    assert "collected nothing of printed; it has: evaluate/base/" in shown


def test_a_speed_goes_back_to_what_was_measured(pooled):
    found = explained("grpo-traj/gsm-mini:tokens_per_second", "table7")
    assert found["recomputed"]["value"] == 100.0 * FORWARDS["grpo-traj"] == float(found["text"])
    titles = [link["title"] for link in found["links"]]
    assert titles[:4] == ["table", "collected", "speed", "weights"] and "records" not in titles
    measured = pooled.stage("speed", "grpo-traj/gsm-mini").folder / "speed.json"
    assert found["links"][2]["files"] == {"speed.json": sha256_file(measured)}
    measured.write_text(measured.read_text().replace("400", "700"))
    done = run("explain", "table7", "--cell", "grpo-traj/gsm-mini:tokens_per_second", status=2)
    assert "speed.json is damaged" in done.stderr


def test_explaining_and_redrawing_import_no_torch(two_versions):
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom lightningrl.cli import app as cli\n"
        "for line in ('explain main --cell base/gsm-mini:aup', 'redraw results/nano --out again', 'results',\n"
        "        'diff nano/latest latest', 'results --prune --keep latest'):\n"
        "    done = CliRunner().invoke(cli.app, line.split())\n"
        "    assert done.exit_code == 0, done.output\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    variables = {"PYTHONPATH": str(Path(app.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
