"""The test Slurm itself: however its program ends, no daemon stays."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from conftest import started
from fixtures.limits import wait_for


def children_of(pid: int) -> dict[int, str]:
    """Processes that a process has started and that have not ended, by their names."""
    numbers = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return {number: name for number in numbers if (name := running(number))}


def running(pid: int) -> str:
    """The name of a process; empty where there is none, or it waits to be collected."""
    try:
        about = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    name, _, rest = about.partition(" (")[2].rpartition(") ")
    return "" if rest.startswith("Z") else name


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_daemon_outlives_the_program_that_started_it(number: signal.Signals, tmp_path: Path) -> None:
    with started(tmp_path / "slurm") as process:
        daemons = children_of(process.pid)
        assert {"munged", "slurmctld", "slurmd"} <= set(daemons.values())
        process.send_signal(number)
        process.wait()
    wait_for(lambda: not any(map(running, daemons)), "all daemons have ended")
