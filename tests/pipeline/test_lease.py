"""One process works on a stage's folder; others wait, are told who holds it, and can be stopped."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path

import pytest
from fixtures.limits import HANG_S, wait_for
from small import never

from lightningrl.errors import Interrupted, StageError
from lightningrl.pipeline.runner import run_stage
from lightningrl.utils.files import read_json, write_text
from lightningrl.utils.lease import lease


def waiting_for(said: Path) -> None:
    wait_for(lambda: said.is_file() and "is being made by process" in said.read_text(), f"{said} that says so")


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_second_process_waits_and_finds_the_stage_finished_or_goes_on(nano, data, entry, write_outputs, is_stopped):
    second = threading.Thread(target=lambda: ended.append(run_stage(nano, data)))
    ended: list[bool] = []

    def first(context):
        write_text(context.state / "step", "3")
        second.start()
        waiting_for(data.last_log())
        if is_stopped:
            entry(resumed)
            raise Interrupted("saved")
        write_outputs(context)

    def resumed(context):
        assert (context.state / "step").read_text() == "3"
        write_outputs(context)

    entry(first)
    if is_stopped:
        with pytest.raises(Interrupted):
            run_stage(nano, data)
    else:
        assert run_stage(nano, data) is True
    second.join(HANG_S)
    assert ended == [is_stopped] and len(read_json(data.manifest)["run"]["starts"]) == 1 + is_stopped
    assert not (data.folder / "state").exists()


@pytest.mark.parametrize("end", ["SIGTERM", "time budget"])
def test_who_waits_can_be_stopped_and_leaves_the_folder_to_its_holder(nano, data, entry, end):
    def stop():
        waiting_for(data.last_log())
        os.kill(os.getpid(), signal.SIGTERM)

    entry(never)
    if end == "SIGTERM":
        threading.Thread(target=stop).start()
    told = r"is still being made by process \d+ on .*; run the same command again"
    with lease(data.folder / "state"), pytest.raises(Interrupted, match=told):
        run_stage(nano, data, max_minutes=0.0 if end == "time budget" else None)
    assert "Interrupted: " in data.last_log().read_text()


def test_a_second_process_is_told_who_holds_the_folder_and_a_killed_one_holds_it_no_more(tmp_path, hold):
    state = tmp_path / "stage" / "state"
    holder = hold(state)
    told = rf"stage is being made by process {holder.pid} on .*Wait for it to end"
    with pytest.raises(StageError, match=told), lease(state):
        pytest.fail("two holders")
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(HANG_S)
    with lease(state):
        pass


@pytest.mark.parametrize("when", ["mkdir", "open"])
def test_a_folder_that_vanishes_before_the_lease_is_held_is_made_again_and_a_file_in_its_place_stays(
    tmp_path, monkeypatch, when
):
    """Snakemake removes empty folders when it ends."""
    state, original, removed = tmp_path / "state", getattr(os, when), []
    state.mkdir()

    def doing(path, *arguments):
        if not removed and state in (Path(path), Path(path).parent):
            removed.append(state.rmdir())
            if when == "mkdir":
                raise FileExistsError(errno.EEXIST, "it was there", str(path))
        return original(path, *arguments)

    monkeypatch.setattr(os, when, doing)
    with lease(state):
        assert removed and (state / "lease").is_file()
    with pytest.raises(StageError, match="cannot write"), lease(state / "lease"):
        pytest.fail("a file is no folder")


def test_a_lease_on_a_removed_folder_is_not_a_lease(tmp_path):
    """The last holder deletes the state folder while it still holds the lock; a waiter must not lock the dead file."""
    state = tmp_path / "state"
    with lease(state):
        (state / "lease").unlink()
        with lease(state), pytest.raises(StageError), lease(state):
            pytest.fail("two holders")
