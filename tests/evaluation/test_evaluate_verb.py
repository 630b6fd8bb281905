"""`lightningrl evaluate MODEL`: killed at any moment it goes on, and ends with the same bytes; records say all."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures import killing
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.limits import HANG_S, wait_for

from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.utils.lease import lease

TESTS = Path(__file__).parents[1]
FILES = ("records.jsonl", "summary.json", "selfcheck.json")
BOTH = ("0.2", "0.9")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_byte_checkpoint(tmp_path_factory.mktemp("model") / "random", max_position_embeddings=512)


def command(model, out, *more, thresholds=BOTH):
    asked = [word for threshold in thresholds for word in ("--threshold", threshold)]
    return [
        "evaluate", str(model), "--benchmark", "gsm-mini", "--limit", "24", "--max-new-tokens", "24", "--shard", "4",
        "--out", str(out), *asked, *more,
    ]  # fmt: skip


def run(model, out, *more, thresholds=BOTH):
    return killing.run(out.parent, *command(model, out, *more, thresholds=thresholds))


def start(model, out, *more, stderr=subprocess.DEVNULL):
    """A process of its own, with all its imports."""
    return subprocess.Popen(
        [sys.executable, "-m", "lightningrl", *command(model, out, *more)], stderr=stderr, stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": f"{PACKAGE.parent}:{TESTS}"}, cwd=out.parent,
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated") / "whole"
    done = run(model, out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of the finished folder."""
    return shutil.copytree(undisturbed[0], tmp_path / "copy")


def assert_equal(out, undisturbed):
    for name in FILES:
        assert (out / name).read_bytes() == (undisturbed[0] / name).read_bytes(), name


def test_one_record_a_problem_sample_and_threshold(undisturbed):
    out, said = undisturbed
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert len(records) == 48 and len({(r["uid"], r["sample"], r["threshold"]) for r in records}) == 48
    assert all(r["visible_tokens"] > 0 and r["policy"] == "random" for r in records)
    low, high = json.loads((out / "summary.json").read_text())
    assert (low["threshold"], high["threshold"]) == (0.2, 0.9) and low["n_problems"] == 24
    for row in (low, high):
        mine = [r for r in records if r["threshold"] == row["threshold"]]
        assert row["tpf"] == sum(r["response_tokens"] for r in mine) / sum(r["denoise_forwards"] for r in mine)
        steps = sum(sum(count > 0 for count in r["tokens_by_step"]) for r in mine)
        assert row["tpf_paper"] == sum(r["visible_tokens"] for r in mine) / steps
        assert row["truncated_pct"] == 100 * sum(r["stop"] == "length" for r in mine) / 24
        assert row["engine"]["row_forwards"] >= sum(r["denoise_forwards"] for r in mine)
        for what in ("positions", "keys"):
            decoded = sum(row["engine"].get(f"{kind}_{what}", 0) for kind in ("denoise", "fused", "commit"))
            assert decoded == sum(r[f"decode_{what}"] for r in mine) > 0
            assert row["engine"].get(f"prefill_{what}", 0) == sum(r[f"prefill_{what}"] for r in mine)
        tokens = sum(r["response_tokens"] for r in mine)
        assert row["keys_per_token_decode"] == sum(r["decode_keys"] for r in mine) / tokens and row["family"] == "sdar"
    assert json.loads((out / "selfcheck.json").read_text())["official"] == {"judged": 24, "correct": 24, "pct": 100.0}
    assert "threshold 0.2: accuracy" in said and "tokens/s" in said
    assert json.loads((out / "run.json").read_text())["settings"]["benchmark"] == "gsm-mini"


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(model, undisturbed, tmp_path, number):
    lines = random.Random(number).randrange(1, 24)
    out = tmp_path / "killed"
    (tmp_path / "gate").write_text(f"killed/state/threshold-0.2.jsonl {lines}")
    process = start(model, out, "--selector", "fixtures.held:Held")
    gathering = out / "state" / "threshold-0.2.jsonl"
    wait_for(lambda: gathering.exists() and gathering.read_bytes().count(b"\n") >= lines, f"{lines} records")
    process.send_signal(signal.SIGKILL)
    process.wait()
    (tmp_path / "gate").unlink()
    assert not (out / "records.jsonl").exists()
    kept = gathering.read_bytes().rpartition(b"\n")[0]
    done = run(model, out, "--selector", "fixtures.held:Held")
    assert done.returncode == 0, done.stderr
    assert gathering.read_bytes().startswith(kept) and kept
    assert_equal(out, undisturbed)


