"""What no kept release reaches goes when it is asked for; nothing that is kept is ever lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from small import change_json, config_of, contents, make, moved_to_another_disk, run
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.config.experiment import load
from lightningrl.errors import StageError
from lightningrl.pipeline import runner
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.graph import Graph, read_record
from lightningrl.pipeline.manifest import check
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.runner import run_stage
from lightningrl.pipeline.stage import MANIFEST
from lightningrl.results import prune
from lightningrl.results.folders import levels

ROOT = Path("results/nano")


def pruned(*arguments: object, keep: str = "latest", status: int = 0):
    return run("results", "--prune", "--keep", keep, *arguments, status=status)


def folders() -> set[Path]:
    return {path.parent for path in ROOT.rglob(MANIFEST)}


def of(plan) -> set[Path]:
    return {stage.folder for stage in plan}


def test_what_no_kept_release_reaches_goes_and_what_is_kept_stays_whole(two_versions, monkeypatch):
    old, new = two_versions
    gone, before, tables = of(old) - of(new), contents(ROOT), contents(ROOT / "table")
    assert len(gone) == 6  # train, evaluate, collect, two tables, release
    marks = [ROOT / "cache" / "parts" / f"{each.name}-{each.key}" for each in
             (planned.stage("evaluate", "grpo-traj/gsm-mini") for planned in two_versions)]  # fmt: skip
    for mark in marks:
        mark.mkdir(parents=True)
    done = pruned()
    assert contents(ROOT) == before and "nothing was removed; --yes removes it" in done.stdout
    assert str(old.release.folder) in done.stdout
    done = pruned("--yes")
    assert folders() == of(new)
    for stage in new:
        check(stage.folder)
    caches = {path.parents[1] for path in ROOT.glob("cache/evaluate/*/*/of-*/points.jsonl")}
    assert caches == {stage.cache for stage in new.of("evaluate")}
    assert [mark.exists() for mark in marks] == [False, True]
    assert f"{len(gone) + 2} folders removed" in done.stdout
    assert not list(ROOT.glob(".pruned*")) and not list(ROOT.rglob("state"))
    assert "nothing" not in pruned().stdout
    make(old, monkeypatch)
    again = contents(ROOT / "table")
    assert again.keys() == tables.keys() and all(again[n] == tables[n] for n in tables if n.endswith(".csv"))


def test_all_releases_keep_everything_and_caches_go_only_when_asked(two_versions):
    pruned("--yes", keep="all-releases")
    assert folders() == of(two_versions[0]) | of(two_versions[1]) and (ROOT / "cache").exists()
    pruned("--caches", "--yes", keep="all-releases")
    assert folders() == of(two_versions[0]) | of(two_versions[1]) and not (ROOT / "cache").exists()


def test_a_configs_stages_are_kept_and_latest_moves_to_a_release_that_stays(two_versions):
    old = two_versions[0]
    done = pruned("--config", config_of(Path("mine.yaml"), None), "--yes", keep="current")
    assert f"`latest` will point to {old.release.folder.name}" in done.stdout
    assert folders() == of(old)
    assert os.readlink(ROOT / "latest") == old.release.folder.name
    assert read_record(ROOT / "latest").key == old.release.key


def test_what_a_config_in_config_plans_is_kept_though_it_is_in_no_release(two_versions):
    """A training that took days is finished, its evaluation waits in a queue."""
    config_of(Path("config/mine.yaml"), None)
    shutil.rmtree(two_versions[0].release.folder)
    done = pruned("--yes")
    assert "today's stages of config/mine.yaml" in done.stdout
    assert folders() == (of(two_versions[0]) | of(two_versions[1])) - {two_versions[0].release.folder}


def _no_release(plans) -> None:
    for planned in plans:
        shutil.rmtree(planned.release.folder)


def _damage(plans) -> None:
    plans[1].stage("train", "supervised").manifest.write_text("{")


def _disk_away(plans) -> None:
    moved_to_another_disk(plans[0].release.folder, Path("disk"))
    Path("disk").rename("away")


@pytest.mark.parametrize(
    ("prepare", "keep", "rate", "message"),
    [
        (lambda plans: None, "current", 0.25, "no release would be left of"),
        (_no_release, "all-releases", 0, "has no release, so nothing would be left"),
        (_damage, "latest", 0, "Release {key} is to be kept, but what that folder was made from is not known, so noth"),
        (_disk_away, "all-releases", 0, "which is not here. All releases are to be kept, so nothing is removed"),
    ],
)
def test_nothing_goes_where_what_is_kept_is_not_known(
    two_versions, prepare: Callable, keep: str, rate: float, message: str
):
    prepare(two_versions)
    config = ("--config", config_of(Path("mine.yaml"), rate)) if rate else ()
    before = contents(ROOT)
    said = pruned(*config, "--yes", keep=keep, status=2).stderr
    assert message.format(key=two_versions[1].release.key) in said
    assert contents(ROOT) == before


def test_what_is_gone_or_damaged_of_one_release_is_said_and_is_in_no_others_way(two_versions):
    """`latest` is the damaged one."""
    old, new = two_versions
    shutil.rmtree(old.stage("train", "supervised").folder)
    new.release.manifest.write_text("{")
    done = pruned("--yes", keep=old.release.key)
    assert f"which release {old.release.key} was made from, is not here" in done.stderr
    assert f"left alone: {new.release.manifest} is damaged" in done.stdout and new.release.manifest.is_file()


def test_unfinished_damaged_and_foreign_folders_are_named_and_stay(two_versions):
    old = two_versions[0]
    train, evaluate = old.stage("train", "grpo-traj"), old.stage("evaluate", "grpo-traj/gsm-mini")
    train.manifest.unlink()
    (train.folder / "state" / "step-000004").mkdir(parents=True)
    (train.folder / "state" / "step-000004" / MANIFEST).write_text("{}")
    evaluate.manifest.write_text("{")
    [collect] = old.of("collect")
    with change_json(collect.manifest) as tree:
        tree["outputs"] = {"a": 5}
    table = old.stage("table", "main")
    (table.folder / "notes.txt").write_text("mine")
    (ROOT / "todo.txt").write_text("mine")
    (ROOT / "figure").symlink_to("/tmp")
    shown = " ".join(pruned("--yes").stdout.split())
    assert {train.folder, evaluate.folder, table.folder} <= set(ROOT.rglob("*-????????"))
    assert f"left alone: {train.folder} was begun and is not finished" in shown
    assert f"left alone: {evaluate.manifest} is damaged" in shown
    assert f"left alone: {collect.manifest} is damaged" in shown
    assert f"left alone: {table.folder} holds what its stage did not make: notes.txt" in shown
    assert "left alone: results/nano/todo.txt is no stage's" in shown and "results/nano/figure is a link" in shown
    pruned("--unfinished", "--yes")
    assert not train.folder.exists() and evaluate.folder.exists() and table.folder.exists()


def test_links_go_and_what_they_lead_to_stays(two_versions, tmp_path):
    """As weights of a checkpoint from the hub's cache are linked."""
    old = two_versions[0].stage("train", "grpo-traj").folder
    for name in ("hard", "soft"):
        (tmp_path / name).write_text("weights")
    os.link(tmp_path / "hard", old / "hard.safetensors")
    (old / "soft.safetensors").symlink_to(tmp_path / "soft")
    with change_json(old / MANIFEST) as tree:
        tree["outputs"] |= {name: {"sha256": "", "bytes": 7} for name in ("hard.safetensors", "soft.safetensors")}
    pruned("--yes")
    assert not old.exists() and (tmp_path / "hard").read_text() == (tmp_path / "soft").read_text() == "weights"


