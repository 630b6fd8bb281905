"""A stage runs once, on whole inputs, alone; and leaves something to go on from whenever it is stopped."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from pathlib import Path

import pytest
from small import files, never

from lightningrl.errors import Interrupted, StageError
from lightningrl.pipeline import manifest, runner
from lightningrl.pipeline.runner import run_stage
from lightningrl.pipeline.system import set_thread_environment
from lightningrl.utils.files import read_json, write_text


def test_a_finished_stage_has_a_manifest_and_no_state_and_asked_again_it_does_nothing(nano, finished, entry):
    before = files(finished.folder)
    assert set(before) == {*finished.outputs, "timing.jsonl"} and not manifest.missing(finished)
    entry(never)
    assert run_stage(nano, finished) is False
    assert files(finished.folder) == before and not (finished.folder / "state").exists()


def test_the_manifest_says_what_it_was_made_of(nano, tokenizer):
    run_stage(nano, tokenizer)
    found = read_json(tokenizer.manifest)
    assert (found["kind"], found["name"], found["key"]) == ("tokenizer", "tokenizer", tokenizer.key)
    assert found["preimage"]["code"] == tokenizer.sources
    assert "lightningrl/pipeline/stages/tokenizer.py" in tokenizer.sources
    assert found["preimage"]["science"] == {"tokenizer": {"texts_per_benchmark": 200}}
    assert set(found["inputs"]) == {"data/gsm-mini", "data/code-mini"}
    assert set(found["outputs"]) == set(tokenizer.files)
    assert found["outputs"]["tokenizer.json"]["bytes"] == len('"tokenizer.json"')
    assert {"starts", "seconds_of_last_start", "peak_memory_bytes", "finished"} <= set(found["run"])
    assert found["packages"]["numpy"]
    assert read_json(nano.stage("data", "gsm-mini").manifest)["seeds"] == {"seed": 0}


def test_two_runs_differ_in_the_run_part_only(nano, finished):
    found = []
    for _ in range(2):
        found.append(read_json(finished.manifest))
        found[-1].pop("run")
        finished.manifest.unlink()
        run_stage(nano, finished)
    assert found[0] == found[1]


def test_another_key_than_planned_is_refused_before_anything_is_written(nano, data, entry):
    entry(never)
    with pytest.raises(StageError, match=r"asked for key 00000000.*changed since the DAG was planned.*snakemake again"):
        run_stage(nano, data, "00000000")
    assert not data.folder.exists()


def test_an_unfinished_input_is_named_with_the_command_that_makes_it(nano, entry):
    entry(never)
    with pytest.raises(StageError, match=r"results/nano/data/.* is not finished .*lightningrl data --name"):
        run_stage(nano, nano.stage("tokenizer", "tokenizer"))


@pytest.mark.parametrize("damage", ["one byte", "shorter", "gone"])
def test_a_damaged_input_is_named_with_the_remedy(nano, tokenizer, entry, damage):
    victim = nano.stage("data", "code-mini").folder / "train.jsonl"
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_text("X" + victim.read_text()[1:] if damage == "one byte" else "")
    entry(never)
    with pytest.raises(StageError) as caught:
        run_stage(nano, tokenizer)
    assert str(victim) in str(caught.value)
    assert f"Delete the folder {victim.parent} and run the same command again" in str(caught.value)


def test_a_damaged_result_of_its_own_is_found_and_a_deleted_one_made_again(nano, finished):
    (finished.folder / "test.jsonl").write_text("test.jsonX")
    with pytest.raises(StageError, match=r"test\.jsonl is damaged"):
        run_stage(nano, finished)
    (finished.folder / "test.jsonl").unlink()
    assert run_stage(nano, finished) is True
    manifest.check(finished.folder)


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

    def resumed(context):
        assert (context.state / "step").read_text() == "3"
        write_outputs(context)

    entry(interrupted)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        run_stage(nano, data)
    assert signal.getsignal(signal.SIGTERM) is before and not data.manifest.exists()
    entry(resumed)
    run_stage(nano, data)
    assert len(read_json(data.manifest)["run"]["starts"]) == 2


def test_the_time_budget_asks_to_stop(with_resources, tmp_path, monkeypatch, entry):
    monkeypatch.chdir(tmp_path)
    seen = []

    def run(context):
        seen.append(context.should_stop())
        raise Interrupted("saved")

    entry(run)
    for planned in (with_resources(max_minutes=1e-6), with_resources(max_minutes=10.0)):
        with pytest.raises(Interrupted):
            run_stage(planned, planned.stage("data", "gsm-mini"))
    assert seen == [True, False]


def test_a_step_that_may_not_end_within_the_budget_is_not_begun(nano, data, entry, monkeypatch):
    """Ten minutes, less one to save in, and steps of two: what begins at 6.5 may end in time, at 8.5 it may not."""
    started = time.monotonic()
    seen = []

    def run(context):
        for minute in (0.5, 2.5, 4.5, 6.5, 8.5):
            monkeypatch.setattr(runner.time, "monotonic", lambda now=started + 60 * minute: now)
            seen.append(context.should_stop())
            if seen[-1]:
                raise Interrupted("saved")

    entry(run)
    with pytest.raises(Interrupted):
        run_stage(nano, data, max_minutes=10.0)
    assert seen == [False, False, False, False, True]


def test_progress_and_failures_are_in_the_log_of_all_starts_and_in_that_of_the_last(
    nano, data, entry, write_outputs, capsys
):
    def failing(context):
        context.report("begun")
        raise RuntimeError("the device is gone")

    entry(failing)
    with pytest.raises(RuntimeError):
        run_stage(nano, data)
    assert "begun" in capsys.readouterr().err
    assert "begun" in data.last_log().read_text() and "RuntimeError: the device is gone" in data.last_log().read_text()
    entry(write_outputs)
    run_stage(nano, data)
    assert "begun" not in data.last_log().read_text() and "finished" in data.last_log().read_text()
    run_stage(nano, data)
    log = Path(f"logs/nano/data/gsm-mini-{data.key}.log").read_text()
    assert "RuntimeError" in log and " finished" in log and "already finished" in log


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
    assert context.judge_workers == 3 and context.state == context.folder / "state"


def test_a_disk_that_fills_up_leaves_what_was_there_and_says_what_to_do(nano, data, entry):
    def full(context):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(context.folder / "train.jsonl"))

    def full_while_writing(context):
        target = context.folder / "train.jsonl"
        target.with_name(f".{target.name}.{os.getpid()}.tmp").symlink_to("/dev/full")
        write_text(target, "new")

    data.folder.mkdir(parents=True)
    (data.folder / "train.jsonl").write_text("old")
    for run in (full, full_while_writing):
        entry(run)
        told = r"cannot write .*train\.jsonl: no space left.*Finished results are untouched; free some space"
        with pytest.raises(StageError, match=told):
            run_stage(nano, data)
        assert (data.folder / "train.jsonl").read_text() == "old" and not data.manifest.exists()
    entry(lambda context: open("/no/such/file"))
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


def test_threads_are_told_to_the_libraries(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "9")
    set_thread_environment(2)
    assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "2"
