"""Versions are listed, compared, drawn again and pruned from their folders; nothing that is kept is ever lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.limits import HANG_S
from small import contents, make, small_plan
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.config.experiment import load
from lightningrl.errors import StageError
from lightningrl.pipeline import runner
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.graph import from_manifests, read_record
from lightningrl.pipeline.manifest import check
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.runner import run_stage
from lightningrl.pipeline.stage import MANIFEST
from lightningrl.results import prune
from lightningrl.results.folders import levels
from lightningrl.utils.lease import lease

ROOT = Path("results/nano")


def run(*arguments: object, status: int = 0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == status, done.output
    assert "Traceback" not in done.stderr
    return done


def folders() -> set[Path]:
    return {path.parent for path in ROOT.rglob(MANIFEST)}


def of(plan) -> set[Path]:
    return {stage.folder for stage in plan}


def config_of(tmp_path: Path, learning_rate: float | None) -> Path:
    """A config file whose plan is one of the two versions'."""
    path = tmp_path / "mine.yaml"
    runs: dict[str, Any] = {} if learning_rate is None else {"grpo_traj": {"learning_rate": learning_rate}}
    tree = small_plan(**runs).experiment.model_dump(mode="json", exclude_unset=True)
    path.write_text(yaml.safe_dump(tree))
    return path


# Listing


def test_every_version_is_listed_with_its_headline(two_versions, tmp_path):
    (tmp_path / "config").mkdir()
    config_of(tmp_path, 0.5).rename(tmp_path / "config" / "mine.yaml")
    shown = run("results").stdout
    old, new = two_versions
    [first, second] = [line for line in shown.splitlines() if "commit" in line]
    assert old.release.key in first and "latest" not in first and "current" not in first
    assert new.release.key in second and second.endswith("latest, current (config/mine.yaml)")
    assert f"{len(new.stages)} stages" in second
    assert "gsm-mini      lightningrl         τ 0.9   accuracy %  50.0   TPF  2.00   anchored AUP" in shown
    assert shown.splitlines()[0].startswith("results/nano  ") and "cache" in shown.splitlines()[0]


def test_a_config_whose_release_is_not_made_yet_is_said(two_versions, tmp_path):
    (tmp_path / "config").mkdir()
    config_of(tmp_path, 0.25).rename(tmp_path / "config" / "mine.yaml")
    shown = run("results").stdout
    assert f"config/mine.yaml with today's code, {len(two_versions[0].stages) - 6} of" in shown
    assert "not released yet" in shown


def test_the_table_of_a_config_is_printed_as_before(two_versions, tmp_path):
    shown = run("results", "--config", config_of(tmp_path, None)).stdout
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


# Comparing


def test_two_versions_differ_in_config_and_numbers(two_versions):
    old = two_versions[0]
    found = json.loads(run("diff", old.release.key, "latest", "--json").stdout)
    [change] = found["config"]
    assert (change["what"], change["before"], change["after"]) == ("run.learning_rate", "0.0001", "0.5")
    assert change["stages"] == ["train/grpo-traj"]
    assert not found["code"] and not found["only_before"] and not found["outputs"]
    assert ["evaluate/grpo-traj/gsm-mini"] in [c["stages"] for c in found["inputs"] if c["what"] == "policy"]
    changed = {
        (n["row"], n["column"]): (n["before"], n["after"]) for n in found["numbers"] if n["before"] != n["after"]
    }
    assert changed["grpo-traj/gsm-mini", "tpf"] == (1.5, 1.2)
    assert {row for row, _ in changed} == {"grpo-traj/gsm-mini"}
    shown = run("diff", old.release.key, "latest").stdout
    assert "run.learning_rate: 0.0001 → 0.5   (train/grpo-traj)" in shown
    assert "1.5 →        1.2   -0.3" in shown


def test_a_version_compared_with_itself_has_nothing_else(two_versions):
    assert "nothing is another" in run("diff", "latest", "nano/latest").stdout


