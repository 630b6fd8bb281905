"""`lightningrl chat` and the conversation behind it: block by block, in order, interrupted and gone on with."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from fixtures.held import heed_ctrl_c
from fixtures.limits import HANG_S
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.errors import DecodeError
from lightningrl.inference.conversation import Conversation
from lightningrl.inference.policy import policy_of
from lightningrl.pipeline.code_digest import PACKAGE


def run(model, *lines, options=()):
    arguments = ["chat", str(model), "--max-new-tokens", "17", *options]
    return CliRunner().invoke(app, arguments, input="".join(line + "\n" for line in lines))


def asked(conversation, text, policy=None):
    seen = []
    trajectory = conversation.answer(text, policy or policy_of(), lambda text, draft: seen.append((text, draft)))
    return trajectory, seen


# The conversation


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("stop", ["finish_block", "inside_block"])
def test_the_shown_text_only_grows_and_is_the_answer(llm, temperature, stop):
    for question in ("Hi", "漢"):
        conversation = Conversation(llm, max_new_tokens=40)
        trajectory, seen = asked(conversation, question, policy_of(parameter=0.3, temperature=temperature, stop=stop))
        text = llm.text(trajectory)
        for (earlier, _), (later, _) in pairwise(seen):
            assert later.startswith(earlier)
        assert text.startswith(seen[-1][0])
        assert conversation.messages == [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
        assert len(seen) == trajectory.stats.denoise_forwards


def test_a_draft_has_a_place_for_every_token_of_the_active_block(llm):
    trajectory, seen = asked(Conversation(llm, max_new_tokens=17), "Hi")
    first = llm.model.config.block_size - len(trajectory.prompt_ids) % 4
    assert len(seen[0][1]) == first
    masked = [sum(piece is None for piece in draft) for _, draft in seen[:first]]
    assert masked == list(range(first))[::-1]  # greedy at 0.9, random weights: one token a forward


def test_an_answer_is_that_of_the_whole_conversation(llm):
    conversation = Conversation(llm, max_new_tokens=9, system="Be brief.")
    for question in ("one", "two"):
        before = list(conversation.messages)
        trajectory, _ = asked(conversation, question)
        messages = [{"role": "system", "content": "Be brief."}, *before, {"role": "user", "content": question}]
        [expected] = llm.generate([messages], policy_of(), max_new_tokens=9)
        assert trajectory.token_ids.tolist() == expected.trajectory.token_ids.tolist()
    assert [turn["role"] for turn in conversation.messages] == ["user", "assistant"] * 2


def test_the_same_question_is_drawn_anew_and_the_session_can_be_repeated(llm):
    def session():
        conversation, policy = Conversation(llm, max_new_tokens=17), policy_of(temperature=1)
        found = []
        for _ in range(2):
            found.append(asked(conversation, "Hi", policy)[0].token_ids.tolist())
            conversation.clear()
        return found

    first, second = session()
    assert first != second
    assert session() == [first, second]


@pytest.mark.parametrize(("longer_than", "turns"), [(9, ["user", "assistant"]), (-1, [])])
def test_an_interrupted_answer_keeps_its_finished_blocks_and_without_one_is_forgotten(llm, longer_than, turns):
    conversation, shown = Conversation(llm, max_new_tokens=50), []

    def show(text, draft):
        shown.append(text)
        if len(text) > longer_than:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.answer("Hi", policy_of(), show)
    assert [turn["role"] for turn in conversation.messages] == turns
    assert all(turn["content"] == shown[-1] for turn in conversation.messages[1:])
    asked(conversation, "Go on")
    assert len(conversation.messages) == len(turns) + 2


def test_answers_end_with_the_context_and_a_full_one_is_said(llm):
    conversation = Conversation(llm, max_new_tokens=10_000)
    trajectory, _ = asked(conversation, "Hi", policy_of(parameter=0.001))
    before = list(conversation.messages)
    if trajectory.stop == "length":
        assert len(trajectory.prompt_ids) + len(trajectory.token_ids) == 256
    with pytest.raises(DecodeError, match="no room for an answer is left"):
        asked(conversation, "x" * 256)
    assert conversation.messages == before


# The verb, its questions from a pipe


def test_questions_from_a_pipe_are_answered_line_by_line(model, llm):
    done = run(model, "Hi", "", " /new", "/new", "Hi", "/quit", "never asked")
    conversation = Conversation(llm, max_new_tokens=17)
    answers = []
    for question in ("Hi", "/new"):
        asked(conversation, question)
        answers.append(conversation.messages[-1]["content"])
    assert done.exit_code == 0
    assert done.stdout == "".join(answer + "\n" for answer in (*answers, answers[0]))
    assert done.stderr.count("tokens/s") == 3 and "19 tokens, 19 forwards, 1.00 TPF" in done.stderr


def test_settings_change_the_next_answer(model):
    done = run(model, "Hi", "/new", "/threshold 0.001", "Hi", "/new", "/temperature 1", "Hi", "/threshold", "/seed")
    slow, fast, drawn = [line for line in done.stderr.splitlines() if "forwards" in line]
    assert " 19 forwards" in slow and " 19 forwards" not in fast
    answers = done.stdout.split("\n")
    assert answers[1] != answers[2] and drawn
    assert done.stderr.splitlines()[-2:] == ["threshold is 0.001", "seed is 0"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/thresold 1", "there is no /thresold; did you mean /threshold?"),
        ("/", "there is no /; /help lists what there is"),
        ("/etc/passwd says?", "there is no /etc/passwd; /help lists"),
        ("/threshold 1.5", "threshold: a threshold is a probability within (0, 1], found 1.5"),
        ("/temperature hot", "could not convert string to float"),
        ("/top_p 2", "top_p is 2.0, expected more than 0 and at most 1"),
        ("/help", "/new                 forget the conversation"),
        ("x" * 300, "error: the conversation has 319 tokens, the model's context 256"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_chat_goes_on(model, line, message):
    done = run(model, line, "Hi")
    assert done.exit_code == 0
    assert message in done.stderr and "tokens/s" in done.stderr


def test_the_last_line_needs_no_newline_and_any_bytes_are_text_and_wrong_options_are_said_at_once(model):
    done = run("absent", options=["--top-p", "2"])
    assert done.exit_code == 2 and "top_p is 2.0" in done.stderr
    done = CliRunner().invoke(app, ["chat", str(model), "--max-new-tokens", "5"], input=b"\xff\x00 \xe6\xbc\xa2")
    assert done.exit_code == 0
    assert done.stderr.count("tokens/s") == 1


# On a terminal


def test_on_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_leaves(model, tmp_path):
    import fcntl
    import pty
    import termios

    (tmp_path / "gate").write_text("choices 3")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "lightningrl", "chat", str(model), "--max-new-tokens", "180"]
    command += ["--selector", "fixtures.held:Held"]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": f"{PACKAGE.parent}:{Path(__file__).parents[1]}", "TERM": "xterm", "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: (heed_ctrl_c(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )  # fmt: skip
    os.close(theirs)
    screen = b""

    def wait_for(what, pressing=b""):
        """Keys that are pressed meanwhile are pressed every two seconds: CPython's readline shows its prompt a moment
        before it listens to signals, and a Ctrl-C of that moment waits for the next key.
        """
        nonlocal screen
        end = time.monotonic() + HANG_S
        next_press = 0.0
        while what not in screen:
            assert time.monotonic() < end and process.poll() is None, (what, screen)
            if pressing and time.monotonic() > next_press:
                os.write(ours, pressing)
                next_press = time.monotonic() + 2
            if select.select([ours], [], [], 0.1)[0]:
                screen += os.read(ours, 65536)
        screen = screen.split(what, 1)[1]

    try:
        wait_for(b"> ")
        os.write(ours, b"Hi\n")
        wait_for("░".encode())
        os.write(ours, b"\x03")
        wait_for(b"stopped; the conversation continues")
        wait_for(b"> ")
        wait_for(b"/quit or Ctrl-D leaves", pressing=b"\x03")
        wait_for(b"> ")
        os.write(ours, b"\x04")
        assert process.wait(HANG_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