def test_nothing_goes_while_a_stage_is_at_work(two_versions, hold):
    stage = two_versions[0].stage("data", "gsm-mini")
    hold(stage.folder / "state")
    before = contents(ROOT)
    assert f"at work: data/gsm-mini-{stage.key} by process" in run("results").stdout
    done = pruned("--yes", status=2)
    assert "nothing is removed while stages are at work" in done.stderr and contents(ROOT) == before


@pytest.mark.parametrize("after", [0, 1, 6])
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
    assert CliRunner().invoke(app, ["results", "--prune", "--keep", "latest", "--yes"]).exit_code == 130
    monkeypatch.setattr(prune.shutil, "rmtree", rmtree)
    for folder in folders() - {path.parent for path in ROOT.glob(".pruned-*/**/manifest.json")}:
        check(folder)
        assert not Graph.from_manifests(read_record(folder)).gone
    assert of(new) <= folders()
    pruned("--yes")
    assert folders() == of(new) and not list(ROOT.glob(".pruned*"))


@pytest.mark.parametrize(
    ("where", "said", "keeps_config"),
    [
        (".", "./results/../results", False), ("elsewhere", "../results", False), ("results", ".", False),
        (ROOT, ".", True), (".", "mine", True),
    ],
)  # fmt: skip
def test_the_same_goes_however_the_folder_is_said(two_versions, tmp_path, monkeypatch, where, said, keeps_config):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine").symlink_to(ROOT.absolute())
    config = ("--config", config_of(tmp_path / "mine.yaml", None)) if keeps_config else ()
    monkeypatch.chdir(tmp_path / where)
    run("results", said, "--prune", "--keep", "latest", *config, "--yes")
    monkeypatch.chdir(tmp_path)
    assert folders() == of(two_versions[1]) | (of(two_versions[0]) if keeps_config else set())


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
    pruned("--yes")
    assert folders() == of(two_versions[1])
    if is_copied:
        os.chdir(tmp_path)
        assert folders() == of(two_versions[0]) | of(two_versions[1])