def test_code_packages_and_rows_that_differ_are_said(two_versions):
    path = two_versions[1].stage("train", "grpo-traj").manifest
    tree = json.loads(path.read_text())
    tree["preimage"]["code"]["lightningrl/utils/files.py"] = "0" * 64
    tree["packages"]["torch"] = "99"
    path.write_text(json.dumps(tree))
    found = json.loads(run("diff", two_versions[0].release.key, "latest", "--json").stdout)
    assert [(c["what"], c["stages"]) for c in found["code"]] == [("lightningrl/utils/files.py", ["train/grpo-traj"])]
    assert ("package torch", "99") in [(c["what"], c["after"]) for c in found["surroundings"]]
    csv = two_versions[1].stage("collect", "frontier").folder / "headline.csv"
    csv.write_text("".join(line for line in csv.read_text().splitlines(True) if ",lightningrl-code," not in line))
    found = json.loads(run("diff", two_versions[0].release.key, "latest", "--json").stdout)
    assert found["rows_before"] == ["lightningrl-code/code-mini"] and not found["rows_after"]


def test_releases_of_two_experiments_are_told_apart(two_versions):
    shutil.copytree(ROOT, "results/other", symlinks=True)
    assert "say one of nano/latest, other/latest" in run("diff", "latest", "latest", status=2).stderr
    assert "nothing is another" in run("diff", "nano/latest", "results/other/latest").stdout


# Drawing again


def test_tables_and_figures_are_the_same_again_without_data_and_weights(two_versions, tmp_path):
    before = contents(two_versions[1].release.folder / "tables")
    for kind in ("data", "train", "pretrain", "tokenizer", "selfcheck", "cache", "evaluate"):
        shutil.rmtree(ROOT / kind)
    done = run("redraw", ROOT, "--out", "again", "--table", "main", "--table", "frontier", "--figure", "steps")
    assert contents(tmp_path / "again" / "tables") == before
    assert "again/figures/steps.png" in done.stdout and Path("again/figures/steps.pdf").stat().st_size > 1000
    assert not Path("again/.state").exists()


def test_without_collected_files_they_are_collected_again_from_the_records(two_versions, tmp_path):
    before = contents(two_versions[1].release.folder / "tables")
    for path in ROOT.glob("collect/*/*.csv"):
        path.unlink()
    done = run("redraw", "results", "--out", "again", "--release", two_versions[1].release.key)
    assert contents(tmp_path / "again" / "tables") == before and "collected anew from records" in done.stderr


def test_what_is_lacking_to_draw_is_named(two_versions):
    assert "is inside the results that are read" in run("redraw", ROOT, "--out", ROOT / "new", status=2).stderr
    assert (
        "there is no figure 'pie'. Allowed: " in run("redraw", ROOT, "--out", "a", "--figure", "pie", status=2).stderr
    )
    shutil.rmtree(ROOT / "collect")
    done = run("redraw", ROOT, "--out", "again", status=2)
    assert "It says which records belong together; copy results/nano/collect/frontier-" in done.stderr


# Pruning


def test_nothing_goes_without_yes(two_versions):
    before = contents(ROOT)
    done = run("results", "--prune", "--keep", "latest")
    assert contents(ROOT) == before and "nothing was removed; --yes removes it" in done.stdout
    assert str(two_versions[0].release.folder) in done.stdout


def test_what_no_kept_release_reaches_goes_and_what_is_kept_stays_whole(two_versions):
    old, new = two_versions
    gone = of(old) - of(new)
    assert len(gone) == 6  # train, evaluate, collect, two tables, release
    done = run("results", "--prune", "--keep", "latest", "--yes")
    assert folders() == of(new)
    for stage in new:
        check(stage.folder)
    caches = {path.parents[1] for path in ROOT.glob("cache/evaluate/*/*/of-*/points.jsonl")}
    assert caches == {stage.cache for stage in new.of("evaluate")}
    assert f"{len(gone) + 1} folders removed" in done.stdout
    assert not list(ROOT.glob(".pruned*")) and not list(ROOT.rglob("state"))
    assert "nothing" not in run("results", "--prune", "--keep", "latest").stdout


