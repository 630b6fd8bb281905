"""On a real Slurm: nano runs, trainings go on after whatever stops them, and only what an edit concerns runs again."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from checkouts import Checkout, jobs_in
from conftest import HERE, Cluster, Running, copy_with_configs, science
from fixtures.limits import HANG_S, TEST_S, wait_for
from submission import submission_line

from lightningrl.utils.lease import lease

SUBMITTED = (
    {"selfcheck/gsm-mini", "selfcheck/code-mini", "pretrain/base"}
    | {f"train/{run}" for run in ("lightningrl", "grpo-traj", "supervised", "lightningrl-code")}
    | {f"evaluate/{run}_gsm-mini" for run in ("base", "lightningrl", "grpo-traj", "supervised")}
    | {f"evaluate/{run}_code-mini" for run in ("base", "lightningrl-code")}
    | {"replay/lightningrl"}
)
FIGURES = {f"figure/{name}" for name in ("frontier", "rewards", "steps", "collapse")}
LATER = FIGURES | {"collect/frontier", "table/main", "table/frontier", "release/release"}
ASKED = {
    "selfcheck/gsm-mini": ({"cpu=1", "mem=1000M"}, "", "cpu"),
    "pretrain/base": ({"cpu=2", "mem=2000M"}, "", "cpu"),
    "train/lightningrl": ({"cpu=1", "mem=2000M"}, "gres:gpu:h100:1", "gpu"),
    "evaluate/base_gsm-mini": ({"cpu=1", "mem=1500M"}, "gres:gpu:h100:1", "gpu"),
}


def test_nano_runs_and_its_costly_rules_are_jobs_that_ask_for_what_the_config_says(nano, cluster: Cluster) -> None:
    checkout, said = nano
    assert "results/nano/release-" in said and "report.html" in said
    assert (checkout.path("results/nano/latest") / "tables/main.csv").stat().st_size > 0
    numbers = {name: number for number, name in cluster.jobs().items()}
    assert set(numbers) == SUBMITTED
    for job, (asked, gpus, partition) in ASKED.items():
        facts = cluster.facts(numbers[job])
        assert asked <= set(facts["TRES"].split(",")), facts
        assert facts.get("TresPerJob", "") == gpus
        assert (facts["TimeLimit"], facts["Partition"]) == ("01:00:00", partition)
        assert (facts["NumNodes"], facts["Requeue"], facts["JobState"]) == ("1", "1", "COMPLETED")


def test_every_job_leaves_a_log_and_a_benchmark(nano) -> None:
    checkout, _ = nano
    results = checkout.path("results/nano")
    names = [path.parent.relative_to(results) for path in results.glob("*/**/manifest.json")]
    assert len(names) >= 24
    for name in (name for name in names if "latest" not in name.parts):
        kind = "release" if name.name.startswith("release") else ""
        assert "finished" in checkout.path(f"logs/nano/{kind}/{name}.log").read_text()
        assert checkout.path(f"benchmarks/nano/{kind}/{name}.tsv").read_text().startswith("s\th:m:s\tmax_rss")


def test_a_job_is_never_spread_over_nodes(cluster: Cluster, tmp_path: Path) -> None:
    """Six GPUs of two nodes with four each: without `--nodes=1` Slurm takes them from both."""
    line = submission_line(HERE / "nano.yaml", "train/lightningrl", {"gpu": 6, "gpu_model": "h100"})
    assert " --nodes=1 " in line and " --gpus=h100:6" in line

    def submit(line: str) -> subprocess.CompletedProcess[str]:
        words = [*shlex.split(line), "--wrap", "true"]
        environment = cluster.environment
        return subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S)

    number = int(submit(line.replace(" --nodes=1 ", " ")).stdout)
    wait_for(lambda: cluster.state(number) == "COMPLETED", "a job on two nodes runs")
    assert cluster.facts(number)["NumNodes"] == "2", "so this Slurm would spread it"
    refused = submit(line)
    assert refused.returncode != 0 and "node configuration is not available" in refused.stderr, refused


def test_a_site_that_takes_no_gpus_option_is_asked_by_gres(cluster: Cluster, tmp_path: Path) -> None:
    checkout, earlier = copy_with_configs(tmp_path / "repository"), max(cluster.jobs(), default=0)
    code, said = cluster.start(checkout, "selfcheck_gsm-mini", site="gres.yaml").end()
    assert code == 0, said[-8000:]
    [(number, job)] = [(number, job) for number, job in cluster.jobs().items() if number > earlier]
    facts = cluster.facts(number)
    assert job == "selfcheck/gsm-mini" and facts["JobState"] == "COMPLETED"
    assert (facts["TresPerNode"], facts.get("TresPerJob", ""), facts["NumNodes"]) == ("gres:gpu:h100:1", "", "1")


STOPPED = ("cancelled", "ended", "saved")
"""How each is stopped. `cancelled` and `ended` wait in their third step until they are killed: by `scancel`, and by
Slurm once the time limit has been put back behind what has passed. `saved` ends by itself, long before its limit: its
second step takes so much of the budget, by a clock put forward, that a third would not end in time (stalling.py)."""


@dataclass
class Stopped:
    """A checkout in which three trainings are stopped and go on, and one in which a training fails; they begin at once
    and run while other tests do."""

    checkout: Checkout
    running: Running
    failing: Running

    @cached_property
    def failed(self) -> str:
        """What Snakemake said of the failing one; all have ended then."""
        code, said = self.running.end()
        assert code == 0, said[-8000:]
        code, said = self.failing.end()
        assert code != 0, said[-8000:]
        return said


@pytest.fixture(scope="module")
def stopped(nano, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stopped]:
    checkout = copy_with_configs(tmp_path_factory.mktemp("stopped") / "repository", of=nano[0])
    other = copy_with_configs(tmp_path_factory.mktemp("broken") / "repository", of=nano[0])
    cluster.call("scontrol", "update", "PartitionName=gpu", "MaxCPUsPerNode=4")  # these jobs mostly wait
    checkout.path("stalls").mkdir()
    running = cluster.start(checkout, *(f"train_{name}" for name in STOPPED), config="stopped.yaml")
    failing = cluster.start(other, "train_broken", "--retries", "0", config="stopped.yaml")
    try:
        for name in ("cancelled", "ended"):
            gate = checkout.path(f"stalls/{name}")
            wait_for(lambda gate=gate: gate.exists() or running.has_ended(), f"{name} comes to its third step")
        assert not running.has_ended(), running.end()[1][-8000:]
        numbers = {job: number for number, job in cluster.jobs().items()}
        cluster.call("scancel", str(numbers["train/cancelled"]))
        cluster.call("scontrol", "update", f"JobId={numbers['train/ended']}", "TimeLimit=1")
        yield Stopped(checkout, running, failing)
    finally:
        running.kill()
        failing.kill()


def submitted_by(cluster: Cluster, checkout: Checkout) -> tuple[set[str], set[str]]:
    """Run nano again: the jobs of the cluster, and all that Snakemake ran."""
    before = set(cluster.jobs())
    said = cluster.run(checkout)
    new = {name for number, name in cluster.jobs().items() if number not in before}
    return {name for name in new if name.removeprefix("train/") not in (*STOPPED, "broken")}, jobs_in(said)


def test_after_an_edit_only_what_it_concerns_is_submitted(nano, stopped, cluster: Cluster, tmp_path: Path) -> None:
    checkout = copy_with_configs(tmp_path / "repository", of=nano[0])
    assert submitted_by(cluster, checkout) == (set(), set())
    checkout.edit("config/nano.yaml", "bootstrap: 100", "bootstrap: 100, plot: {smooth_steps: 2}")
    assert submitted_by(cluster, checkout) == (set(), FIGURES | {"release/release"})
    checkout.edit("config/nano.yaml", "algorithm: grpo_traj", "algorithm: grpo_traj, method: {kl: 0.5}")
    jobs, ran = submitted_by(cluster, checkout)
    assert jobs == {"train/grpo-traj", "evaluate/grpo-traj_gsm-mini"}
    assert ran == {"train/grpo-traj", "evaluate/grpo-traj/gsm-mini"} | LATER


UNDISTURBED = """
import sys
from lightningrl.cli.app import app
for name in sys.argv[1:]:
    app(["train", "--config", "tests/slurm/stopped.yaml", "--name", name], standalone_mode=False)