@pytest.mark.parametrize("keep", ["all-releases", "its key"])
def test_a_release_that_is_linked_from_another_disk_keeps_what_it_needs(two_versions, keep):
    old, new = two_versions
    moved_to_another_disk(old.release.folder, Path("disk"))
    pruned("--yes", keep=keep.replace("its key", old.release.key))
    expected = of(old) | (of(new) if keep == "all-releases" else set())
    assert folders() - {old.release.folder} == expected - {old.release.folder}
    assert old.release.manifest.is_file()


def test_a_policys_name_that_looks_like_one_with_a_key_is_no_stage(two_versions):
    """`code-20261128`, whose evaluation is begun, and has caches; of another version, which nothing plans."""
    begun = ROOT / "evaluate" / "code-20261128" / "code-mini-0123abcd"
    (begun / "state").mkdir(parents=True)
    (begun / "state" / "timing.jsonl").write_text("{}\n")
    for name in ("evaluate", "parts"):
        cache = ROOT / "cache" / name / "code-20261128" / "code-mini-0123abcd"
        cache.mkdir(parents=True)
        (cache / "points.jsonl").write_text("paid")
    shown = pruned().stdout.splitlines()
    listed = {line.split()[-1] for line in shown if "  results/" in line}
    assert {path for path in listed if "20261128" in path} == {
        f"results/nano/cache/{name}/code-20261128/code-mini-0123abcd" for name in ("evaluate", "parts")
    }
    assert any(f"left alone: {begun} was begun and is not finished" in line for line in shown)


def test_a_planned_stage_of_such_a_policy_stays_with_its_caches(two_versions):
    config = config_of(Path("mine.yaml"), None)
    tree = yaml.safe_load(config.read_text())
    next(run for run in tree["runs"] if run["name"] == "grpo-traj")["name"] = "code-20261128"
    config.write_text(yaml.safe_dump(tree))
    [stage] = [s for s in plan(load(config)).of("evaluate") if "20261128" in s.name]
    for folder in (stage.folder / "state", stage.cache, ROOT / "cache" / "parts" / f"{stage.name}-{stage.key}"):
        folder.mkdir(parents=True)
        (folder / "paid.jsonl").write_text("paid")
    pruned("--config", config, "--unfinished", "--yes")
    assert len(list(ROOT.rglob("paid.jsonl"))) == 3


@pytest.mark.parametrize("keep", ["all-releases", "its key"])
def test_a_copy_of_a_release_made_by_hand_and_its_original_are_both_kept(two_versions, keep):
    old = two_versions[0].release
    for name in ("copy", "20261128"):
        shutil.copytree(old.folder, ROOT / f"{old.folder.name}-{name}")
    pruned("--yes", keep=keep.replace("its key", old.key))
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
    done = pruned("--yes", status=2)
    assert "nothing is removed" in done.stderr and "which is kept. That is a defect of --prune" in done.stderr
    assert contents(ROOT) == before


def test_an_experiment_without_a_release_is_named_and_does_not_stop_the_others(two_versions):
    old = two_versions[0].release.folder
    shutil.copytree(ROOT / "data", "results/begun/data")
    before = contents(Path("results/begun"))
    done = pruned("--yes")
    assert "left as it is: results/begun has no link `latest` to a finished release" in done.stderr
    assert not old.exists() and contents(Path("results/begun")) == before
    assert (
        "results/begun has no link" in run("results", "results/begun", "--prune", "--keep", "latest", status=2).stderr
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prune",), "--prune needs --keep"),
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
    with pytest.raises(StageError, match=r"evaluate/base/gsm-mini-\w{8}, .* is gone.* `snakemake evaluate_base_gsm-"):
        run_stage(planned, planned.release)
