"""A stage runs once, on whole inputs, alone; and leaves something to go on from whenever it is stopped."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from fixtures.limits import HANG_S, wait_for

from lightningrl.errors import Interrupted, StageError
from lightningrl.pipeline import again, manifest, runner
from lightningrl.pipeline.runner import run_stage
from lightningrl.pipeline.system import set_thread_environment
from lightningrl.utils.files import read_json, write_text
from lightningrl.utils.lease import lease


@pytest.fixture
def data(nano):
    return nano.stage("data", "gsm-mini")


@pytest.fixture
def upstream_of_tokenizer(nano, entry, write_outputs):
    entry(write_outputs)
    for stage in nano.of("data"):
        run_stage(nano, stage)
    return nano.stage("tokenizer", "tokenizer")


def test_a_finished_stage_has_a_manifest_and_no_state(nano, data, entry, write_outputs):
    entry(write_outputs)
    assert run_stage(nano, data) is True
    assert sorted(path.name for path in data.folder.iterdir()) == sorted([*data.outputs, "timing.jsonl"])
    assert not manifest.missing(data)


def test_asked_again_it_does_nothing(nano, data, entry, write_outputs):
    entry(write_outputs)
    run_stage(nano, data)
    before = data.manifest.read_bytes()
    entry(lambda context: pytest.fail("ran again"))
    assert run_stage(nano, data) is False
    assert data.manifest.read_bytes() == before
    assert not (data.folder / "state").exists()


def test_the_manifest_says_what_it_was_made_of(nano, upstream_of_tokenizer):
    stage = upstream_of_tokenizer
    run_stage(nano, stage)
    found = read_json(stage.manifest)
    assert (found["kind"], found["name"], found["key"]) == ("tokenizer", "tokenizer", stage.key)
    assert (
        found["preimage"]["code"]["lightningrl/pipeline/stages/tokenizer.py"]
        == stage.sources["lightningrl/pipeline/stages/tokenizer.py"]
    )
    assert found["preimage"]["science"] == {"tokenizer": {"texts_per_benchmark": 200}}
    assert set(found["inputs"]) == {"data/gsm-mini", "data/code-mini"}
    assert set(found["outputs"]) == set(stage.files)
    assert found["outputs"]["tokenizer.json"]["bytes"] == len('"tokenizer.json"')
    assert {"starts", "seconds_of_last_start", "peak_memory_bytes", "finished"} <= set(found["run"])
    assert found["packages"]["numpy"]


def test_seeds_are_listed(nano, data, entry, write_outputs):
    entry(write_outputs)
    run_stage(nano, data)
    assert read_json(data.manifest)["seeds"] == {"seed": 0}


def test_two_runs_differ_in_the_run_part_only(nano, data, entry, write_outputs):
    entry(write_outputs)
    found = []
    for _ in range(2):
        run_stage(nano, data)
        found.append(read_json(data.manifest))
        data.manifest.unlink()
    for each in found:
        each.pop("run")
    assert found[0] == found[1]


def test_another_key_than_planned_is_refused_before_anything_is_written(nano, data, entry):
    entry(lambda context: pytest.fail("ran"))
    with pytest.raises(StageError, match=r"asked for key 00000000.*changed since the DAG was planned.*snakemake again"):
        run_stage(nano, data, "00000000")
    assert not data.folder.exists()


def test_an_unfinished_input_is_named_with_the_command_that_makes_it(nano, entry):
    entry(lambda context: pytest.fail("ran"))
    with pytest.raises(StageError, match=r"results/nano/data/.* is not finished .*lightningrl data --name"):
        run_stage(nano, nano.stage("tokenizer", "tokenizer"))


@pytest.mark.parametrize("damage", ["one byte", "shorter", "gone"])
def test_a_damaged_input_is_named_with_the_remedy(nano, upstream_of_tokenizer, entry, damage):
    stage = upstream_of_tokenizer
    victim = nano.stage("data", "code-mini").folder / "train.jsonl"
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_text("X" + victim.read_text()[1:] if damage == "one byte" else "")
    entry(lambda context: pytest.fail("ran"))
    with pytest.raises(StageError) as caught:
        run_stage(nano, stage)
    assert str(victim) in str(caught.value)
    assert f"Delete the folder {victim.parent} and run the same command again" in str(caught.value)


def test_a_damaged_result_of_its_own_is_found(nano, data, entry, write_outputs):
    entry(write_outputs)
    run_stage(nano, data)
    (data.folder / "test.jsonl").write_text("test.jsonX")
    with pytest.raises(StageError, match=r"test\.jsonl is damaged"):
        run_stage(nano, data)


def test_a_deleted_result_is_made_again(nano, data, entry, write_outputs):
    entry(write_outputs)
    run_stage(nano, data)
    (data.folder / "test.jsonl").unlink()
    assert run_stage(nano, data) is True
    manifest.check(data.folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StageError, match=r"manifest\.json is damaged"):
        manifest.check(tmp_path)


def test_a_stage_that_forgets_a_file_gets_no_manifest(nano, data, entry):
    entry(lambda context: write_text(context.folder / "train.jsonl", ""))
    with pytest.raises(StageError, match=r"without writing .*validation\.jsonl"):
        run_stage(nano, data)
    assert not data.manifest.exists()


def test_sigterm_asks_to_stop_and_the_state_stays(nano, data, entry, write_outputs):
    def interrupted(context):
        assert not context.should_stop()
        write_text(context.state / "step", "3")
        os.kill(os.getpid(), signal.SIGTERM)
        if context.should_stop():
            raise Interrupted("saved")
        pytest.fail("SIGTERM was not seen")

    entry(interrupted)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        run_stage(nano, data)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not data.manifest.exists()

    def resumed(context):
        assert (context.state / "step").read_text() == "3"
        write_outputs(context)

    entry(resumed)
    run_stage(nano, data)
    assert len(read_json(data.manifest)["run"]["starts"]) == 2


def test_the_time_budget_asks_to_stop(with_resources, tmp_path, monkeypatch, entry):
    monkeypatch.chdir(tmp_path)
    short, long = with_resources(max_minutes=1e-6), with_resources(max_minutes=10.0)
    seen = []

    def run(context):
        seen.append(context.should_stop())
        raise Interrupted("saved")

    entry(run)
    for planned in (short, long):
        with pytest.raises(Interrupted):
            run_stage(planned, planned.stage("data", "gsm-mini"))
    assert seen == [True, False]


def test_a_step_that_may_not_end_within_the_budget_is_not_begun(nano, data, entry, monkeypatch):
    """Ten minutes, less one to save in, and steps of two: what begins at 6.5 may end in time, at 8.5 it may not."""
    minutes = iter([0.5, 2.5, 4.5, 6.5, 8.5])
    started = time.monotonic()
    seen = []

    def run(context):
        for minute in minutes:
            monkeypatch.setattr(runner.time, "monotonic", lambda now=started + 60 * minute: now)
            seen.append(context.should_stop())
            if seen[-1]:
                raise Interrupted("saved")

    entry(run)
    with pytest.raises(Interrupted):
        run_stage(nano, data, max_minutes=10.0)
    assert seen == [False, False, False, False, True]


def test_a_failure_is_in_the_log_of_all_starts_and_in_that_of_the_last(nano, data, entry, write_outputs):
    def failing(context):
        context.report("begun")
        raise RuntimeError("the device is gone")

    entry(failing)
    with pytest.raises(RuntimeError):
        run_stage(nano, data)
    assert "begun" in data.last_log().read_text() and "RuntimeError: the device is gone" in data.last_log().read_text()
    entry(write_outputs)
    run_stage(nano, data)
    assert "begun" not in data.last_log().read_text() and "finished" in data.last_log().read_text()
    assert "RuntimeError" in data.log.read_text() and "finished" in data.log.read_text()


def waiting_for(said: Path) -> None:
    wait_for(lambda: said.is_file() and "is being made by process" in said.read_text(), f"{said} that says so")


def test_a_second_process_waits_and_finds_the_stage_finished(nano, data, entry, write_outputs):
    def first(context):
        second = threading.Thread(target=lambda: ended.append(run_stage(nano, data)))
        second.start()
        waiting_for(data.last_log())
        write_outputs(context)
        running.append(second)

    ended, running = [], []
    entry(first)
    assert run_stage(nano, data) is True
    running[0].join(HANG_S)
    assert ended == [False]
    assert len(read_json(data.manifest)["run"]["starts"]) == 1 and not (data.folder / "state").exists()


def test_a_second_process_goes_on_where_the_first_was_stopped(nano, data, entry, write_outputs):
    def first(context):
        write_text(context.state / "step", "3")
        second = threading.Thread(target=lambda: ended.append(run_stage(nano, data)))
        second.start()
        waiting_for(data.last_log())
        entry(resumed)
        running.append(second)
        raise Interrupted("saved")

    def resumed(context):
        assert (context.state / "step").read_text() == "3"
        write_outputs(context)

    ended, running = [], []
    entry(first)
    with pytest.raises(Interrupted):
        run_stage(nano, data)
    running[0].join(HANG_S)
    assert ended == [True] and len(read_json(data.manifest)["run"]["starts"]) == 2


@pytest.mark.parametrize("end", ["SIGTERM", "time budget"])
def test_who_waits_can_be_stopped_and_leaves_the_folder_to_its_holder(nano, data, entry, end):
    entry(lambda context: pytest.fail("ran"))
    if end == "SIGTERM":

        def stop():
            waiting_for(data.last_log())
            os.kill(os.getpid(), signal.SIGTERM)

        stopper = threading.Thread(target=stop)
        stopper.start()
    with (
        lease(data.folder / "state"),
        pytest.raises(Interrupted, match=r"is still being made by process \d+ on .*; run the same command again"),
    ):
        run_stage(nano, data, max_minutes=0.0 if end == "time budget" else None)
    assert "Interrupted: " in data.last_log().read_text()


def test_what_somebody_insists_on_is_made_again_once(nano, data, entry, write_outputs, monkeypatch):
    entry(write_outputs)
    run_stage(nano, data)
    monkeypatch.setenv(again.VARIABLE, again.request(nano))
    before = data.manifest.read_bytes()
    assert run_stage(nano, data) is True
    assert data.manifest.read_bytes() != before and not (data.folder / "state").exists()
    assert run_stage(nano, data) is False, "a job that Snakemake starts a second time finds it made again"
    other = nano.stage("data", "code-mini")
    assert run_stage(nano, other) is True and run_stage(nano, other) is False, "finished since: not what was meant"


@pytest.mark.parametrize("content", ["same", "other"])
def test_a_stage_is_made_again_where_its_inputs_were_made_anew_with_other_content(
    nano, upstream_of_tokenizer, entry, write_outputs, content
):
    stage = upstream_of_tokenizer
    run_stage(nano, stage)
    source = nano.stage("data", "gsm-mini")
    before = source.manifest.read_bytes()
    source.manifest.unlink()

    def anew(context):
        write_outputs(context)
        if content == "other":
            write_text(context.folder / "train.jsonl", "other")

    entry(anew)
    run_stage(nano, source)
    assert source.manifest.read_bytes() != before, "when it was made is another"
    entry(write_outputs)
    assert run_stage(nano, stage) is (content == "other")
    assert run_stage(nano, stage) is False
    assert ("making it again, because what it was made from has been" in stage.log.read_text()) == (content == "other")


def test_what_a_stage_keeps_between_attempts_is_kept_apart_by_the_content_of_its_inputs(
    nano, upstream_of_tokenizer, entry, write_outputs
):
    """Records decoded with other weights are not gathered: a cache's name holds more than the key."""
    stage, source, caches = upstream_of_tokenizer, nano.stage("data", "gsm-mini"), []

    def noted(context):
        caches.append(context.cache)
        write_outputs(context)

    for content in ("one", "two", "one"):
        source.manifest.unlink()

        def anew(context, content=content):
            write_outputs(context)
            write_text(context.folder / "train.jsonl", content)

        entry(anew)
        run_stage(nano, source)
        entry(noted)
        run_stage(nano, stage)
    assert caches[0] == caches[2] != caches[1] and {cache.parent for cache in caches} == {stage.cache}