"""


def test_stopped_trainings_go_on_and_end_with_the_bytes_of_undisturbed_ones(
    stopped, nano, cluster: Cluster, tmp_path: Path
) -> None:
    assert stopped.failed
    checkout, undisturbed = stopped.checkout, copy_with_configs(tmp_path / "repository", of=nano[0])
    command = [sys.executable, "-c", UNDISTURBED, *STOPPED]
    done = subprocess.run(command, cwd=undisturbed.root, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    for name, how in zip(STOPPED, ("CANCELLED", "TIMEOUT", "FAILED"), strict=True):
        first, second = (cluster.facts(number) for number, job in cluster.jobs().items() if job == f"train/{name}")
        assert (first["JobState"], second["JobState"]) == (how, "COMPLETED")
        assert "mem=2000M" in first["TRES"] and "mem=3000M" in second["TRES"]
        [folder] = checkout.path("results/nano/train").glob(f"{name}-????????")
        log = checkout.path(f"logs/nano/train/{folder.name}.log").read_text()
        assert "resumed after step 2" in log, log
        assert ("Interrupted: stopped after step 2" in log) == (name == "saved"), log
        run = json.loads((folder / "manifest.json").read_text())["run"]
        assert len(run["starts"]) == 2 and second["TimeLimit"] == "00:30:00"
        budget = float(run["command"][run["command"].index("--max-minutes") + 1])
        assert budget < 30 - 3, "a tenth is kept, and what the job's start took"
        assert science(folder) == science(undisturbed.path(f"results/nano/train/{folder.name}")), name


def test_of_a_failing_job_the_end_of_its_log_is_shown(stopped) -> None:
    told = stopped.failed
    assert "Error in rule train" in told and "logs/nano/train/broken-" in told
    assert "ConfigError: the reward stalling:broken gave numbers of shape (3,)" in told


def test_jobs_wait_for_another_run_of_their_stages_and_what_that_one_finishes_stays(
    nano, cluster: Cluster, tmp_path: Path
) -> None:
    """This test is the other run. One of the jobs is cancelled while it waits: to Snakemake, what is finished by then
    is the output of a failed job."""
    checkout, earlier = copy_with_configs(tmp_path / "repository", of=nano[0]), max(cluster.jobs())
    stages = {"train/grpo-traj": "train/grpo-traj-*", "evaluate/base_gsm-mini": "evaluate/base/gsm-mini-*"}
    folders = {name: next(checkout.path("results/nano").glob(pattern)) for name, pattern in stages.items()}
    before = {name: {path.name: path.read_bytes() for path in folder.iterdir()} for name, folder in folders.items()}
    with ExitStack() as held:
        for name, folder in folders.items():
            folder.rename(tmp_path / name.replace("/", "_"))
            held.enter_context(lease(folder / "state"))
        running = cluster.start(checkout, *(name.replace("/", "_") for name in stages))
        for folder in folders.values():
            log = checkout.path("logs") / f"{folder.relative_to(checkout.path('results'))}.last.log"
            ours = f"is being made by process {os.getpid()} on "
            is_waiting = lambda log=log, ours=ours: log.is_file() and ours in log.read_text()  # noqa: E731
            wait_for(lambda is_waiting=is_waiting: running.has_ended() or is_waiting(), str(log))
        assert not running.has_ended(), running.end()[1][-8000:]
        for name, folder in folders.items():
            shutil.copytree(tmp_path / name.replace("/", "_"), folder, dirs_exist_ok=True)
        numbers = {name: number for number, name in cluster.jobs().items() if number > earlier}
        cluster.call("scancel", str(numbers["evaluate/base_gsm-mini"]))
        wait_for(lambda: "COMPLETING" not in cluster.state(numbers["evaluate/base_gsm-mini"]), "the job is cancelled")
    code, said = running.end()
    assert code == 0, said[-8000:]
    assert "Removing output files" not in said
    for name, folder in folders.items():
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before[name], name
    new = sorted((name, cluster.state(number)) for number, name in cluster.jobs().items() if number > earlier)
    evaluated, trained = "evaluate/base_gsm-mini", "train/grpo-traj"
    assert new == [(evaluated, "CANCELLED"), (evaluated, "COMPLETED"), (trained, "COMPLETED")]


@pytest.mark.slow
def test_the_miniature_runs(cluster: Cluster, tmp_path: Path) -> None:
    """All of config/config.yaml, on the test cluster: some twenty minutes."""
    checkout = copy_with_configs(tmp_path / "repository")
    text = checkout.path("tests/slurm/nano.yaml").read_text()
    text = text.replace("config/nano.yaml", "config/config.yaml").replace("hours: 1}", "hours: 2}")
    checkout.path("tests/slurm/miniature.yaml").write_text(text)
    said = cluster.run(checkout, config="miniature.yaml", limit_s=TEST_S)
    latest = checkout.path("results/miniature/latest")
    assert "results/miniature/release-" in said and (latest / "report.html").stat().st_size > 0
    lines = (latest / "tables/main.csv").read_text().splitlines()
    policies = [line.split(",")[lines[0].split(",").index("policy")] for line in lines[1:]]
    assert policies == ["base", "lightningrl", "grpo-traj", "supervised", "base", "lightningrl-code"]
