"""No verb writes over what is there unasked, and every verb that writes where it is told has a test here."""

import os

import pytest
from fixtures.traced import save_tiny
from typer.main import get_command
from typer.testing import CliRunner

from lightningrl.benchmarks.gsm_mini import GSM_MINI
from lightningrl.benchmarks.protocol import example_to_json
from lightningrl.cli.app import app
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.utils import files

PROBLEM = GSM_MINI.load({"test": 1}, 0)["test"][0]
CONFIG = PACKAGE.parent / "config" / "nano.yaml"
SMALL = ["--size", "miniature", "--new-tokens", "8", "--prompt-tokens", "8", "--repeats", "1", "--threads", "1"]
COMMANDS = {
    "prompts": ["prompts", "--benchmark", "gsm-mini", "--data", "test.jsonl"],
    "score": ["score", "answers.jsonl", "--benchmark", "gsm-mini", "--data", "test.jsonl"],
    "trace": ["trace", "model", "How many cups? 3 pens", "--max-new-tokens", "4", "--preset", "entropy_bounded"],
    "plan": ["plan", "--config", str(CONFIG)],
    "bench decode": ["bench", "decode", *SMALL, "--batch", "1"],
    "bench train": ["bench", "train", *SMALL, "--block-size", "4"],
    "bench rollouts": ["bench", "rollouts", *SMALL, "--prompts", "1", "--responses", "2", "--max-rounds", "1"],
    "bench turn": ["bench", "turn", "--new-tokens", "8", "--prompt-tokens", "8", "--repeats", "1", "--block-size", "4"],
}
OTHERWISE = {
    "generate": "goes on with its own file, tests/inference/test_generate_again.py",
    "evaluate": "goes on with its own folder, test_an_evaluation_does_not_write_over_other_records",
    "harness": "goes on with its own folder, tests/inference/test_harness.py",
    "pin": "adds to its own file and refuses any other, tests/pipeline/test_pin.py",
    "export": "refuses, tests/quantization/test_export_verb.py",
    "redraw": "refuses, tests/pipeline/test_results_verbs.py",
    "bench phases": "as its siblings, after a whole training",
    "bench states": "as its siblings, with a trained checkpoint",
    "bench gpu": "goes on with its own folder, tests/bench/test_gpu_check.py",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_jsonl(tmp_path / "test.jsonl", [example_to_json(PROBLEM)])
    files.write_jsonl(tmp_path / "answers.jsonl", [{"uid": PROBLEM.uid, "response": "\\boxed{1}"}])
    return tmp_path


def run(*words):
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


@pytest.mark.parametrize("title", COMMANDS)
def test_what_is_there_stays_unless_it_is_asked_to_go(folder, title):
    if title == "trace":
        save_tiny(folder / "model", 0)
    beside = "out.summary.json" if title == "score" else "out"
    for name in {"out", beside}:
        (folder / name).write_text("precious\n")
        done = run(*COMMANDS[title], "--out", "out")
        assert done.exit_code == 2 and f"{name} already exists; name another file, or give --overwrite" in done.stderr
        assert (folder / name).read_text() == "precious\n"
        (folder / name).unlink()
    (folder / "out").write_text("precious\n")
    assert run(*COMMANDS[title], "--out", "out", "--overwrite").exit_code in (0, 1)
    assert (folder / "out").read_text() != "precious\n"
    assert "is a folder; name a file" in run(*COMMANDS[title], "--out", ".", "--overwrite").stderr


def test_what_is_read_is_never_written(folder):
    for title, path in (("score", "answers.jsonl"), ("prompts", "test.jsonl")):
        before = (folder / path).read_bytes()
        assert "is the input; name another file" in run(*COMMANDS[title], "--out", path, "--overwrite").stderr
        assert (folder / path).read_bytes() == before


def test_an_evaluation_does_not_write_over_other_records(folder):
    save_tiny(folder / "model", 0)
    (folder / "there").mkdir()
    (folder / "there" / "records.jsonl").write_text("precious\n")
    words = ["--benchmark", "gsm-mini", "--data", "test.jsonl", "--max-new-tokens", "4", "--out", "there"]
    done = run("evaluate", "model", *words)
    assert done.exit_code == 2 and "records.jsonl already exists, and was not made here" in done.stderr, done.stderr
    assert (folder / "there" / "records.jsonl").read_text() == "precious\n"


def test_every_verb_that_writes_where_it_is_told_is_looked_at():
    group, found = get_command(app), {}
    for name in [*group.commands]:
        verb = group.resolve_command(None, [name])[1]
        found |= {f"{name} {sub}": each for sub, each in vars(verb).get("commands", {}).items()} or {name: verb}
    assert {n for n, verb in found.items() if any("--out" in p.opts for p in verb.params)} == {*COMMANDS, *OTHERWISE}


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_what_is_no_ordinary_file_is_not_replaced_by_one(folder, overwrite):
    os.mkfifo(folder / "pipe")
    done = run(*COMMANDS["prompts"], "--out", "pipe", *overwrite)
    assert done.exit_code == 2 and "pipe is no ordinary file" in done.stderr and (folder / "pipe").is_fifo()
    (folder / "link").symlink_to("elsewhere")  # a link to nothing
    done = run(*COMMANDS["prompts"], "--out", "link")
    assert done.exit_code == 2 and "link already exists" in done.stderr and (folder / "link").is_symlink()


def test_the_help_of_every_option_is_a_sentence_with_its_subject():
    group = get_command(app)
    for name in [*group.commands]:
        verb = group.resolve_command(None, [name])[1]
        for each in [verb, *vars(verb).get("commands", {}).values()]:
            told = [(name, param.opts, param.help) for param in each.params if getattr(param, "help", None)]
            assert not [one for one in told if one[2].startswith("Of ") or "eft out:" in one[2]], each.name