def test_all_releases_keep_everything_that_they_need(two_versions):
    run("results", "--prune", "--keep", "all-releases", "--yes")
    assert folders() == of(two_versions[0]) | of(two_versions[1])


def test_a_configs_stages_are_kept_and_latest_moves_to_a_release_that_stays(two_versions, tmp_path):
    old = two_versions[0]
    done = run("results", "--prune", "--keep", "current", "--config", config_of(tmp_path, None), "--yes")
    assert f"`latest` will point to {old.release.folder.name}" in done.stdout
    assert folders() == of(old)
    assert os.readlink(ROOT / "latest") == old.release.folder.name
    assert read_record(ROOT / "latest").key == old.release.key


def test_what_a_config_in_config_plans_is_kept_though_it_is_in_no_release(two_versions, tmp_path):
    """A training that took days is finished, its evaluation waits in a queue."""
    (tmp_path / "config").mkdir()
    config_of(tmp_path, None).rename(tmp_path / "config" / "mine.yaml")
    shutil.rmtree(two_versions[0].release.folder)
    done = run("results", "--prune", "--keep", "latest", "--yes")
    assert "today's stages of config/mine.yaml" in done.stdout
    assert folders() == (of(two_versions[0]) | of(two_versions[1])) - {two_versions[0].release.folder}


def test_the_last_release_does_not_go_because_todays_is_not_made_yet(two_versions, tmp_path):
    before = contents(ROOT)
    arguments = ("results", "--prune", "--keep", "current", "--config", config_of(tmp_path, 0.25), "--yes")
    assert "no release would be left of" in run(*arguments, status=2).stderr and contents(ROOT) == before


def test_without_a_release_and_a_config_nothing_goes(two_versions):
    for planned in two_versions:
        shutil.rmtree(planned.release.folder)
    done = run("results", "--prune", "--keep", "all-releases", "--yes", status=2)
    assert "has no release, so nothing would be left" in done.stderr and len(folders()) > 20


def test_marks_of_an_evaluations_parts_go_with_it(two_versions):
    old, new = (plan.stage("evaluate", "grpo-traj/gsm-mini") for plan in two_versions)
    for stage in (old, new):
        (ROOT / "cache" / "parts" / f"{stage.name}-{stage.key}").mkdir(parents=True)
    run("results", "--prune", "--keep", "latest", "--yes")
    assert [path.name for path in (ROOT / "cache" / "parts" / "grpo-traj").iterdir()] == [f"gsm-mini-{new.key}"]


def test_caches_of_what_is_kept_go_only_when_asked(two_versions):
    run("results", "--prune", "--keep", "all-releases", "--caches", "--yes")
    assert not (ROOT / "cache").exists() and folders() == of(two_versions[0]) | of(two_versions[1])


def test_unfinished_damaged_and_foreign_folders_are_named_and_stay(two_versions):
    old = two_versions[0]
    train, evaluate = old.stage("train", "grpo-traj"), old.stage("evaluate", "grpo-traj/gsm-mini")
    (train.manifest).unlink()
    (train.folder / "state" / "step-000004").mkdir(parents=True)
    (train.folder / "state" / "step-000004" / MANIFEST).write_text("{}")
    evaluate.manifest.write_text("{")
    table = old.stage("table", "main")
    (table.folder / "notes.txt").write_text("mine")
    (ROOT / "todo.txt").write_text("mine")
    (ROOT / "figure").symlink_to("/tmp")
    shown = " ".join(run("results", "--prune", "--keep", "latest", "--yes").stdout.split())
    assert {train.folder, evaluate.folder, table.folder} <= set(ROOT.rglob("*-????????"))
    assert f"left alone: {train.folder} was begun and is not finished" in shown
    assert f"left alone: {evaluate.manifest} is damaged" in shown
    assert f"left alone: {table.folder} holds what its stage did not make: notes.txt" in shown
    assert "left alone: results/nano/todo.txt is no stage's" in shown and "results/nano/figure is a link" in shown
    run("results", "--prune", "--keep", "latest", "--unfinished", "--yes")
    assert not train.folder.exists() and evaluate.folder.exists() and table.folder.exists()


