"""`lightningrl trace` from end to end, on checkpoints of random weights."""

import pytest
from fixtures.traced import save_tiny
from typer.testing import CliRunner

from lightningrl.cli.app import app

PROMPT = "How many cups? 3 pens"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return [save_tiny(root / "base-0a1b2c3d", 0), save_tiny(root / "after-4e5f6a7b", 1, max_position_embeddings=70)]


def run(*arguments, **kwargs):
    return CliRunner().invoke(app, ["trace", *map(str, arguments)], **kwargs)


def test_one_model_in_the_terminal(folders):
    done = run(folders[0], PROMPT, "--threshold", "0.12", "--max-new-tokens", "12")
    assert done.exit_code == 0, done.output
    assert PROMPT in done.output and "base  " in done.output and "tokens per forward" in done.output
    assert "threshold 0.12, greedy" in done.output and "\x1b" not in done.output


@pytest.mark.parametrize(("setting", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_a_terminal_gets_colours_unless_it_has_none_or_they_are_refused(folders, setting, coloured):
    terminal = {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm-256color", "NO_COLOR": None}
    done = run(folders[0], PROMPT, "--max-new-tokens", "4", env=terminal | setting)
    assert ("48;2;" in done.output, "subscript" in done.output) == (coloured, not coloured)


def test_two_models_on_a_page_the_same_one_each_time(folders, tmp_path):
    pages = []
    for name in ("one.html", "deeper/two.html"):
        out = tmp_path / name
        done = run(folders[0], PROMPT, "--against", folders[1], "--out", out, "--temperature", 1, "--seed", 4)
        assert done.exit_code == 0, done.output
        assert done.output.rstrip().endswith(f"page: {out}")
        pages.append(out.read_bytes())
    assert pages[0] == pages[1]
    assert b"<title>Trace: base and after</title>" in pages[0]


def test_versions_of_one_name_keep_their_keys_and_the_prompt_may_come_from_standard_input(folders, tmp_path):
    other = save_tiny(tmp_path / "base-ffffffff", 2)
    done = run(folders[0], "-", "--against", other, "--max-new-tokens", "4", input=PROMPT + "\n")
    assert PROMPT in done.output and "base-0a1b2c3d  " in done.output and "base-ffffffff  " in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((" ",), "the prompt is empty"),
        (("How many zebras?",), "does not know 'zebras'"),
        ((PROMPT, "--selector", "none"), "there is no selector 'none'"),
        ((PROMPT, "--max-new-tokens", "5000"), "shorten the prompt or max_new_tokens"),
        ((PROMPT, "--against", "nowhere"), "nowhere does not exist; give the folder of a checkpoint"),
    ],
)
def test_errors_are_for_people(folders, arguments, message):
    done = run(folders[0], *arguments)
    assert done.exit_code == 2
    assert message in done.output and "Traceback" not in done.output
