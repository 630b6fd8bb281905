"""`lightningrl score` and `compare`: responses of any engine, judged as ours are; nothing made up, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from fixtures.limits import HANG_S, wait_for
from typer.testing import CliRunner

from lightningrl.benchmarks.gsm_mini import GSM_MINI
from lightningrl.benchmarks.protocol import example_to_json
from lightningrl.cli.app import app
from lightningrl.evaluation.aup import aup
from lightningrl.evaluation.metrics import problem_sums
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.types import EvalRecord
from lightningrl.utils import files

PROBLEMS = GSM_MINI.load({"test": 30}, 0)["test"]
RIGHT = [f"\\boxed{{{example.gold['answer']}}}" for example in PROBLEMS]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_jsonl(tmp_path / "test.jsonl", (example_to_json(example) for example in PROBLEMS))
    return tmp_path


def score(*arguments):
    return CliRunner().invoke(app, ["score", *arguments, "--benchmark", "gsm-mini", "--data", "test.jsonl"])


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def full_row(number, correct=True, threshold=0.9, forwards=10):
    return {
        "id": PROBLEMS[number].uid, "sample": 0, "text": RIGHT[number] if correct else "\\boxed{0}", "stop": "eos",
        "response_tokens": 20, "emitted_tokens": 24, "denoise_forwards": forwards, "commit_forwards": 0,
        "prefill_forwards": 1, "threshold": threshold,
    }  # fmt: skip


def test_the_least_that_a_line_can_say(folder):
    write(folder / "mine.jsonl", [{"uid": e.uid, "response": r} for e, r in zip(PROBLEMS, RIGHT, strict=True)])
    done = score("mine.jsonl", "--out", "records.jsonl")
    assert done.exit_code == 0, done.output
    assert "mine: accuracy 100.0 %" in done.stdout and "TPF unknown" in done.stdout and "no TPF" in done.stdout
    [summary] = json.loads((folder / "records.jsonl.summary.json").read_text())
    assert summary["n_problems"] == 30 and summary["tpf"] is None and summary["truncated_pct"] is None
    assert summary["tpf_harness"] is None and summary["tpf_rounds_mean"] is None and summary["keys_per_token"] is None
    assert summary["compat_accuracy_pct"] == 100.0
    records = read(folder / "records.jsonl")
    assert all(r["correct"] and r["denoise_forwards"] is None and r["policy"] == "mine" for r in records)
    assert not (folder / "records.jsonl.partial").exists()


def test_counts_of_generate_are_taken_and_records_are_judged_again_to_the_same_verdicts(folder):
    work = {"prefill_positions": 8, "prefill_keys": 48, "decode_positions": 52, "decode_keys": 2**32}
    write(folder / "g.jsonl", [full_row(n, correct=n % 3 > 0) | work for n in range(30)])
    done = score("g.jsonl", "--out", "r.jsonl", "--policy", "sdar")
    [summary] = json.loads((folder / "r.jsonl.summary.json").read_text())
    assert done.exit_code == 0 and summary["policy"] == "sdar"
    assert summary["accuracy_pct"] == pytest.approx(200 / 3)
    assert (summary["tpf"], summary["forwards_per_problem"]) == (2.0, 10)
    assert (summary["tpf_harness"], summary["tpf_rounds_mean"]) == (19 / 11, pytest.approx(20 / 11))
    assert (summary["positions_per_token"], summary["keys_per_token_decode"]) == (3.0, 2**32 / 20)
    assert EvalRecord.from_json(read(folder / "r.jsonl")[0]).response_tokens == 20
    assert score("r.jsonl", "--out", "again.jsonl").exit_code == 0
    assert (folder / "again.jsonl").read_bytes() == (folder / "r.jsonl").read_bytes()


def test_failed_requests_in_other_engines_words_and_text_behind_the_end(folder):
    rows = [full_row(n) | {"error": None} for n in range(3)]
    rows += [{"uid": PROBLEMS[3].uid, "response": None}, {"uid": None, "id": PROBLEMS[4].uid, "text": RIGHT[4]}]
    rows += [{"id": PROBLEMS[5].uid, "text": f"{RIGHT[5]}<|im_end|>\n<|im_start|>user \\boxed{{1}}"}]
    write(folder / "g.jsonl", rows)
    done = score("g.jsonl", "--out", "r.jsonl", "--threshold", "0.9")
    assert done.exit_code == 0, done.output
    assert "5 responses to 5 problems: 5 ok" in done.stdout
    assert "1 line of the input left out" in done.stdout


def test_a_flipped_byte_in_what_was_gathered_is_judged_again(folder, monkeypatch):
    from lightningrl.evaluation import scoring

    write(folder / "g.jsonl", [full_row(n, correct=n % 3 > 0) for n in range(30)])
    score("g.jsonl", "--out", "first.jsonl")
    monkeypatch.setattr(scoring, "partial_path", lambda out: out.with_name("kept.partial"))
    path_type, unlink = type(folder), type(folder).unlink
    monkeypatch.setattr(path_type, "unlink", lambda p, **k: None if p.name == "kept.partial" else unlink(p, **k))
    score("g.jsonl", "--out", "second.jsonl")
    data = (folder / "kept.partial").read_bytes()
    (folder / "kept.partial").write_bytes(data.replace(b'"correct":false', b'"correct":true ', 1))
    assert score("g.jsonl", "--out", "third.jsonl").exit_code == 0
    assert (folder / "third.jsonl").read_bytes() == (folder / "first.jsonl").read_bytes()


def test_prompts_go_out_without_gold_and_answers_come_back(folder):
    arguments = ["prompts", "--benchmark", "gsm-mini", "--data", "test.jsonl", "--limit", "5"]
    done = CliRunner().invoke(app, arguments)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == [example.uid for example in PROBLEMS[:5]]
    assert all(set(row) == {"id", "messages"} for row in rows)
    assert CliRunner().invoke(app, [*arguments, "--out", "p.jsonl"]).exit_code == 0
    assert read(folder / "p.jsonl") == rows
    write(folder / "a.jsonl", [{"id": row["id"], "text": RIGHT[n]} for n, row in enumerate(rows)])
    assert "accuracy 100.0 %" in score("a.jsonl", "--out", "r.jsonl", "--limit", "5").stdout


def test_missing_problems_are_said_and_the_denominator_too(folder):
    write(folder / "g.jsonl", [full_row(n) for n in range(15)] + [{"id": PROBLEMS[20].uid, "error": "too long"}])
    done = score("g.jsonl", "--out", "r.jsonl")
    assert done.exit_code == 0
    assert "15 of 30 problems have no response" in done.stdout and "it is 50.0 %" in done.stdout
    assert "1 line of the input left out" in done.stdout


def test_a_backspace_where_a_box_was_meant_is_noted(folder):
    line = '{{"uid": "{}", "response": "{}"}}\n'
    texts = [r"\\boxed{1}", r"\boxed{27}", r"\boxed{28}"]  # as they stand in the file
    lines = [line.format(e.uid, text) for e, text in zip(PROBLEMS, texts, strict=False)]
    for count, said in ((3, "2 responses (first: line 2) have a backspace"), (2, "the response in line 2 has a")):
        (folder / "hand.jsonl").write_text("".join(lines[:count]))
        done = score("hand.jsonl", "--out", "r.jsonl", "--overwrite")
        assert said in done.stderr and "write \\\\boxed" in done.stderr
    (folder / "hand.jsonl").write_text(lines[0])
    done = score("hand.jsonl", "--out", "r.jsonl", "--overwrite")
    assert "backspace" not in done.output and "1 response to 1 problem: 1 wrong" in done.stdout


UID = "gsm-mini/test/00001"
BAD = {
    "an unknown uid": ({"uid": "gsm-mini/test/99999", "response": "x"}, "1 response to other problems than the 30"),
    "no text": ({"uid": UID, "answer": "private"}, "and `response` or `text` (a text); found the keys: answer, uid"),
    "no uid": ({"response": "x"}, "line 2: expected `uid` or `id` (a text, or a whole number from 0) and"),
    "an id that is no whole number": ({"id": 6.0, "response": "x"}, "found the keys: id (6.0), response"),
    "a negative id": ({"id": -1, "response": "x"}, "found the keys: id (-1), response"),
    "no keys": ({}, "found the keys: none"),
    "not JSON": ("{", "line 2: this is not JSON"),
    "a list": ([1], "found list, expected an object"),
    "a count that is none": ({"uid": UID, "response": "x", "response_tokens": 0}, "response_tokens is 0"),
    "a response twice": ({"uid": "gsm-mini/test/00000", "response": "y"}, "is in line 1 already"),
    "a threshold that is none": ({"uid": UID, "response": "x", "threshold": "high"}, "threshold is"),
}


@pytest.mark.parametrize("title", BAD)
def test_bad_lines_are_named(folder, title):
    row, message = BAD[title]
    bad = row if isinstance(row, str) else json.dumps(row)
    (folder / "x.jsonl").write_text(json.dumps({"uid": PROBLEMS[0].uid, "response": "4"}) + "\n" + bad + "\n")
    done = score("x.jsonl", "--out", "r.jsonl")
    assert done.exit_code == 2 and message in done.stderr and "private" not in done.stderr, done.stderr
    assert not (folder / "r.jsonl").exists()


def test_a_file_without_a_text_is_said_to_be_one(folder):
    write(folder / "x.jsonl", [{"uid": e.uid, "response": None} for e in PROBLEMS[:2]])
    assert "x.jsonl has no response with a text in its 2 lines" in score("x.jsonl", "--out", "r.jsonl").stderr


def test_what_is_there_is_not_written_over_unasked(folder):
    write(folder / "g.jsonl", [full_row(n) for n in range(30)])
    given = (folder / "g.jsonl").read_bytes()
    done = score("g.jsonl", "--out", "g.jsonl", "--overwrite")
    assert done.exit_code == 2 and "is the input" in done.stderr and (folder / "g.jsonl").read_bytes() == given
    (folder / "r.jsonl").write_text("precious\n")
    done = score("g.jsonl", "--out", "r.jsonl")
    assert done.exit_code == 2 and "--overwrite" in done.stderr
    assert (folder / "r.jsonl").read_text() == "precious\n"
    assert score("g.jsonl", "--out", "r.jsonl", "--overwrite").exit_code == 0
    assert len((folder / "r.jsonl").read_text().splitlines()) == 30


JUDGE = """
import time
from dataclasses import replace
from pathlib import Path
from lightningrl.benchmarks.gsm_mini import GsmMini
from lightningrl.judges.boxed_answer import BoxedJudge