def test_nothing_goes_when_a_kept_chain_is_damaged(two_versions):
    two_versions[1].stage("train", "supervised").manifest.write_text("{")
    before = contents(ROOT)
    done = run("results", "--prune", "--keep", "latest", "--yes", status=2)
    assert "what that folder was made from is not known, so nothing is removed" in done.stderr
    assert contents(ROOT) == before


def test_links_go_and_what_they_lead_to_stays(two_versions, tmp_path):
    """As weights of a checkpoint from the hub's cache are linked."""
    old = two_versions[0].stage("train", "grpo-traj").folder
    for name in ("hard", "soft"):
        (tmp_path / name).write_text("weights")
    os.link(tmp_path / "hard", old / "hard.safetensors")
    (old / "soft.safetensors").symlink_to(tmp_path / "soft")
    tree = json.loads((old / MANIFEST).read_text())
    tree["outputs"] |= {name: {"sha256": "", "bytes": 7} for name in ("hard.safetensors", "soft.safetensors")}
    (old / MANIFEST).write_text(json.dumps(tree))
    run("results", "--prune", "--keep", "latest", "--yes")
    assert not old.exists() and (tmp_path / "hard").read_text() == (tmp_path / "soft").read_text() == "weights"


def test_nothing_goes_while_a_stage_is_at_work(two_versions):
    def hold(connection):
        with lease(two_versions[0].stage("data", "gsm-mini").folder / "state"):
            connection.send("held")
            connection.recv()

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(theirs,), daemon=True)
    process.start()
    assert ours.poll(HANG_S) and ours.recv() == "held"
    before = contents(ROOT)
    try:
        assert (
            f"at work: data/gsm-mini-{two_versions[0].stage('data', 'gsm-mini').key} by process"
            in run("results").stdout
        )
        done = run("results", "--prune", "--keep", "latest", "--yes", status=2)
        assert "nothing is removed while stages are at work" in done.stderr and contents(ROOT) == before
    finally:
        process.kill()
        process.join(HANG_S)


@pytest.mark.parametrize("after", [0, 1, 3, 6])
def test_a_crash_in_the_middle_leaves_every_manifest_with_its_files_and_inputs(two_versions, monkeypatch, after):
    new, removed = two_versions[1], []

    def crash(path, *arguments, **options):
        if len(removed) == after:
            next(p for p in sorted(Path(path).rglob("*")) if p.is_file()).unlink()  # half of it is gone
            raise KeyboardInterrupt
        removed.append(path)
        rmtree(path, *arguments, **options)

    rmtree = shutil.rmtree
    monkeypatch.setattr(prune.shutil, "rmtree", crash)
    done = CliRunner().invoke(app, ["results", "--prune", "--keep", "latest", "--yes"])
    assert done.exit_code == 130
    monkeypatch.setattr(prune.shutil, "rmtree", rmtree)
    for folder in folders() - {path.parent for path in ROOT.glob(".pruned-*/**/manifest.json")}:
        check(folder)
        assert not from_manifests(read_record(folder)).gone
    assert of(new) <= folders()
    run("results", "--prune", "--keep", "latest", "--yes")
    assert folders() == of(new) and not list(ROOT.glob(".pruned*"))


def test_what_was_pruned_is_made_again(two_versions, monkeypatch):
    before = contents(ROOT / "table")
    run("results", "--prune", "--keep", "latest", "--yes")
    make(two_versions[0], monkeypatch)
    after = contents(ROOT / "table")
    assert {n: d for n, d in before.items() if n.endswith(".csv")} == {
        n: d for n, d in after.items() if n.endswith(".csv")
    }


