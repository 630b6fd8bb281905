"""A LLaDA checkpoint through the tools: generate, decoders, chat, trace; what is refused before weights are read."""

import dataclasses
import io
import json

import numpy as np
import pytest
from fixtures.byte_checkpoint import save_byte_checkpoint
from rich.console import Console
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.decoding.presets import PRESETS, fitting
from lightningrl.decoding.reference import decode_one
from lightningrl.errors import DecodeError
from lightningrl.inference.conversation import Conversation
from lightningrl.inference.llm import LLM
from lightningrl.inference.policy import policy_of
from lightningrl.inference.trace import trace_of, trace_response
from lightningrl.inference.trace_text import render
from lightningrl.types import DecodeStats, Trajectory

LLADA = {"family": "llada", "attention": "full", "qk_norm": False, "head_dim": 4, "rms_norm_eps": 1e-5}
DUAL = {"schedule": "dual_cache", "stop": "whole_canvas"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_byte_checkpoint(tmp_path_factory.mktemp("llada") / "model", **LLADA)


@pytest.fixture(scope="module")
def llm(folder):
    return LLM(folder)


def run(*words):
    return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)


def test_generate_with_a_published_decoder_gives_what_the_reference_gives(folder, llm):
    for name in ("fast_dllm_v1_dual", "dparallel_llada", "llada"):
        done = run("generate", folder, "--prompt", "Hi", "--max-new-tokens", 12, "--decoder", name)
        assert done.exit_code == 0, done.output
        row, preset = json.loads(done.stdout.splitlines()[0]), PRESETS[name]
        pieces = dict(preset["decoding"])
        policy = policy_of(
            pieces.pop("selector"), preset["parameter"], pieces.pop("selector_options"), **pieces
        )  # fmt: skip
        expected = decode_one(llm.model, llm.request("Hi", uid="prompt/0", max_new_tokens=12), policy, llm.stop_ids)
        assert row["token_ids"] == expected.response_ids.tolist()
        assert row["denoise_forwards"] == expected.stats.denoise_forwards
        assert row["commit_forwards"] == row["prefill_forwards"] == 0


def test_decoders_that_do_not_fit_are_refused_before_a_weight_is_read_with_those_that_do(folder, tmp_path):
    sdar = save_byte_checkpoint(tmp_path / "sdar")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((folder / name).read_bytes())
    done = run("generate", bare, "--prompt", "Hi", "--preset", "sdar_dynamic")
    assert done.exit_code == 2 and "is for models with block_causal attention" in done.stderr
    assert "has full attention" in done.stderr and "fast_dllm_v1_dual" in done.stderr
    (sdar / "model.safetensors").unlink()
    done = run("generate", sdar, "--prompt", "Hi", "--decoder", "llada")
    assert done.exit_code == 2 and "sdar_dynamic" in done.stderr and "fast_dllm_v1_dual" not in done.stderr
    done = run("generate", bare, "--prompt", "Hi", "--decoder", "fast_dllm_dual")
    assert done.exit_code == 2 and "there is no preset 'fast_dllm_dual'" in done.stderr


def test_without_a_decoder_that_fits_the_error_names_those_that_do(folder, llm):
    with pytest.raises(DecodeError, match=r"attends to all later masks.*llada, .*fast_dllm_v1_dual"):
        llm.generate(["Hi"], max_new_tokens=8)


def test_two_names_for_the_decoder_are_refused_and_the_same_one_twice_is_not(folder):
    words = ("--prompt", "Hi", "--max-new-tokens", 8, "--no-tokens")
    for verb in (("generate", folder, *words), ("chat", folder), ("trace", folder, "Hi")):
        done = run(*verb, "--decoder", "llada", "--preset", "dparallel_llada")
        assert done.exit_code == 2 and "found llada, dparallel_llada: give one of them" in done.stderr
    done = run("generate", folder, *words, "--decoder", "llada", "--preset", "llada")
    assert done.exit_code == 0 and done.stdout == run("generate", folder, *words, "--decoder", "llada").stdout


