"""`lightningrl generate`: the decoder's own results as JSON lines; a request that fails leaves the others alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.generating import asked, by_key, rows_of, run

from lightningrl.inference.policy import policy_of


@pytest.fixture
def decode(model, tmp_path):
    """Run the verb on lines; the rows by (id, sample)."""

    def decode(*lines, options=(), exit_code=0):
        source = asked(tmp_path / "asked.jsonl", *lines)
        done = run(model, source, "--out", tmp_path / "rows.jsonl", "--overwrite", "--max-new-tokens", 14, *options)
        assert done.exit_code == exit_code, done.stderr
        return by_key(tmp_path / "rows.jsonl")

    return decode


# What is written


def test_rows_are_the_decoders_own_results(llm, decode):
    prompts = ["3 cats", "", "漢字 🐈 \x00 é", "a <|MASK|> b"]
    found = decode(*({"prompt": prompt} for prompt in prompts), options=["--threshold", 0.1])
    expected = llm.generate(prompts, policy_of(parameter=0.1), max_new_tokens=14)
    for index, completion in enumerate(expected):
        row, trajectory = found[f"prompt/{index}", 0], completion.trajectory
        length = trajectory.response_len
        assert (row["index"], row["text"], row["stop"]) == (index, completion.text, trajectory.stop)
        assert row["token_ids"] == trajectory.response_ids.tolist()
        assert row["tokens"] == llm.tokenizer.convert_ids_to_tokens(row["token_ids"])
        assert row["reveal_steps"] == trajectory.reveal_step[:length].tolist()
        np.testing.assert_array_equal(np.float32(row["logprobs"]), trajectory.behaviour_logp[:length])
        np.testing.assert_array_equal(np.float32(row["entropies"]), trajectory.entropy[:length])
        stats = trajectory.stats
        assert (row["response_tokens"], row["denoise_forwards"]) == (length, stats.denoise_forwards)
        assert (row["commit_forwards"], row["prefill_forwards"]) == (0, stats.prefill_forwards)
        assert (row["tpf"], row["tpf_true"]) == (stats.tpf, stats.tpf_true)
        for name in ("prefill_positions", "prefill_keys", "decode_positions", "decode_keys"):
            assert row[name] == getattr(stats, name) >= 0


def test_messages_and_token_ids_are_prompts_too(llm, decode):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    ids = llm.request(messages, uid="x").prompt_ids.tolist()
    found = decode({"id": "m", "messages": messages}, {"id": "i", "prompt_ids": ids})
    assert found["m", 0]["token_ids"] == found["i", 0]["token_ids"]
    [completion] = llm.generate([messages], max_new_tokens=14)
    assert found["m", 0]["text"] == completion.text


def test_a_text_file_is_one_prompt_a_line(model, llm, tmp_path):
    (tmp_path / "prompts.txt").write_bytes("\ufeff3 cats\r\n\n{\u2028 é}\n".encode())
    assert run(model, tmp_path / "prompts.txt", "--out", tmp_path / "o", "--max-new-tokens", 6).exit_code == 0
    expected = [c.text for c in llm.generate(["3 cats", "{\u2028 é}"], max_new_tokens=6)]
    assert [row["text"] for row in sorted(rows_of(tmp_path / "o"), key=lambda row: row["index"])] == expected


def test_prompts_and_standard_input_go_to_standard_output(model, llm):
    [expected] = llm.generate(["3 cats"], max_new_tokens=6)
    given = run(model, "--prompt", "3 cats", "--prompt", "2 dogs", "--max-new-tokens", 6)
    piped = run(model, "-", "--max-new-tokens", 6, "--no-tokens", input='{"prompt": "3 cats"}')
    assert [len(done.stdout.splitlines()) for done in (given, piped)] == [2, 1]
    row = json.loads(piped.stdout)
    assert row["text"] == expected.text and not {"token_ids", "tokens", "logprobs", "entropies"} & set(row)
    assert "2 responses, " in given.stderr and " TPF, " in given.stderr and " 0 preemptions" in given.stderr


def test_any_length_is_rounded_up_to_the_block_grid(decode):
    asked_for = (1, 3, 4, 5)
    found = decode(*({"id": new, "prompt_ids": [5, 6, 7, 8, 9], "max_new_tokens": new} for new in asked_for))
    assert [found[str(new), 0]["response_tokens"] for new in asked_for] == [3, 3, 7, 7]


# Settings of a request


def test_settings_of_a_line_act_and_override_the_command_line(decode):
    base = {"prompt": "Tell me", "max_new_tokens": 40}
    found = decode(
        {"id": "default", **base},
        {"id": "greedy", **base, "temperature": 0},
        {"id": "one", **base, "top_k": 1},
        {"id": "sharp", **base, "top_p": 1e-9},
        {"id": "fast", **base, "temperature": 0, "threshold": 0.001},
        {"id": "quota", **base, "temperature": 0, "selector": "quota", "parameter": 2},
        {"id": "steps", **base, "temperature": 0, "selector_options": {"steps": 1}},
        {"id": "ranked", **base, "temperature": 0, "selector": "quota", "parameter": 4, "ranking": "position"},
        {"id": "separate", **base, "temperature": 0, "schedule": "separate"},
        {"id": "inside", **base, "temperature": 0, "stop": "inside_block"},
        options=["--temperature", 0.7, "--threshold", 0.9],
    )
    rows = {uid: row for (uid, _), row in found.items()}
    ids = {uid: row["token_ids"] for uid, row in rows.items()}
    assert ids["default"] != ids["greedy"]
    assert ids["separate"] == ids["inside"] == ids["greedy"]
    assert ids["one"] == ids["sharp"] and rows["one"]["logprobs"] == rows["sharp"]["logprobs"]
    length = rows["greedy"]["response_tokens"]
    blocks = -(-length // 4)
    assert rows["greedy"]["denoise_forwards"] == length
    assert blocks <= rows["fast"]["denoise_forwards"] == rows["steps"]["denoise_forwards"] <= blocks + 1
    assert rows["quota"]["denoise_forwards"] in (2 * blocks - 1, 2 * blocks)
    steps = rows["ranked"]["reveal_steps"]
    assert steps == sorted(steps)
    assert rows["separate"]["commit_forwards"] > 0


def test_top_k_of_one_draws_the_greedy_tokens(decode):
    found = decode({"id": "greedy", "prompt": "x"}, {"id": "one", "prompt": "x", "temperature": 1, "top_k": 1})
    assert found["greedy", 0]["token_ids"] == found["one", 0]["token_ids"]


def test_samples_differ_and_are_functions_of_seed_id_and_number(decode):
    line = {"id": "a", "prompt": "x", "temperature": 1, "samples": 3}
    first, other = decode(line), decode(line | {"seed": 1})
    again = decode(line, {"prompt": "y"}, options=["--rows", 1])
    assert len({tuple(first["a", sample]["token_ids"]) for sample in range(3)}) == 3
    for sample in range(3):
        assert first["a", sample]["token_ids"] == again["a", sample]["token_ids"]
        assert first["a", sample]["token_ids"] != other["a", sample]["token_ids"]


def test_a_small_memory_budget_preempts_and_changes_no_token(model, tmp_path):
    """Keys and values of 210 positions, 256 bytes each: 30 rows want 1.6 MB."""
    lines = [{"prompt": f"{'long ' * 20}{i}", "max_new_tokens": 60, "threshold": 0.1} for i in range(30)]
    source = asked(tmp_path / "in.jsonl", *lines)
    plenty = run(model, source, "--out", tmp_path / "plenty")
    scarce = run(model, source, "--out", tmp_path / "scarce", "--memory-mb", 1)
    assert ", 0 preemptions" in plenty.stderr and ", 0 preemptions" not in scarce.stderr
    plenty, scarce = by_key(tmp_path / "plenty"), by_key(tmp_path / "scarce")
    assert {key: row["token_ids"] for key, row in plenty.items()} == {k: r["token_ids"] for k, r in scarce.items()}


# Requests that fail


BAD = {
    "long": ({"id": "long", "prompt": "x" * 1_000_000}, "positions, the model has 256"),
    "new": ({"id": "new", "prompt": "x", "max_new_tokens": 10**30}, "positions, the model has 256"),
    "none": ({"id": "none", "prompt": "x", "max_new_tokens": 0}, "max_new_tokens is 0, expected at least 1"),
    "outside": ({"id": "outside", "prompt_ids": [1, 264]}, "token 264 lies outside the vocabulary of 264"),
    "huge": ({"id": "huge", "prompt_ids": [2**70]}, "lies outside the vocabulary"),
    "empty": ({"id": "empty", "prompt_ids": []}, "prompt_ids: List should have at least 1 item"),
    "nothing": ({"id": "nothing"}, "expected one of prompt, messages and prompt_ids"),
    "two": ({"id": "two", "prompt": "x", "prompt_ids": [1]}, "expected one of prompt, messages and prompt_ids"),
    "typo": ({"id": "typo", "prompt": "x", "temprature": 1}, "'temprature'; did you mean 'temperature'?"),
    "turn": ({"id": "turn", "messages": [{"role": "user", "contents": "x"}]}, "messages.0.content"),
    "role": ({"id": "role", "messages": [{"role": "me", "content": "x"}]}, "messages.0.role"),
    "type": ({"id": "type", "prompt": "x", "top_k": "2"}, "top_k: Input should be a valid integer"),
    "range": ({"id": "range", "prompt": "x", "top_p": 1.5}, "top_p is 1.5"),
    "names": ({"id": "names", "prompt": "x", "selector": "best"}, "there is no selector 'best'"),
    "code": ({"id": "code", "prompt": "x", "selector": "os:abort"}, "is code; name it on the command line"),
    "both": ({"id": "both", "prompt": "x", "threshold": 1, "parameter": 1}, "two names of one thing"),
    "option": ({"id": "option", "prompt": "x", "selector_options": {"stps": 1}}, "unexpected keyword argument 'stps'"),
    "value": ({"id": "value", "prompt": "x", "selector_options": {"steps": "x"}}, "steps is 'x', expected"),
    "steps": ({"id": "steps", "prompt": "x", "selector_options": {"steps": 0}}, "threshold: steps is 0, expected"),
    "large": ({"id": "large", "prompt": "x", "selector_options": {"steps": 10**400}}, "expected true, false, null or"),
    "same": ({"id": "good", "prompt": "x"}, "ids must be unique"),
    "half": ({"id": "half", "prompt": "\ud800"}, "half of a surrogate pair"),
    "infinite": (b'{"prompt": "x", "threshold": 1e999}\n', "threshold: Input should be a finite number"),
    "nan": (b'{"prompt": "x", "threshold": NaN}\n', "NaN is no number"),
    "torn": (b'{"prompt": "x"\n', "this is not JSON"),
    "deep": (b"[" * 100_000 + b"\n", "this is not JSON"),
    "bytes": (b'{"prompt": "\xff"}\n', "this is not UTF-8"),
    "list": (b"[1]\n", "found list, expected an object"),
}


def test_an_answer_has_the_room_that_the_model_leaves_when_no_length_is_given(tmp_path):
    small = save_byte_checkpoint(tmp_path / "small", max_position_embeddings=64)
    done = run(small, "--prompt", "x")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["response_tokens"] <= 64


def test_failing_requests_say_why_and_leave_the_others_written(model, tmp_path, decode):
    good = [{"id": "good", "prompt": "x"}, {"id": 7, "prompt": "y" * 150}]
    undisturbed = decode(*good)
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line, _ in BAD.values()]
    source = asked(tmp_path / "in.jsonl", *good, raw=raw)
    out = tmp_path / "out.jsonl"
    done = run(model, source, "--out", out, "--max-new-tokens", 14)
    assert done.exit_code == 1, done.stderr
    assert f"{len(BAD)} of {len(BAD) + 2} failed" in done.stderr
    rows = rows_of(out)
    errors = {row["index"]: row["error"] for row in rows if "error" in row}
    for index, (name, (_, message)) in enumerate(BAD.items(), start=len(good)):
        assert message in errors[index], name
    assert [row for row in rows if "error" not in row] == list(undisturbed.values())


def test_what_never_fits_the_memory_budget_is_refused_by_itself(tmp_path):
    big = save_byte_checkpoint(tmp_path / "big", max_position_embeddings=8192, num_hidden_layers=1)
    source = asked(tmp_path / "in.jsonl", {"id": "big", "prompt": "x" * 8000}, {"id": "small", "prompt": "x"})
    done = run(big, source, "--out", tmp_path / "out", "--memory-mb", 1, "--max-new-tokens", 8)
    rows = by_key(tmp_path / "out")
    assert done.exit_code == 1
    assert "the budget is 1000000: raise the memory budget" in rows["big", 0]["error"]
    assert rows["small", 0]["response_tokens"] >= 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give prompts"),
        (["in.jsonl", "--prompt", "x"], "give prompts"),
        (["absent.jsonl"], "cannot read absent.jsonl: No such file"),
        (["empty.jsonl"], "empty.jsonl has no prompt"),
        (["in.jsonl", "--out", "in.jsonl"], "is the input"),
        (["in.jsonl", "--out", "other.jsonl"], "other.jsonl, line 1 is no response"),
        (["in.jsonl", "--out", "/dev/full"], "is no ordinary file"),
        (["in.jsonl", "--threshold", "nan"], "finite number"),
        (["in.jsonl", "--top-p", "0"], "top_p is 0.0"),
        (["in.jsonl", "--threshold", "1.5"], "a threshold is a probability within (0, 1], found 1.5"),
        (["in.jsonl", "--threshold", "-3"], "a threshold is a probability within (0, 1], found -3"),
        (["in.jsonl", "--selector", "best"], "no selector 'best'. Allowed: bernoulli, cumulative_entropy, entropy"),
        (["in.jsonl", "--selector-options", "[]"], "expected an object"),
        (["in.jsonl", "--dtype", "int8"], "--dtype: found 'int8'"),
        (["in.jsonl", "--device", "tpux"], "--device: found 'tpux'"),
    ],
)
def test_what_is_wrong_for_all_is_said_at_once(model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    asked(tmp_path / "in.jsonl", {"prompt": "x"})
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    done = run(model, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "other.jsonl").read_text() == '{"a": 1}\n'
