"""Two runs in one folder, or one that is stopped: whatever Snakemake is told, finished work of every kind stays.

The other run is this test: it holds the leases of stages, and copies their results in when it has "finished" them. What
the stages' own code would compute does not matter here, so it is replaced by one that writes file names.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from checkouts import Checkout, copy_repository, outside
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.limits import HANG_S, wait_for

from lightningrl.config.experiment import load
from lightningrl.pipeline import again, runner
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.plan import Plan, plan
from lightningrl.pipeline.runner import run_stage
from lightningrl.pipeline.stage import Stage
from lightningrl.utils.lease import lease

CONFIG = "config/every-kind.yaml"
ONE_OF_EACH = (
    ("data", "code-mini"), ("selfcheck", "gsm-mini"), ("tokenizer", "tokenizer"), ("pretrain", "base"),
    ("checkpoint", "other"), ("distill_data", "dparallel"), ("train", "grpo-traj"), ("quantize", "rounded"),
    ("evaluate", "base/gsm-mini"), ("speed", "other/gsm-mini"), ("probe", "base/gsm-mini"), ("collect", "frontier"),
    ("table", "main"), ("figure", "frontier"), ("replay", "lightningrl"), ("release", "release"),
)  # fmt: skip
LEVELS = {
    "policies": (("train", "grpo-traj"), ("evaluate", "base/gsm-mini"), ("probe", "base/gsm-mini"),
                 ("speed", "other/gsm-mini"), ("quantize", "rounded"), ("replay", "lightningrl"),
                 ("distill_data", "dparallel")),
    "report": (("table", "main"), ("figure", "frontier")),
    "data": (("data", "code-mini"),),
    "problems": (("selfcheck", "gsm-mini"), ("tokenizer", "tokenizer")),
    "weights": (("pretrain", "base"), ("checkpoint", "other")),
    "collect": (("collect", "frontier"),),
    "release": (("release", "release"),),
}  # fmt: skip
"""All kinds again, in groups of stages that do not wait for each other."""
QUICK = {("policies", "--nolock"), ("report", "")}


@dataclass(frozen=True)
class Finished:
    """A checkout in which all of every-kind.yaml is finished, and the plan of it."""

    checkout: Checkout
    plan: Plan

    def path(self, stage: Stage) -> Path:
        return self.checkout.root / stage.folder

    def forget(self, names: Iterable[tuple[str, str]]) -> list[Stage]:
        """Removes the results of these stages."""
        stages = [self.plan.stage(kind, name) for kind, name in names]
        for stage in stages:
            shutil.rmtree(self.path(stage))
        return stages

    def bring_back(self, everything: Finished, stages: Iterable[Stage]) -> None:
        """As another run does that finishes them: the manifest last."""
        for stage in stages:
            whole, folder = everything.path(stage), self.path(stage)
            shutil.copytree(whole, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
            shutil.copy2(whole / "manifest.json", folder)

    def contents(self) -> dict[str, bytes]:
        results = self.checkout.path("results")
        files = {path.relative_to(results).as_posix(): path for path in results.rglob("*") if path.is_file()}
        return {
            name: path.read_bytes() for name, path in files.items()
            if "/state/" not in name and "workflow.html" not in name
        }  # fmt: skip

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "snakemake", *arguments, "--cores", "16", "--no-hooks", "--configfile", CONFIG]
        variables = outside()
        log = open(self.checkout.path("snakemake.log"), "w")
        with log:
            return subprocess.Popen(command, cwd=self.checkout.root, env=variables, stdout=log, stderr=log)

    @property
    def said(self) -> str:
        return self.checkout.path("snakemake.log").read_text()

    def wait_until_waiting(self, stages: Iterable[Stage]) -> None:
        """Until a job of each of these stages has said that it waits for this process."""
        for stage in stages:
            log = self.checkout.root / stage.last_log()
            ours = f"is being made by process {os.getpid()} on "
            wait_for(lambda log=log, ours=ours: log.is_file() and ours in log.read_text(), lambda: self.said)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    checkout = copy_repository(tmp_path_factory.mktemp("every") / "repository")
    assert checkout.take_config("every-kind") == CONFIG
    save_byte_checkpoint(checkout.path("other"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout.root)
        patch.setattr(runner.system, "set_thread_environment", lambda threads: None)
        planned = plan(load(Path(CONFIG)))
        patch.setattr(runner, "context_of", lambda stage, *rest: stage)
        patch.setattr(runner, "resolve", lambda reference: write_names)
        for stage in planned:
            run_stage(planned, stage)
    assert {stage.kind for stage in planned} == set(KINDS)
    return Finished(checkout, planned)


def write_names(stage: Stage) -> None:
    for name in stage.files:
        (stage.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (stage.folder / name).write_text(json.dumps(name))


@pytest.fixture
def finished(everything: Finished, tmp_path: Path) -> Finished:
    return Finished(everything.checkout.copied(tmp_path / "repository"), everything.plan)


def targets(stages: Iterable[Stage]) -> list[str]:
    return [stage.target if stage.kind != "release" else "all" for stage in stages]


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (ONE_OF_EACH, ("--nolock", "--ignore-incomplete")),
        (ONE_OF_EACH[-5:], ()),
        pytest.param(ONE_OF_EACH, (), marks=pytest.mark.slow),
    ],
    ids=["all-nolock", "last-lock", "all-lock"],
)
def test_what_another_run_finishes_meanwhile_is_neither_deleted_nor_made_again(
    everything, finished, names, options
) -> None:
    """While the first job waits, all that is planned after it is finished, too: Snakemake then meets outputs that it
    did not expect, and would delete them before it starts their jobs."""
    stages = finished.forget(names)
    with ExitStack() as held:
        for stage in stages:
            held.enter_context(lease(finished.path(stage) / "state"))
        process = finished.start(*targets(stages), *options)
        finished.wait_until_waiting(stages[:1])
        finished.bring_back(everything, stages)
    assert process.wait(HANG_S) == 0, finished.said
    assert finished.contents() == everything.contents()
    for stage in stages:
        assert "already finished" in (finished.checkout.root / stage.last_log()).read_text(), stage.label


@pytest.mark.parametrize(
    ("level", "options"),
    [
        pytest.param(level, options, id=f"{level}{options}", marks=[pytest.mark.slow] * ((level, options) not in QUICK))
        for level in LEVELS
        for options in ("", "--nolock")
    ],
)
def test_what_another_run_finishes_survives_the_failure_of_a_job(everything, finished, level, options) -> None:
    """Jobs are killed while they wait, and Snakemake learns of it when the stages are finished: to it, those are the
    outputs of failed jobs."""
    stages = finished.forget(LEVELS[level])
    with ExitStack() as held:
        for stage in stages:
            held.enter_context(lease(finished.path(stage) / "state"))
        process = finished.start(*targets(stages), "--keep-going", *options.split())
        finished.wait_until_waiting(stages)
        process.send_signal(signal.SIGSTOP)
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        finished.bring_back(everything, stages)
    process.send_signal(signal.SIGCONT)
    assert process.wait(HANG_S) == 1, finished.said
    assert finished.said.count("died with <Signals.SIGKILL") >= len(stages)
    assert finished.contents() == everything.contents()
    assert finished.checkout.would_run(*targets(stages), config=CONFIG) == set()


def test_no_option_of_snakemakes_changes_what_is_finished_or_makes_a_file_that_nobody_made(finished) -> None:
    whole = finished.contents()
    for option, code in {"--touch": 0, "--delete-all-output": 1, "--delete-all": 1, "--rerun-incomplete": 0}.items():
        assert finished.start("all", option).wait(HANG_S) == code, finished.said
        assert finished.contents() == whole, option
    stages = finished.forget(ONE_OF_EACH)
    before = finished.contents()
    finished.start("all", *targets(stages), "--touch").wait(HANG_S)
    assert finished.contents() == before


def made_again(finished: Finished, tmp_path: Path, *arguments: str, content: str = "") -> set[str]:
    """What a Snakemake makes again whose stages write the files' names and this content."""
    before = {stage.label: finished.path(stage).joinpath("manifest.json").read_bytes() for stage in finished.plan}
    finished.checkout.run_fakes(tmp_path, *arguments, "--cores", "2", config=CONFIG, FAKE_CONTENT=content)
    assert not list(finished.checkout.path("results").rglob("state"))
    return {
        stage.label for stage in finished.plan
        if finished.path(stage).joinpath("manifest.json").read_bytes() != before[stage.label]
    }  # fmt: skip