partial = Path("r.jsonl.partial")

class SlowJudge(BoxedJudge):
    def judge(self, examples, responses):
        while Path("gate").exists() and partial.exists() and partial.stat().st_size > 2000:
            time.sleep(0.01)
        with open("judged", "a") as log:
            log.write("." * len(responses))
        return [replace(verdict, detail="first") for verdict in super().judge(examples, responses)]

class Slow(GsmMini):
    judge = "slow_benchmark:SlowJudge"

SLOW = Slow()
"""


def test_killed_it_goes_on_from_what_was_judged_but_not_from_verdicts_of_another_judge(folder):
    (folder / "slow_benchmark.py").write_text(JUDGE)
    write(folder / "g.jsonl", [full_row(n) | {"sample": s} for n in range(30) for s in range(20)])
    command = [sys.executable, "-m", "lightningrl", "score", "g.jsonl", "--benchmark", "slow_benchmark:SLOW"]
    command += ["--data", "test.jsonl", "--out", "r.jsonl", "--overwrite"]
    environment = os.environ | {"PYTHONPATH": f"{PACKAGE.parent}:{folder}"}
    (folder / "gate").touch()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = folder / "r.jsonl.partial"
    wait_for(lambda: (partial.exists() and partial.stat().st_size > 2000) or process.poll() is not None, "some rows")
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder / "gate").unlink()
    kept = partial.read_bytes()
    assert len(kept) > 2000 and not (folder / "r.jsonl").exists()
    judged = {}
    for detail in ("first", "second"):
        (folder / "slow_benchmark.py").write_text(JUDGE.replace("first", detail))
        partial.write_bytes(kept[:-7])  # and the disk lost the end of a line
        (folder / "judged").unlink()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_S)
        assert done.returncode == 0, done.stderr
        rows = read(folder / "r.jsonl")
        assert len(rows) == 600 and [row["sample"] for row in rows[:20]] == list(range(20))
        assert {row["detail"] for row in rows} == {detail} and not partial.exists()
        judged[detail] = (folder / "judged").stat().st_size
    assert judged["first"] < judged["second"] == 600 + 3 * 30  # the self-check's answers, too


def records_of(correct_by_threshold, forwards):
    return [
        full_row(n, n < correct, threshold, forwards[threshold])
        for threshold, correct in correct_by_threshold.items() for n in range(30)
    ]  # fmt: skip


def test_two_models_are_compared_on_the_same_problems(folder):
    write(folder / "base.jsonl", records_of({0.7: 27, 0.9: 28}, {0.7: 10, 0.9: 15}))
    write(folder / "fast.jsonl", records_of({0.7: 26, 0.9: 28}, {0.7: 4, 0.9: 5}))
    for name in ("base", "fast"):
        (folder / name).mkdir()
        assert score(f"{name}.jsonl", "--out", f"{name}/records.jsonl").exit_code == 0
    done = CliRunner().invoke(app, ["compare", "base/records.jsonl", "fast/records.jsonl", "--bootstrap", "200"])
    assert done.exit_code == 0, done.output
    base, fast = done.stdout.splitlines()
    assert base.startswith("base: accuracy 93.3") and "TPF 1.33" in base and "against the base" not in base
    assert "TPF +2.67 [+2.67, +2.67], anchored" in fast  # 20/5 - 20/15 in every problem, so in every replicate
    assert "TPF 4.00" in fast and "against the base +0.0 [+0.0, +0.0] points" in fast
    rows = [EvalRecord.from_json(row) for row in read(folder / "fast/records.jsonl")]
    expected = aup(problem_sums(rows).points(), 100 * 28 / 30)
    assert f"AUP {expected:.1f} [" in fast and "y_max 93.3, y_min 88.3" in fast


def test_files_of_one_name_are_told_apart_and_other_problems_refused(folder):
    write(folder / "a.jsonl", [full_row(n) for n in range(30)])
    write(folder / "s1.out.jsonl", [full_row(n) for n in range(29)])
    for name in ("a", "s1.out"):
        score(f"{name}.jsonl", "--out", f"{name}.records.jsonl")
    (folder / "a.records.jsonl").rename(folder / "records.jsonl")
    done = CliRunner().invoke(app, ["compare", "records.jsonl", "./records.jsonl", "--bootstrap", "100"])
    assert done.stdout.startswith("records (file 1): accuracy") and "\nrecords (file 2): accuracy" in done.stdout
    done = CliRunner().invoke(app, ["compare", "records.jsonl", "s1.out.records.jsonl"])
    assert "error: s1.out.records on gsm-mini covers other problems than records (29 against 30" in done.stderr


def test_without_counts_accuracy_alone_is_compared_and_other_files_are_refused(folder):
    write(folder / "a.jsonl", [full_row(n) for n in range(30)])
    write(folder / "b.jsonl", [{"uid": e.uid, "response": "x"} for e in PROBLEMS])
    for name in ("a", "b"):
        score(f"{name}.jsonl", "--out", f"{name}.records.jsonl")
    done = CliRunner().invoke(app, ["compare", "a.records.jsonl", "b.records.jsonl", "--bootstrap", "100"])
    assert done.exit_code == 0, done.stderr
    assert [line.partition(": accuracy")[0] for line in done.stdout.splitlines()[:2]] == ["a.records", "b.records"]
    base, other, note = done.stdout.splitlines()
    assert "accuracy 100.0" in base and "against the base -100.0" in other and "note: no TPF and no AUP" in note
    assert "TPF" not in base + other and "AUP" not in base + other
    done = CliRunner().invoke(app, ["compare", "a.jsonl", "a.records.jsonl"])
    assert done.exit_code == 2 and "these are no records" in done.stderr