def test_an_input_that_is_replaced_meanwhile_is_recorded_as_it_was_read(
    nano, upstream_of_tokenizer, entry, write_outputs
):
    stage, source = upstream_of_tokenizer, nano.stage("data", "gsm-mini")
    before = read_json(source.manifest)["outputs"]

    def replaced_meanwhile(context):
        found = read_json(source.manifest)
        found["outputs"]["train.jsonl"]["sha256"] = "0" * 64
        source.manifest.write_text(json.dumps(found))
        write_outputs(context)

    entry(replaced_meanwhile)
    run_stage(nano, stage)
    assert read_json(stage.manifest)["inputs"]["data/gsm-mini"]["outputs"] == before
    assert manifest.state(stage) == "stale"


@pytest.mark.parametrize("error", [RuntimeError, Interrupted, KeyboardInterrupt])
def test_what_is_made_again_and_ends_early_leaves_what_was_there(nano, data, entry, write_outputs, monkeypatch, error):
    entry(write_outputs)
    run_stage(nano, data)
    before = {path.name: path.read_bytes() for path in data.folder.iterdir()}
    monkeypatch.setenv(again.VARIABLE, again.request(nano))

    def ends_early(context):
        assert not data.manifest.exists() and again.is_set_aside(data.folder)
        write_text(context.folder / "train.jsonl", "half")
        write_text(context.state / "step", "3")
        raise error

    entry(ends_early)
    with pytest.raises(error):
        run_stage(nano, data)
    assert {path.name: path.read_bytes() for path in data.folder.iterdir() if path.is_file()} == before
    assert "the old results are back in their place" in data.log.read_text()

    def goes_on(context):
        assert (context.state / "step").read_text() == "3"
        write_outputs(context)

    entry(goes_on)
    assert run_stage(nano, data) is True and not (data.folder / "state").exists()
    assert run_stage(nano, data) is False


