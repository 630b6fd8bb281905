"""Plug-ins reach the tools that take a checkpoint and no experiment: its family, the decoder's pieces, benchmarks."""

import json
from pathlib import Path

import pytest
from fixtures.byte_checkpoint import save_byte_checkpoint
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.inference.jsonl import make_settings, read_prompts
from lightningrl.inference.llm import LLM
from lightningrl.inference.policy import policy_of
from lightningrl.models.families import registry

NAMES = "colourbench.names"
PLUGINS = ["--plugins", NAMES]
GAP = ["--selector", "gap", "--threshold", "0.2"]
WINDOW = ["--schedule", "window", "--schedule-options", '{"width": 4}']
SUMS = ["--benchmark", "sums", "--limit", "2"]


@pytest.fixture
def tint(tmp_path, monkeypatch):
    """A checkpoint of an outside family, in a process that has not met it."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "fixtures" / "thirdparty")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "PLUGGED", {"tint": "colourbench.tint:Tint"})
    save_byte_checkpoint(tmp_path / "tint", block_size=16, family="tint", attention="full", qk_norm=False)
    config = json.loads((tmp_path / "tint/config.json").read_text())  # which outside families need not write
    (tmp_path / "tint/config.json").write_text(json.dumps(config | {"block_size": 16, "mask_token_id": 259}))
    registry.PLUGGED.clear()


def run(*words, **options):
    return CliRunner().invoke(app, list(words), **options)


def fine(*words, **options):
    done = run(*words, **options)
    assert done.exit_code == 0, (done.stderr, done.exception)
    return done.stdout


@pytest.mark.usefixtures("tint")
def test_every_tool_takes_a_family_and_pieces_from_outside():
    words = [*PLUGINS, *GAP, *WINDOW, "--max-new-tokens", "16"]
    row = json.loads(fine("generate", "tint", "--prompt", "What is 1 + 2?", *words))
    assert row["stop"] in ("eos", "length") and row["denoise_forwards"] <= row["response_tokens"]
    assert (
        "gap 0.2"
        in fine("trace", "tint", "What is 1 + 2?", *words, "--out", "page.html") + Path("page.html").read_text()
    )
    assert fine("chat", "tint", *words, input="What is 1 + 2?\n").strip()
    fine("evaluate", "tint", *SUMS, *words, "--out", "sums")
    settings = json.loads(Path("sums/run.json").read_text())["settings"]
    assert settings["policy"]["selector"] == "colourbench.gap:Gap", "what the name stands for is what results depend on"
    assert len(Path("sums/records.jsonl").read_text().splitlines()) == 2
    [completion] = LLM("tint", plugins=NAMES).generate(
        ["What is 1 + 2?"], policy_of("gap", 0.2, plugins=[NAMES], schedule="window", schedule_options={"width": 4}),
        max_new_tokens=16,
    )  # fmt: skip
    assert completion.text == row["text"]


@pytest.mark.usefixtures("tint")
def test_published_decoders_are_held_to_a_family_from_outside():
    assert "Decoders that fit it" in run("generate", "tint", "--prompt", "x", *PLUGINS, "--decoder", "mbd").stderr
    assert "fast_dllm_v1_dual" in fine("decoders", "tint", *PLUGINS)


@pytest.mark.usefixtures("tint")
def test_prompts_and_scores_of_a_benchmark_from_outside():
    fine("prompts", *SUMS, *PLUGINS, "--out", "prompts.jsonl")
    rows = [json.loads(line) for line in Path("prompts.jsonl").read_text().splitlines()]
    answers = [{"uid": row["id"], "response": "\\boxed{0}"} for row in rows]
    Path("answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    assert "accuracy 0.0 %" in fine("score", "answers.jsonl", *SUMS, *PLUGINS, "--out", "records.jsonl")
    assert "sums" in fine("bench", "judges", *SUMS, *PLUGINS, "--workers", "1")
    assert "there is no benchmark 'sums'" in run("prompts", *SUMS).stderr


@pytest.mark.usefixtures("tint")
def test_a_checkpoint_of_an_unknown_family_says_what_it_needs():
    lacking = run("generate", "tint", "--prompt", "x").stderr
    assert "model_type is 'tint', expected one of " in lacking and ". The family of another package needs" in lacking
    assert "--plugins MODULE" in lacking
    for plugins, told in (
        ([NAMES], f"was made with plug-ins: give --plugins {NAMES}, or"),
        (["x; rm -r ~"], "--plugins MODULE"),
        (None, "--plugins MODULE"),
    ):
        Path("tint/manifest.json").write_text(json.dumps({"run": {"plugins": plugins}}))
        with pytest.raises(CheckpointError, match=told):
            LLM("tint")


@pytest.mark.usefixtures("tint")
def test_a_plugin_that_cannot_be_used_is_told_by_its_option(monkeypatch):
    for verb in (
        ["generate", "tint", "--prompt", "x"],
        ["prompts", *SUMS],
        ["chat", "tint"],
        ["decoders"],
        ["bench", "gpu"],
    ):
        told = run(*verb, *PLUGINS, "--plugins", "nobodys_names").stderr
        assert "--plugins: nobodys_names:MEMBERS: no module 'nobodys_names'; install it or put it on PYTHONPATH" in told
        assert "--plugins: found 'names.py'" not in told
    assert (
        "--plugins: found './names.py', expected the dotted name"
        in run("chat", "tint", "--plugins", "./names.py").stderr
    )
    monkeypatch.setitem(registry.PLUGGED, "tint", "another.place:Tint")
    with pytest.raises(ConfigError, match=r"'tint' is read by another\.place:Tint in this process, so not by colour"):
        LLM("tint", plugins=[NAMES])


@pytest.mark.usefixtures("tint")
def test_a_line_may_name_what_the_command_lines_plugins_add_and_no_plugin_of_its_own():
    Path("in.jsonl").write_text(
        '{"prompt": "x", "selector": "gap"}\n{"prompt": "x", "plugins": ["os"]}\n'
        '{"prompt": "x", "selector": "colourbench.gap:Gap"}\n'
    )
    gap, own, code = read_prompts("in.jsonl", make_settings(), [NAMES])
    assert gap.spec is not None and gap.spec.selector == "colourbench.gap:Gap"
    assert "unknown key 'plugins'" in own.error and "is code" in code.error
    [unknown, *_] = read_prompts("in.jsonl", make_settings())
    with pytest.raises(ConfigError, match="there is no selector 'gap'"):
        policy_of(**unknown.spec.policy_arguments())