@pytest.mark.parametrize(
    ("where", "said"), [(".", "./results/../results"), ("elsewhere", "../results"), ("results", "."), (ROOT, ".")]
)
def test_the_same_goes_however_the_folder_is_said(two_versions, tmp_path, monkeypatch, where, said):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / where)
    run("results", said, "--prune", "--keep", "latest", "--yes")
    monkeypatch.chdir(tmp_path)
    assert folders() == of(two_versions[1])


def test_a_configs_stages_are_kept_when_the_experiments_folder_is_the_working_directory(
    two_versions, tmp_path, monkeypatch
):
    config = config_of(tmp_path, None)
    monkeypatch.chdir(ROOT)
    run("results", ".", "--prune", "--keep", "latest", "--config", config, "--yes")
    monkeypatch.chdir(tmp_path)
    assert folders() == of(two_versions[0]) | of(two_versions[1])


def test_a_configs_stages_are_kept_when_the_experiments_folder_is_said_by_a_link(two_versions, tmp_path):
    (tmp_path / "mine").symlink_to(ROOT.absolute())
    run("results", "mine", "--prune", "--keep", "latest", "--config", config_of(tmp_path, None), "--yes")
    assert folders() == of(two_versions[0]) | of(two_versions[1])


def test_every_stage_is_as_far_below_its_kind_as_pruning_looks_for_it():
    for config in ("nano", "paper"):
        planned = plan(load(PACKAGE.parent / "config" / f"{config}.yaml"))
        assert {(s.kind, s.name.count("/") + 1) for s in planned} == {(s.kind, levels(s.kind)) for s in planned}


@pytest.mark.parametrize("is_copied", [False, True])
def test_an_absolute_link_to_the_latest_release_is_of_this_folder(two_versions, tmp_path, is_copied):
    """As `cp -a` leaves it: it leads to where the results were copied from."""
    (ROOT / "latest").unlink()
    (ROOT / "latest").symlink_to((ROOT / two_versions[1].release.folder.name).absolute())
    if is_copied:
        shutil.copytree("results", "copy/results", symlinks=True)
        os.chdir("copy")
    run("results", "--prune", "--keep", "latest", "--yes")
    assert folders() == of(two_versions[1])
    if is_copied:
        os.chdir(tmp_path)
        assert folders() == of(two_versions[0]) | of(two_versions[1])


def moved_to_another_disk(folder: Path, disk: Path) -> None:
    disk.mkdir()
    shutil.move(folder, disk / folder.name)
    folder.symlink_to(disk / folder.name)


@pytest.mark.parametrize("keep", ["all-releases", "its key"])
def test_a_release_that_is_linked_from_another_disk_keeps_what_it_needs(two_versions, tmp_path, keep):
    old, new = two_versions
    moved_to_another_disk(old.release.folder, tmp_path / "disk")
    run("results", "--prune", "--keep", keep.replace("its key", old.release.key), "--yes")
    expected = of(old) | (of(new) if keep == "all-releases" else set())
    assert folders() - {old.release.folder} == expected - {old.release.folder}
    assert old.release.manifest.is_file()


def test_nothing_goes_while_the_disk_of_a_linked_release_is_away(two_versions, tmp_path):
    moved_to_another_disk(two_versions[0].release.folder, tmp_path / "disk")
    (tmp_path / "disk").rename(tmp_path / "away")
    before = contents(ROOT)
    done = run("results", "--prune", "--keep", "all-releases", "--yes", status=2)
    assert "which is not here. All releases are to be kept, so nothing is removed" in done.stderr
    assert contents(ROOT) == before