def test_what_a_killed_attempt_has_set_aside_is_put_back_where_nobody_works_on_it(nano, data, entry, write_outputs):
    entry(write_outputs)
    run_stage(nano, data)
    before = {path.name: path.read_bytes() for path in data.folder.iterdir()}
    with lease(data.folder / "state"):
        again.set_aside(data)
        again.put_back_all(nano)
        assert again.is_set_aside(data.folder)
    again.put_back_all(nano)
    assert {path.name: path.read_bytes() for path in data.folder.iterdir() if path.is_file()} == before
    with lease(data.folder / "state"):
        again.set_aside(data)
    entry(lambda context: pytest.fail("ran"))
    assert run_stage(nano, data) is False
    assert {path.name: path.read_bytes() for path in data.folder.iterdir()} == before


def test_a_context_holds_config_members_and_resources(with_resources, tmp_path, monkeypatch, entry):
    monkeypatch.chdir(tmp_path)
    planned = with_resources(judge_workers=3)
    contexts = []

    def run(context):
        contexts.append(context)
        raise Interrupted("seen")

    entry(run)
    with pytest.raises(Interrupted):
        run_stage(planned, planned.stage("data", "code-mini"))
    context = contexts[0]
    assert context.config["benchmark"] == {"name": "code-mini", "train": 200, "validation": 4, "test": 8}
    assert context.config["members"] == {"benchmark": "lightningrl.benchmarks.code_mini:CODE_MINI"}
    assert context.judge_workers == 3
    assert context.state == context.folder / "state"


