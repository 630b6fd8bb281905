"""`lightningrl evaluate --endpoint`: a server judged without an experiment; killed at any moment it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from fixtures.held import heed_ctrl_c
from fixtures.limits import HANG_S, wait_for
from fixtures.openai_server import reply, serve
from typer.testing import CliRunner

from lightningrl.benchmarks.gsm_mini import GSM_MINI
from lightningrl.benchmarks.protocol import PromptOptions, example_to_json
from lightningrl.cli.app import app
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.utils import files

PROBLEMS = GSM_MINI.load({"test": 24}, 0)["test"]
GOLD = {GSM_MINI.render(e, PromptOptions())[-1]["content"]: e.gold["answer"] for e in PROBLEMS}
SECRET = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    files.write_jsonl(tmp_path / "test.jsonl", map(example_to_json, PROBLEMS))
    return tmp_path


def right(call):
    return reply(f"so \\boxed{{{GOLD[call.prompt]}}}", tokens=8, choice={"meta_info": {"spec_verify_ct": 4}})


def words(server, *more, out="out"):
    asked = ["--endpoint", server.url, "--model", "served", "--benchmark", "gsm-mini", "--data", "test.jsonl"]
    return ["evaluate", *asked, "--out", out, "--max-new-tokens", "32", *more]


def run(server, *more, out="out"):
    return CliRunner().invoke(app, words(server, *more, out=out), catch_exceptions=False)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_server_is_judged_and_says_what_it_says(folder):
    with serve(right) as server:
        done = run(server, "--temperature", "0.5", "--seed", "3", "--extra-body", '{"top_p": 0.9}', "--limit", "6")
        assert done.exit_code == 0, done.output
        bodies = [call.body for call in server.calls]
        assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in bodies} == {(0.5, 0.9, 32)}
        assert "accuracy 100.0 %" in done.stdout and "TPF unknown" in done.stdout
        assert "by the server's word: TPF 2.00 (6 answers with counts), 8.0 tokens per answer" in done.stdout
        again = run(server, "--temperature", "0.5", "--seed", "3", "--extra-body", '{"top_p": 0.9}', "--limit", "6")
        assert again.stdout == done.stdout and len(server.calls) == 6  # nothing is asked twice
        for more in ([], ["--temperature", "0.5", "--limit", "6"]):
            other = run(server, *more)
            assert other.exit_code == 2 and "holds an evaluation with another" in other.stderr
        assert len(server.calls) == 6
    assert len(read(folder / "out" / "records.jsonl")) == 6
    facts = files.read_json(folder / "out" / "run.json")
    assert facts["settings"]["endpoint"]["model"] == "served" and len(facts["replies"]) == 6, "of the run that asked"
    assert files.read_json(folder / "out" / "selfcheck.json")["official"]["pct"] == 100.0


def test_answers_that_were_read_in_another_way_are_asked_for_again(folder):
    def answer(call):
        return None if call.number == 6 and call.send(401, "no") is None else right(call) | {"my": {"fw": 2}}

    with serve(answer) as server:
        first = run(server, "--limit", "6", "--concurrency", "1")
        assert first.exit_code != 0
        done = run(server, "--limit", "6", "--forwards-at", "my.fw")
        assert done.exit_code == 0 and "TPF 4.00 (6 answers with counts)" in done.stdout, done.output
    assert {row["reported"]["forwards"] for row in read(folder / "out" / "records.jsonl")} == {2}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--selector", "quota"], "--selector: a server decodes in its own way"),
        (["--threshold", "0.5", "--threshold", "0.9"], "the server takes none"),
        (["--parameter", "steps"], "say its values with --threshold"),
        (["--extra-body", "{"], "--extra-body"),
        (["--extra-body", '{"seed": 1}'], "set by seed"),
        (["--extra-body", '{"top_p": NaN}'], "not finite"),
        (["--parameter", "steps", "--threshold", "nan"], "--threshold"),
        (["--stop-texts", "x"], "expected a list of texts as JSON"),
        (["--completions"], "name the `tokenizer`"),
        (["--completions", "--tokenizer", "nowhere"], "nowhere is no tokenizer's folder"),
        (["--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["--style", "nope"], "style: found 'nope'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_asked(folder, more, message):
    with serve(right) as server:
        done = run(server, *more)
        assert done.exit_code == 2 and message in done.stderr and server.calls == [], done.stderr
    assert not (folder / "out" / "records.jsonl").exists()


def test_options_of_an_endpoint_need_one():
    for asked, message in (
        (["--retries", "3"], "an endpoint needs --endpoint"),
        (["--endpoint", "http://127.0.0.1:1/v1"], "an endpoint needs --model"),
        (["--endpoint", "http://127.0.0.1:1/v1", "--model", "x"], "say --benchmark and --out"),
        (["folder", "--endpoint", "http://127.0.0.1:1/v1", "--model", "x"], "one of them answers"),
    ):
        done = CliRunner().invoke(app, ["evaluate", *asked])
        assert done.exit_code == 2 and message in done.stderr, done.stderr


def test_several_thresholds_are_a_sweep_of_the_servers_parameter(folder):
    def answer(call):
        text = GOLD[call.prompt] if call.body["steps"] == 8 else "nothing"
        return reply(f"so \\boxed{{{text}}}", tokens=8, choice={"meta_info": {"spec_verify_ct": call.body["steps"]}})

    with serve(answer) as server:
        done = run(server, "--parameter", "steps", "--threshold", "8", "--threshold", "2", "--limit", "3")
    assert done.exit_code == 0, done.output
    slow, fast = (line for line in reversed(done.stdout.splitlines()) if line.startswith("threshold"))
    assert slow.startswith("threshold 8: accuracy 100.0 %") and fast.startswith("threshold 2: accuracy 0.0 %")
    summaries = files.read_json(folder / "out" / "summary.json")
    assert [summary["reported"]["tpf_reported"] for summary in summaries] == [4.0, 1.0]


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_killed_it_goes_on_and_asks_for_nothing_twice(folder, kill, monkeypatch):
    """The server holds its breath after nine answers; the client is killed; the next one asks for the other 15."""
    held = threading.Event()
    monkeypatch.setenv("TOY_KEY", SECRET)

    def answer(call):
        if call.number > 9:
            held.wait(HANG_S)
        return right(call)

    journal = folder / "out" / "state" / "replies-0.jsonl"
    with serve(answer) as server:
        more = ["--concurrency", "3", "--api-key-env", "TOY_KEY"]
        with (folder / "log").open("w") as log:
            first = subprocess.Popen(
                [sys.executable, "-m", "lightningrl", *words(server, *more)], stdout=log, stderr=log,
                env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)}, preexec_fn=heed_ctrl_c,
            )  # fmt: skip

        def is_held():
            assert first.poll() is None, (folder / "log").read_text()
            return len(server.calls) == 12 and journal.read_bytes().count(b"\n") == 9

        wait_for(is_held, lambda: (folder / "log").read_text())
        first.send_signal(kill)
        first.wait(HANG_S)
        kept = {json.loads(line.partition(" ")[2])["uid"] for line in journal.read_text().splitlines()}
        assert len(kept) == 9 and not (folder / "out" / "records.jsonl").exists()
        held.set()
        before = len(server.calls)
        done = run(server, *more)
        assert done.exit_code == 0, done.output
        asked = {GOLD_UID[call.prompt] for call in server.calls[before:]}
        assert len(server.calls) - before == 15 and not asked & kept
    records = read(folder / "out" / "records.jsonl")
    assert [record["uid"] for record in records] == [example.uid for example in PROBLEMS]
    assert all(record["correct"] for record in records)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert SECRET not in path.read_text(), path


GOLD_UID = {GSM_MINI.render(e, PromptOptions())[-1]["content"]: e.uid for e in PROBLEMS}