def test_a_second_process_on_the_folder_waits_for_the_first(model, undisturbed, finished):
    said = finished.parent / "said"
    (finished / "records.jsonl").unlink()
    with open(said, "w") as log, lease(finished / "state"):
        second = start(model, finished, stderr=log)
        wait_for(lambda: "is being made by process" in said.read_text(), said.read_text)
        assert not (finished / "records.jsonl").exists()
    assert second.wait(HANG_S) == 0, said.read_text()
    assert_equal(finished, undisturbed)


def test_one_more_threshold_costs_only_itself_and_what_is_there_already_stays(model, undisturbed, tmp_path):
    out = tmp_path / "more"
    assert run(model, out, thresholds=("0.9",)).returncode == 0
    before = (out / "state" / "threshold-0.9.jsonl").stat()
    for thresholds in (BOTH, ("0.9",)):
        assert run(model, out, thresholds=thresholds).returncode == 0
        assert (out / "state" / "threshold-0.9.jsonl").stat().st_mtime_ns == before.st_mtime_ns
        assert_equal(out, undisturbed)


def test_damaged_lines_are_made_again_and_the_proof_of_another_judge_or_other_problems_is_none(
    model, undisturbed, finished
):
    path = finished / "state" / "threshold-0.9.jsonl"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data[:-30])
    checked = json.loads((finished / "selfcheck.json").read_text())
    for name, said in (("judge", "2 damaged lines"), ("problems", ""), ("benchmark", "")):
        other = checked | {"of": checked["of"] | {name: "another"}, "empty": {}}
        (finished / "selfcheck.json").write_text(json.dumps(other))
        done = run(model, finished)
        assert done.returncode == 0 and said in done.stderr
        assert_equal(finished, undisturbed)


def test_other_settings_are_refused_by_name_unless_nothing_was_decoded(model, finished, tmp_path):
    for more, message in (
        (("--temperature", "1.0"), "was begun with another policy"),
        (("--compat",), "was begun with another prompt"),
    ):
        done = run(model, finished, *more)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    failed = run(model, tmp_path / "again", "--max-new-tokens", "8192")
    assert failed.returncode == 2 and "shorten the prompt or --max-new-tokens" in failed.stderr
    assert run(model, tmp_path / "again", thresholds=("0.9",)).returncode == 0


def test_responses_are_as_long_as_the_model_has_room_for_where_nothing_else_is_said(tmp_path):
    model = save_byte_checkpoint(tmp_path / "short", max_position_embeddings=256)
    done = killing.run(
        tmp_path, "evaluate", model, "--benchmark", "gsm-mini", "--limit", "2", "--out", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    assert 1 < json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["max_new_tokens"] < 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--benchmark", "gsm8k"), "say --benchmark and --out"),
        (("--benchmark", "gsm9k", "--out", "x"), "there is no benchmark 'gsm9k'"),
        (("--benchmark", "gsm-mini", "--out", "x"), "say how many problems with --limit"),
        (("--benchmark", "gsm-mini", "--shots", "4", "--out", "x"), "--shots: found 4, allowed: 0"),
        (
            ("--benchmark", "math500", "--shots", "4", "--style", "system", "--out", "x"),
            "worked examples go with the style `default` only",
        ),
        (("--benchmark", "gsm-mini", "--out", "x", "--limit", "2", "--threshold", "1.5"), "within (0, 1], found 1.5"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(model, tmp_path, arguments, message):
    done = killing.run(tmp_path, "evaluate", model, *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