def test_a_full_disk_says_which_file_and_what_to_do(nano, data, entry):
    def full(context):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(context.folder / "train.jsonl"))

    entry(full)
    with pytest.raises(StageError, match=r"cannot write .*train\.jsonl: no space left.*free some space"):
        run_stage(nano, data)


def test_a_disk_that_fills_up_while_writing_leaves_what_was_there(nano, data, entry):
    def full(context):
        target = context.folder / "train.jsonl"
        target.with_name(f".{target.name}.{os.getpid()}.tmp").symlink_to("/dev/full")
        write_text(target, "new")

    data.folder.mkdir(parents=True)
    (data.folder / "train.jsonl").write_text("old")
    entry(full)
    with pytest.raises(StageError, match=r"cannot write .*train\.jsonl: no space left.*Finished results are untouched"):
        run_stage(nano, data)
    assert (data.folder / "train.jsonl").read_text() == "old"
    assert not data.manifest.exists()


def test_other_os_errors_are_not_disguised(nano, data, entry):
    def missing(context):
        open("/no/such/file")

    entry(missing)
    with pytest.raises(FileNotFoundError):
        run_stage(nano, data)


def test_what_a_killed_predecessor_left_is_cleaned(nano, data, entry, write_outputs):
    data.folder.mkdir(parents=True)
    (data.folder / ".train.jsonl.123.tmp").write_text("half")
    (data.folder / "state" / ".step-000004.tmp").mkdir(parents=True)
    (data.folder / "state" / ".step-000004.tmp" / ".half.tmp").write_text("half")
    (data.folder / "state" / "timing.jsonl").write_text('{"event":"start"}\n{"event":"sta')
    entry(write_outputs)
    run_stage(nano, data)
    assert not list(data.folder.rglob("*.tmp"))
    events = [json.loads(line)["event"] for line in (data.folder / "timing.jsonl").read_text().splitlines()]
    assert events == ["start", "start", "end"]


