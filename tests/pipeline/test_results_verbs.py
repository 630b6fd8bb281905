"""Versions are listed, compared, drawn again and pruned from their folders; nothing that is kept is ever lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small import change_json, config_of, contents, moved_to_another_disk, run

from lightningrl.pipeline.stage import MANIFEST
from lightningrl.utils.files import sha256_file

ROOT = Path("results/nano")


def test_every_version_is_listed_with_its_headline_and_configs_that_are_not_released_yet(two_versions):
    config_of(Path("config/mine.yaml"), 0.5)
    config_of(Path("config/other.yaml"), 0.25)
    shown = run("results").stdout
    old, new = two_versions
    [first, second] = [line for line in shown.splitlines() if "commit" in line]
    assert old.release.key in first and "latest" not in first and "current" not in first
    assert new.release.key in second and second.endswith("latest, current (config/mine.yaml)")
    assert f"{len(new.stages)} stages" in second
    assert "gsm-mini      lightningrl         τ 0.9   accuracy %  50.0   TPF  2.00   anchored AUP" in shown
    assert shown.splitlines()[0].startswith("results/nano  ") and "cache" in shown.splitlines()[0]
    assert f"not released yet: config/other.yaml with today's code, {len(old.stages) - 6} of" in shown


def test_the_table_of_a_config_is_printed(two_versions):
    shown = run("results", "--config", config_of(Path("mine.yaml"), None)).stdout
    assert "anchored AUP" in shown and f"release-{two_versions[0].release.key}/tables/main.md" in shown


def test_a_folder_without_results_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "results is no folder; expected results/" in run("results", status=2).stderr
    (tmp_path / "results").mkdir()
    assert "holds no results. Run an experiment first" in run("results", status=2).stderr


def test_damaged_and_lost_folders_are_said(two_versions):
    (two_versions[0].release.folder / MANIFEST).write_text("{")
    shutil.rmtree(two_versions[1].stage("data", "code-mini").folder)
    done = run("results")
    assert "damaged: results/nano/release-" in done.stderr
    assert f"{len(two_versions[1].stages) - 1} stages of {len(two_versions[1].stages)} known" in done.stdout


def test_an_experiment_that_consists_of_links_to_another_disk_is_found(two_versions):
    before = run("results").stdout
    for path in [path for path in ROOT.iterdir() if not path.is_symlink()]:
        moved_to_another_disk(path, Path(f"disk-{path.name}"))
    said = [run("results", folder).stdout.splitlines()[1:] for folder in ("results", ROOT)]
    assert said == [before.splitlines()[1:]] * 2
    run("results", "--prune", "--keep", "latest", "--yes")
    assert all(stage.manifest.is_file() for planned in two_versions for stage in planned)


# Comparing


def test_two_versions_differ_in_config_and_numbers(two_versions):
    old = two_versions[0]
    found = json.loads(run("diff", old.release.key, "latest", "--json").stdout)
    [change] = found["config"]
    assert (change["what"], change["before"], change["after"]) == ("run.learning_rate", "0.0001", "0.5")
    assert change["stages"] == ["train/grpo-traj"]
    assert not found["code"] and not found["only_before"] and not found["outputs"]
    assert ["evaluate/grpo-traj/gsm-mini"] in [c["stages"] for c in found["inputs"] if c["what"] == "policy"]
    changed = {(n["row"], n["column"]): (n["before"], n["after"]) for n in found["numbers"]
               if n["before"] != n["after"]}  # fmt: skip
    assert changed["grpo-traj/gsm-mini", "tpf"] == (1.5, 1.2)
    assert {row for row, _ in changed} == {"grpo-traj/gsm-mini"}
    shown = run("diff", old.release.key, "latest").stdout
    assert "run.learning_rate: 0.0001 → 0.5   (train/grpo-traj)" in shown and "1.5 →        1.2   -0.3" in shown


@pytest.mark.parametrize("text", ["null\n", None])
def test_numbers_that_were_changed_are_marked_and_not_drawn(two_versions, text):
    file = two_versions[1].stage("collect", "frontier").folder / "headline.csv"
    file.write_text(text or file.read_text().replace(",50.0,", ",99.0,"))
    damaged = f"{file} is damaged: its sha256 is {sha256_file(file)}"
    assert f"    damaged: {damaged}" in run("results").stdout
    assert f"note: {damaged}" in run("diff", two_versions[0].release.key, "latest").stderr
    done = run("results", "--config", config_of(Path("mine.yaml"), 0.5), status=2 * bool(text))
    assert "headline.csv is damaged: it has no column as" in done.stderr if text else damaged in done.stderr
    assert damaged in run("redraw", ROOT, "--out", "again", "--table", "main", status=2).stderr
    with change_json(file.parent / MANIFEST) as tree:  # as whoever changed the file may do, too
        tree["outputs"][file.name]["sha256"] = sha256_file(file)
    assert f"    damaged: {damaged}" in run("results").stdout
    assert "hashes differ from" in run("redraw", ROOT, "--out", "again", "--table", "main", status=2).stderr


def test_files_of_others_are_told_by_what_they_lack(two_versions):
    collect, table = two_versions[1].stage("collect", "frontier"), two_versions[1].stage("table", "main")
    again = (ROOT, "--out", "again", "--table", "main")
    collect.manifest.unlink()  # its files are taken as they are
    (collect.folder / "headline.csv").write_text("null\n")
    assert "settings this one does not read" in run("redraw", *again, status=2).stderr
    with change_json(table.manifest) as tree:
        del tree["preimage"]["members"]
    assert "no mapping of members, found None" in run("redraw", *again, status=2).stderr
    table.manifest.write_text("[" * 100_000)
    assert f"{table.manifest} is damaged" in run("redraw", *again, status=2).stderr


def test_code_packages_and_rows_that_differ_are_said(two_versions):
    with change_json(two_versions[1].stage("train", "grpo-traj").manifest) as tree:
        tree["preimage"]["code"]["lightningrl/utils/files.py"] = "0" * 64
        tree["packages"]["torch"] = "99"
    csv = two_versions[1].stage("collect", "frontier").folder / "headline.csv"
    csv.write_text("".join(line for line in csv.read_text().splitlines(True) if ",lightningrl-code," not in line))
    found = json.loads(run("diff", two_versions[0].release.key, "latest", "--json").stdout)
    assert [(c["what"], c["stages"]) for c in found["code"]] == [("lightningrl/utils/files.py", ["train/grpo-traj"])]
    assert ("package torch", "99") in [(c["what"], c["after"]) for c in found["surroundings"]]
    assert found["rows_before"] == ["lightningrl-code/code-mini"] and not found["rows_after"]
    collect = two_versions[1].stage("collect", "frontier")
    with change_json(collect.manifest) as tree:
        policies = tree["preimage"]["science"]["policies"]
        policies.append(policies[0] | {"name": "added"})
    said = run("diff", two_versions[0].release.key, "latest").stdout
    assert "\nrows that only the first has\n  lightningrl-code/code-mini\n" in said
    [line] = [line for line in said.splitlines() if "policies.added" in line]
    assert line.startswith("  policies.added: – → name added, ") or "name added" in line


def test_releases_of_two_experiments_are_told_apart(two_versions):
    assert "no differences" in run("diff", "latest", "nano/latest").stdout
    shutil.copytree(ROOT, "results/other", symlinks=True)
    assert "say one of nano/latest, other/latest" in run("diff", "latest", "latest", status=2).stderr
    assert "no differences" in run("diff", "nano/latest", "results/other/latest").stdout


# Drawing again


def test_tables_and_figures_are_the_same_again_without_data_and_weights(two_versions, tmp_path):
    before = contents(two_versions[1].release.folder / "tables")
    shutil.copytree("results", "copy", symlinks=True)
    for kind in ("data", "train", "pretrain", "tokenizer", "selfcheck", "cache", "evaluate"):
        shutil.rmtree(ROOT / kind)
    done = run("redraw", ROOT, "--out", "again", "--table", "main", "--table", "frontier", "--figure", "steps")
    assert contents(tmp_path / "again" / "tables") == before
    assert "again/figures/steps.png" in done.stdout and Path("again/figures/steps.pdf").stat().st_size > 1000
    assert not Path("again/.state").exists()
    for path in Path("copy").glob("nano/collect/*/*.csv"):
        path.unlink()
    done = run("redraw", "copy", "--out", "anew", "--release", two_versions[1].release.key)
    assert contents(tmp_path / "anew" / "tables") == before and "collected anew from records" in done.stderr


def test_what_is_lacking_to_draw_is_named_and_tables_that_are_there_stay(two_versions):
    assert "is inside the results that are read" in run("redraw", ROOT, "--out", ROOT / "new", status=2).stderr
    done = run("redraw", ROOT, "--out", "a", "--figure", "pie", status=2)
    assert "there is no figure 'pie'. Allowed: " in done.stderr
    mine, both = Path("again/tables/main.csv"), ("--table", "frontier", "--table", "main")
    mine.parent.mkdir(parents=True)
    mine.write_text("precious\n")
    done = run("redraw", ROOT, "--out", "again", *both, status=2)
    assert "main.csv already exists; name another file, or give --overwrite" in done.stderr
    assert mine.read_text() == "precious\n" and not Path("again/tables/frontier.csv").exists()
    run("redraw", ROOT, "--out", "again", "--table", "frontier")
    assert mine.read_text() == "precious\n", "another table is in nobody's way"
    run("redraw", ROOT, "--out", "again", *both, "--overwrite")
    assert mine.read_text() != "precious\n"
    with change_json(two_versions[1].stage("table", "main").manifest) as tree:
        tree["preimage"]["members"]["table"] = "lightningrl.report.older:main"
    done = run("redraw", ROOT, "--out", "older", "--table", "main", status=2)
    assert "no module 'lightningrl.report.older'; check the name; for results of another version," in done.stderr
    shutil.rmtree(ROOT / "collect")
    done = run("redraw", ROOT, "--out", "lost", status=2)
    assert "It says which records belong together; copy results/nano/collect/frontier-" in done.stderr


# Pruning
