"""The test Slurm itself: however its program ends, no daemon and no job stays."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from conftest import Cluster, started
from fixtures.limits import wait_for


def descendants(pid: int) -> dict[int, str]:
    """The processes that come from one and have not ended, by number, with their names."""
    found: dict[int, str] = {}
    for number in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        if name := running(number):
            found |= {number: name} | descendants(number)
    return found


def running(pid: int) -> str:
    """The name of a process; empty where there is none, or it waits to be collected."""
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition(" (")[2].rpartition(") ")
    except OSError:
        return ""
    return "" if rest.startswith("Z") else name


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_program_that_started_it(number: signal.Signals, tmp_path: Path) -> None:
    with started(tmp_path / "slurm") as process:
        cluster = Cluster(tmp_path / "slurm")
        job = int(cluster.call("sbatch", "--parsable", "--chdir=/tmp", "--output=/dev/null", "--wrap", "sleep 9999"))
        wait_for(lambda: cluster.state(job) == "RUNNING", "the job runs")
        wait_for(lambda: "sleep" in descendants(process.pid).values(), "what the job runs has begun")
        ours = descendants(process.pid)
        assert {"munged", "slurmctld", "slurmd", "slurmstepd"} <= set(ours.values())
        process.send_signal(number)
        process.wait()
    wait_for(lambda: not any(map(running, ours)), lambda: f"still there: {[*filter(None, map(running, ours))]}")