def test_lengths_that_are_no_whole_blocks_or_too_long_fail_as_rows_and_leave_the_others_alone(folder, tmp_path):
    lines = [{"prompt": "a", "max_new_tokens": n, "id": str(n)} for n in (8, 10, 4000)]
    lines.append({"prompt": "a", "max_new_tokens": 8, "id": "fused", "schedule": "fused"})
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run("generate", folder, tmp_path / "in.jsonl", "--decoder", "fast_dllm_v1_prefix", "--block-size", 4)
    assert done.exit_code == 1, done.output
    rows = {row["id"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert "text" in rows["8"] and "10 new tokens are no whole blocks of 4" in rows["10"]["error"]
    assert "fused: FusedCommit(): the model attends to all later masks" in rows["fused"]["error"]
    assert "the model has 256" in rows["4000"]["error"]


def test_evaluate_without_a_length_takes_the_whole_blocks_that_the_model_has_room_for(folder, tmp_path):
    done = run(
        "evaluate", folder, "--benchmark", "gsm-mini", "--decoder", "llada", "--limit", "1", "--out", tmp_path / "o"
    )
    assert done.exit_code == 0, done.output


def test_the_verb_lists_every_decoder_with_what_it_needs_or_those_that_fit_a_model(folder):
    listed = run("decoders").stdout
    assert all(f"  {name} " in listed for name in PRESETS)
    assert "each position sees to the end of its own" in listed and "each position sees all of it" in listed
    fits = run("decoders", folder).stdout
    assert {name for name in PRESETS if f"  {name} " in fits} == set(fitting("full", False))
    assert run("decoders", folder.parent / "nowhere").exit_code == 2


def test_the_longest_answer_is_whole_blocks_behind_the_prompt(llm):
    policy = policy_of(**DUAL)
    for prompt in (1, 5, 251, 252):
        left = llm.tokens_left(prompt, policy)
        assert left % 4 == 0 and prompt + left <= 256 < prompt + left + 4
    assert llm.tokens_left(5) == 251, "a grid from the first position on"
    assert llm.tokens_left(9, policy, 30) == 28 and llm.tokens_left(9, None, 30) == 30
    long = policy_of("quota", 4, **DUAL, schedule_options={"block_size": 64})
    assert llm.request(np.arange(100), uid="x", policy=long).max_new_tokens == 128


def test_a_chat_shows_blocks_from_the_prompts_end_and_keeps_the_answer(llm):
    shown, conversation = [], Conversation(llm, max_new_tokens=12)
    found = conversation.answer("Hi", policy_of("quota", 2, **DUAL), lambda text, draft: shown.append((text, draft)))
    assert len(shown) == 6 and [len(draft) for _, draft in shown] == [4, 0] * 3
    assert len(found.prompt_ids) % 4, "or it would not tell one grid from the other"
    assert conversation.messages[-1]["content"] == llm.text(found)


def test_a_trace_counts_blocks_from_the_prompts_end_and_shows_what_lies_behind_the_stop_token(llm):
    trace = trace_response(llm, "Hi", policy_of("quota", 2, **DUAL), name="m", max_new_tokens=12)
    assert trace.prompt_tokens % 4 and [token.block for token in trace.tokens] == [1] * 4 + [2] * 4 + [3] * 4
    assert all(token.forward > 0 for token in trace.tokens) and "dual cache" in trace.policy
    assert [len(left) for left in trace.left_masked] == [2, 0] * 3


def test_options_for_logits_come_from_the_command_line_and_from_lines(folder, tmp_path):
    common = ("generate", folder, "--prompt", "Hi", "--max-new-tokens", 8, "--decoder", "llada", "--no-tokens")
    guided = run(*common, "--logits-options", '{"cfg_scale": 2.0}')
    assert guided.exit_code == 0 and json.loads(guided.stdout)["text"] != json.loads(run(*common).stdout)["text"]
    wrong = run(*common, "--logits-options", '{"cfg": 2.0}')
    assert wrong.exit_code == 2 and "logits_options" in wrong.stderr and "cfg_scale" in wrong.stderr
    line = {"prompt": "Hi", "logits_options": {"cfg_scale": 2.0}, "max_new_tokens": 8}
    (tmp_path / "in.jsonl").write_text(json.dumps(line) + "\n")
    again = run("generate", folder, tmp_path / "in.jsonl", "--decoder", "llada", "--no-tokens")
    assert json.loads(again.stdout)["text"] == json.loads(guided.stdout)["text"]


def test_a_trace_marks_tokens_that_were_revealed_outside_the_active_block(llm):
    """By hand: of two blocks in a window, the second has a token at forward 1, while the first ends at forward 2."""
    reveal = np.array([1, 1, 2, 2, 3, 1, 2, 3])
    words = {"uid": "t/x/0", "sample": 0, "prompt_ids": np.arange(3), "token_ids": np.arange(97, 105)}
    found = Trajectory(
        **words, response_len=8, reveal_step=reveal, behaviour_logp=np.zeros(8, np.float32), block_size=4, origin=3,
        temperature=0.0, stop="length", policy_version=0, stats=DecodeStats(8, 8, 3, 0, 0), window=2,
    )  # fmt: skip
    trace = trace_of(llm.tokenizer, "Hi", found, [], name="m", policy=policy_of())
    assert [token.ahead for token in trace.tokens] == [False] * 5 + [True, True, False]
    console = Console(file=io.StringIO(), width=200)
    console.print(render(trace, coloured=False))
    assert "₁" in console.file.getvalue() and "₁₊" in console.file.getvalue() and "₂₊" in console.file.getvalue()
    with pytest.raises(ValueError, match="a block was revealed before its predecessor was finished"):
        dataclasses.replace(found, window=1)