def test_a_policys_name_that_looks_like_one_with_a_key_is_no_stage(two_versions):
    """`code-20261128`, whose evaluation is begun, and has caches; of another version, which nothing plans."""
    begun = ROOT / "evaluate" / "code-20261128" / "code-mini-0123abcd"
    (begun / "state").mkdir(parents=True)
    (begun / "state" / "timing.jsonl").write_text("{}\n")
    for name in ("evaluate", "parts"):
        cache = ROOT / "cache" / name / "code-20261128" / "code-mini-0123abcd"
        cache.mkdir(parents=True)
        (cache / "points.jsonl").write_text("paid")
    shown = run("results", "--prune", "--keep", "latest").stdout.splitlines()
    listed = {line.split()[-1] for line in shown if "  results/" in line}
    assert {path for path in listed if "20261128" in path} == {
        f"results/nano/cache/{name}/code-20261128/code-mini-0123abcd" for name in ("evaluate", "parts")
    }
    assert any(f"left alone: {begun} was begun and is not finished" in line for line in shown)


def test_a_planned_stage_of_such_a_policy_stays_with_its_caches(two_versions, tmp_path):
    tree = yaml.safe_load(config_of(tmp_path, None).read_text())
    next(run for run in tree["runs"] if run["name"] == "grpo-traj")["name"] = "code-20261128"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    [stage] = [s for s in plan(load(tmp_path / "mine.yaml")).of("evaluate") if "20261128" in s.name]
    for folder in (stage.folder / "state", stage.cache, ROOT / "cache" / "parts" / f"{stage.name}-{stage.key}"):
        folder.mkdir(parents=True)
        (folder / "paid.jsonl").write_text("paid")
    arguments = ("--prune", "--keep", "latest", "--config", tmp_path / "mine.yaml", "--unfinished", "--yes")
    run("results", *arguments)
    assert len(list(ROOT.rglob("paid.jsonl"))) == 3


@pytest.mark.parametrize("keep", ["all-releases", "its key"])
def test_a_copy_of_a_release_made_by_hand_and_its_original_are_both_kept(two_versions, keep):
    old = two_versions[0].release
    for name in ("copy", "20261128"):
        shutil.copytree(old.folder, ROOT / f"{old.folder.name}-{name}")
    run("results", "--prune", "--keep", keep.replace("its key", old.key), "--yes")
    assert len(list(ROOT.glob(f"{old.folder.name}*"))) == 3 and of(two_versions[0]) <= folders()


@pytest.mark.parametrize("defect", ["another form", "above it", "in it"])
def test_a_list_that_holds_what_is_kept_is_refused(two_versions, monkeypatch, defect):
    """Whatever defect made it: were folders compared in two forms, or one around a kept one taken for a cache."""
    before = contents(ROOT)
    if defect == "another form":
        forms = iter(range(10**6))
        monkeypatch.setattr(prune, "canonical", lambda folder: Path(f"{folder}/{next(forms)}"))
    else:
        inside = two_versions[1].release.folder.relative_to(ROOT) / "tables"
        listed = Path("evaluate") if defect == "above it" else inside
        monkeypatch.setattr(prune, "cache_folders", lambda root: [root / listed])
    done = run("results", "--prune", "--keep", "latest", "--yes", status=2)
    assert "nothing is removed" in done.stderr and "which is kept. That is a defect of --prune" in done.stderr
    assert contents(ROOT) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--prune",),
            "--prune needs --keep, which may be given several times: latest, current, all-releases or a release's key",
        ),
        (("--prune", "--keep", "everything"), "--keep everything: expected one of latest, current, all-releases"),
        (("--prune", "--keep", "current"), "which results are current, a config says. Add --config FILE"),
        (("--yes",), "--yes: only with --prune"),
    ],
)
def test_what_is_kept_has_to_be_said(two_versions, arguments, message):
    assert message in run("results", *arguments, status=2).stderr


def test_a_release_of_which_something_upstream_is_gone_says_what_to_make_again(two_versions, monkeypatch):
    planned = two_versions[1]
    monkeypatch.setattr(runner.system, "set_thread_environment", lambda threads: None)
    shutil.rmtree(planned.release.folder)
    shutil.rmtree(planned.stage("evaluate", "base/gsm-mini").folder)
    with pytest.raises(
        StageError, match=r"evaluate/base/gsm-mini-\w{8}, .* is gone.* `snakemake evaluate_base_gsm-mini`"
    ):
        run_stage(planned, planned.release)
