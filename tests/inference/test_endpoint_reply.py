"""What of a server's reply is believed: the answer, its end, and counts that do not contradict it or each other."""

from __future__ import annotations

import json

import pytest
from fixtures.openai_server import MODEL, reply
from hypothesis import given
from hypothesis import strategies as st

from lightningrl.inference.endpoint.reply import Reply, RequestFailed, read_reply


def read(row, chat=True, max_tokens=64, **more) -> Reply:
    body = row if isinstance(row, bytes) else json.dumps(row).encode()
    return read_reply(body, chat=chat, model=MODEL, max_tokens=max_tokens, **more)


def meta(**counts):
    return {"choice": {"meta_info": counts}}


def test_a_good_reply_of_chat_and_of_completions():
    for chat in (True, False):
        found = read(reply("so \\boxed{1}", chat=chat, id="a"), chat=chat)
        assert found == Reply("so \\boxed{1}", "eos", 6, 3, reply_id="a")
    assert read(reply(choice={"finish_reason": "length"})).stop == "length"  # truncated
    assert read(reply(choice={"finish_reason": None})).stop is None  # the server does not say
    assert read(reply(tokens=None)).completion_tokens is None
    assert read(found.to_json() | reply()) == read(reply())  # keys that nobody knows change nothing
    assert Reply.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("row", "counts"),
    [
        (reply(**meta(spec_verify_ct=2, spec_accept_token_num=4, spec_draft_token_num=7)), (2, 4, 7)),  # SGLang
        (reply(metrics={"speculative_decoding": {
            "num_spec_steps": 3, "num_accepted_draft_tokens": 2, "num_draft_tokens": 9,
        }}), (3, 2, 9)),  # vLLM
        (reply(metrics=None, **meta(id="x")), (None, None, None)),
    ],
)  # fmt: skip
def test_forwards_and_drafts_are_read_where_engines_put_them(row, counts):
    found = read(row)
    assert (found.forwards, found.accepted, found.drafted) == counts and not found.doubts


def test_a_server_may_say_its_forwards_anywhere_else():
    row = reply(timings={"steps": [4]}, **meta(spec_verify_ct=2))
    assert read(row, forwards_at="timings.steps.0").forwards == 4
    assert read(row, forwards_at="timings.steps.1").forwards is None


@pytest.mark.parametrize(
    ("row", "doubt", "gone"),
    [
        (reply(tokens=-5), "completion_tokens is '-5', which is no count", "completion_tokens"),
        (reply(usage={"completion_tokens": "six"}), "which is no count", "completion_tokens"),
        (reply(usage={"completion_tokens": True}), "which is no count", "completion_tokens"),
        (reply(usage={"completion_tokens": 1e400}), "which is no count", "completion_tokens"),
        (reply(usage={"completion_tokens": 6, "prompt_tokens": 3, "total_tokens": 99}), "not 99", "completion_tokens"),
        (reply(tokens=0), "0 completion tokens, but the answer has 12 bytes", "completion_tokens"),
        (reply(tokens=100), "100 completion tokens, but the answer has 12 bytes", "completion_tokens"),
        (reply("x" * 5000, tokens=2000), "at most 64 were asked for", "completion_tokens"),
        (reply(**meta(spec_verify_ct=0)), "forwards is '0', which is no count", "forwards"),
        (reply(**meta(spec_verify_ct=900)), "900 forwards, but the answer has 6 tokens", "forwards"),
        (reply(**meta(spec_accept_token_num=9, spec_draft_token_num=5)), "9 draft tokens accepted of 5", "accepted"),
        (reply(**meta(spec_accept_token_num=9)), "9 draft tokens accepted, but the answer has 6", "accepted"),
    ],
)  # fmt: skip
def test_counts_that_cannot_be_are_left_out_and_the_answer_is_kept(row, doubt, gone):
    found = read(row)
    assert getattr(found, gone) is None and any(doubt in each for each in found.doubts)
    assert found.text == row["choices"][0]["message"]["content"]


def test_tokens_of_a_thought_that_is_not_shown_are_no_contradiction():
    thought = {"message": {"content": "4", "reasoning_content": "long " * 100}}
    assert read(reply(tokens=110, choice=thought), max_tokens=200).completion_tokens == 110
    cut = {"message": {"content": None, "reasoning_content": "long"}, "finish_reason": "length"}
    assert read(reply(choice=cut)).text == ""


def test_special_tokens_end_the_text_and_mask_tokens_are_told():
    assert read(reply("\\boxed{1}<|im_end|>\n<|im_start|>user \\boxed{2}")).text == "\\boxed{1}"
    assert read(reply("\\boxed{1}<|eot_id|>x")).text == "\\boxed{1}"
    for mask in ("<|MASK|>", "<|mdm_mask|>", "<mask>"):
        found = read(reply(f"\\boxed{{1}}{mask}"))
        assert found.text.endswith(mask) and "mask tokens" in found.doubts[0]
    assert read(reply("a\ud800b")).text == "a\\ud800b"  # what no file can hold


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"<html>busy</html>", "not JSON"), (b"", "not JSON"), (b'{"choices": [', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"), (b"9" * 10_000, "not JSON"), (b"[]", "expected an object"),
        (reply(choices=[]), "found 0 of them"), (reply(choices=None), "no answer"), (reply(choices=["x"]), "no answer"),
        (reply(choices=[{"index": 0}, {"index": 1}]), "found 2 of them"),
        (reply(choice={"index": 3}), "the reply is choice '3'"),
        (reply(choice={"message": None}), "no text"), (reply(choice={"message": {"content": None}}), "no text"),
        (reply(choice={"message": {"content": ["x"]}}), "no text"),
        (reply(choice={"finish_reason": "content_filter"}), "ended by 'content_filter'"),
        (reply(choice={"finish_reason": ["stop"]}), "ended by"),
        ({"error": {"message": "out of memory"}}, "out of memory"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_a_failure_that_says_why(row, message):
    with pytest.raises(RequestFailed, match=message) as failed:
        read(row)
    assert not failed.value.again and not failed.value.fatal and len(str(failed.value)) < 400


def test_another_models_answer_ends_the_run():
    with pytest.raises(RequestFailed, match="'gpt-tiny', asked was 'served'") as failed:
        read(reply(model="gpt-tiny"))
    assert failed.value.fatal
    assert read(reply(model=None)).text and read_reply(
        json.dumps(reply(model="b")).encode(), chat=True, model="b", max_tokens=9
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["choices", "message", "content", "usage", "completion_tokens", "finish_reason", "meta_info", "model", "id"]
    ), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(row=JSON, where=st.sampled_from(["", "choices", "usage", "choice", "message", "meta_info"]))
def test_no_json_breaks_the_reading(row, where):
    """Whatever a server sends is an answer with believable counts, or a failure."""
    good = reply(**meta(spec_verify_ct=2))
    if where == "":
        good = row
    elif where == "choice":
        good["choices"][0] = row
    elif where in ("message", "meta_info"):
        good["choices"][0][where] = row
    else:
        good[where] = row
    try:
        found = read(good)
    except RequestFailed:
        return
    assert isinstance(found.text, str) and found.text.encode()
    for name in ("completion_tokens", "prompt_tokens", "forwards", "accepted", "drafted"):
        count = getattr(found, name)
        assert count is None or (type(count) is int and 0 <= count < 2**31)