def test_what_is_forced_is_made_again_and_what_follows_with_it(finished, tmp_path) -> None:
    forced = finished.plan.stage("evaluate", "supervised/gsm-mini")
    changed = made_again(finished, tmp_path, "table_main", "-R", (forced.folder / "summary.json").as_posix())
    assert changed == {forced.label, "collect/frontier", "table/main"}


def test_what_was_made_from_other_content_is_made_again_to_the_last_stage(finished, tmp_path) -> None:
    """An evaluation is made anew by hand, with another result: tables and figures follow, nothing else does."""
    evaluation = finished.plan.stage("evaluate", "supervised/gsm-mini")
    made_again(finished, tmp_path, evaluation.target, "-R", "evaluate", content="other")
    later = {stage.label for stage in finished.plan if stage.kind in ("collect", "table", "figure", "release")}
    only_measured = {"collect/table7", "table/table7"}
    assert made_again(finished, tmp_path, "all", content="new") == later - only_measured
    assert finished.checkout.would_run(config=CONFIG) == set()


def test_what_a_killed_run_was_to_replace_is_back_when_snakemake_starts_again(everything, finished) -> None:
    stage = finished.plan.stage("train", "lightningrl")
    aside = finished.path(stage) / again.ASIDE
    aside.mkdir(parents=True)
    for path in list(finished.path(stage).iterdir()):
        if path.is_file():
            path.rename(aside / path.name)
    assert finished.contents() != everything.contents()
    assert finished.checkout.would_run("all", config=CONFIG) == set()
    assert finished.contents() == everything.contents()