def test_progress_goes_to_stderr_and_to_a_log_that_grows(nano, data, entry, write_outputs, capsys):
    def run(context):
        context.report("half-way")
        write_outputs(context)

    entry(run)
    run_stage(nano, data)
    assert "half-way" in capsys.readouterr().err
    run_stage(nano, data)
    log = Path(f"logs/nano/data/gsm-mini-{data.key}.log").read_text()
    assert "half-way" in log and "already finished" in log


def _hold(folder: Path, connection) -> None:
    with lease(folder):
        connection.send("held")
        connection.recv()


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lease of tmp_path/stage/state."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path / "stage" / "state", theirs), daemon=True)
    process.start()
    assert ours.poll(HANG_S) and ours.recv() == "held"
    yield process
    process.kill()
    process.join(HANG_S)


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path, holder):
    with (
        pytest.raises(StageError, match=rf"stage is being made by process {holder.pid} on .*Wait for it to end"),
        lease(tmp_path / "stage" / "state"),
    ):
        pytest.fail("two holders")


def test_a_killed_holder_leaves_no_lease(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(HANG_S)
    with lease(tmp_path / "stage" / "state"):
        pass


def test_a_folder_that_vanishes_between_its_making_and_the_lease_is_made_again(tmp_path, monkeypatch):
    """Snakemake removes empty folders when it ends."""
    state, original, removed = tmp_path / "state", os.open, []

    def opening(path, *arguments):
        if not removed and Path(path).parent == state:
            removed.append(state.rmdir())
        return original(path, *arguments)

    monkeypatch.setattr(os, "open", opening)
    with lease(state):
        assert removed and (state / "lease").is_file()


def test_a_lease_on_a_removed_folder_is_not_a_lease(tmp_path):
    """The last holder deletes the state folder while it still holds the lock; a waiter must not lock the dead file."""
    state = tmp_path / "state"
    with lease(state):
        (state / "lease").unlink()
        with lease(state), pytest.raises(StageError), lease(state):
            pytest.fail("two holders")


def test_threads_are_told_to_the_libraries(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "9")
    set_thread_environment(2)
    assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "2"
