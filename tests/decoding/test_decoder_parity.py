"""The decoder against an independent one (fixtures/naive.py): token for token, step for step, forward for forward."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from fixtures.decodes import CACHES, NAIVE, POLICY, STOPS, naive_of
from fixtures.naive import RANKINGS
from fixtures.tiny import requests_of, tiny_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.registry import RANKINGS as REGISTERED_RANKINGS
from lightningrl.decoding.registry import SELECTORS
from lightningrl.decoding.schedules.block import Recompute, SeparateCommit
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.utils.registry import resolve

SEEN = Counter()


def test_the_oracle_knows_every_selector_and_ranking_of_the_registry():
    assert {resolve(name) for name in SELECTORS.values()} == set(NAIVE)
    assert set(REGISTERED_RANKINGS) == set(RANKINGS)


def check_against_naive(model, request, stops, got):
    """Everything that the naive decoder says about a response, and the product's counts of what it cost."""
    policy, size = request.policy, model.config.block_size
    want = naive_of(model, request, policy, stops)
    assert got.token_ids.tolist() == want.tokens
    assert got.reveal_step.tolist() == want.reveal
    np.testing.assert_allclose(got.behaviour_logp, want.logp, atol=1e-5)
    np.testing.assert_allclose(got.entropy, want.entropy, atol=1e-5)
    assert got.stop == ("eos" if want.stopped else "length")
    positions = [i for i, t in enumerate(want.tokens) if t in stops and want.reveal[i]]
    assert got.response_len == (positions[0] + 1 if positions else len(want.tokens))
    revealed, stats = sum(step > 0 for step in want.reveal), got.stats
    assert (stats.response_tokens, stats.emitted_tokens) == (got.response_len, revealed)
    assert stats.denoise_forwards == len(want.states)
    # The last block is never committed; a prompt shorter than a block is not prefilled.
    assert stats.commit_forwards == (want.blocks - 1 if isinstance(policy.schedule, SeparateCommit) else 0)
    assert stats.prefill_forwards == (len(request.prompt_ids) >= size and not isinstance(policy.schedule, Recompute))
    assert request.max_new_tokens <= len(want.tokens) < request.max_new_tokens + size or want.stopped
    shown = got.token_ids[got.reveal_step > 0]
    assert shown.max() < model.usable_vocab and model.config.mask_token_id not in shown
    assert (got.token_ids[got.reveal_step == 0] == model.config.mask_token_id).all()
    SEEN["cut short"] += bool((got.reveal_step == 0).any())
    SEEN[got.stop] += 1


def drawn_requests(data, lengths, new, **more):
    """Requests with a policy each."""
    policies = data.draw(st.lists(POLICY, min_size=len(lengths), max_size=len(lengths)), "policies")
    requests = requests_of(lengths, new, seed=1, **more)
    return [dataclasses.replace(request, policy=policy) for request, policy in zip(requests, policies, strict=True)]


@settings(max_examples=70, deadline=None, derandomize=True)
@given(data=st.data())
def test_decoder_equals_the_naive_decoder_on_random_shapes_prompts_and_policies(data):
    heads, kv = data.draw(st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]), "heads")
    block_size = data.draw(st.sampled_from([1, 2, 3, 4, 8]), "block_size")
    model = tiny_model(
        data.draw(st.integers(0, 99), "weights"), torch.float64, num_attention_heads=heads, num_key_value_heads=kv,
        num_hidden_layers=data.draw(st.integers(1, 2), "layers"),
        head_dim=data.draw(st.sampled_from([2, 6, 8]), "head_dim"),
        block_size=block_size, vocab_size=30, mask_token_id=data.draw(st.sampled_from([0, 23, 29]), "mask"),
    )  # fmt: skip
    model.usable_vocab = data.draw(st.sampled_from([24, 30]), "usable")
    lengths = data.draw(st.lists(st.integers(1, 11), min_size=1, max_size=5), "prompts")
    requests = drawn_requests(data, lengths, data.draw(st.integers(1, 14), "new"), vocab=30)
    # A prompt of masks alone ties all positions of its block: nothing but rounding would order them.
    assume(all((request.prompt_ids != model.config.mask_token_id).any() for request in requests))
    stops = data.draw(st.sampled_from([(), (5,), STOPS]), "stops")
    decoder = BlockDecoder(
        model, stops, rows=data.draw(st.integers(1, 5), "rows"),
        page_tokens=block_size * data.draw(st.sampled_from([1, 1, 2, 5]), "page blocks"),
    )  # fmt: skip
    for request, got in zip(requests, decoder.decode(requests, requests[0].policy), strict=True):
        check_against_naive(model, request, set(stops), got)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_decoder_equals_the_naive_decoder_when_the_pages_run_out_and_rows_are_taken_up_again(data):
    """Counts of forwards too: what a row costs does not depend on its neighbours."""
    size = data.draw(st.sampled_from([1, 2, 3, 4]), "block_size")
    model = tiny_model(data.draw(st.integers(0, 99), "weights"), torch.float64, block_size=size, num_hidden_layers=1)
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=3, max_size=5), "prompts")
    requests = drawn_requests(data, lengths, data.draw(st.integers(4, 7), "blocks") * size)
    decoder = BlockDecoder(model, STOPS, rows=5, page_tokens=size)
    longest = max(-(-(len(r.prompt_ids) + r.max_new_tokens) // size) for r in requests)
    decoder.memory_bytes = (longest + data.draw(st.integers(0, 2), "pages over")) * decoder.page_bytes
    for request, got in zip(requests, decoder.decode(requests, requests[0].policy), strict=True):
        check_against_naive(model, request, set(STOPS), got)
    SEEN["preemptions"] += decoder.ledger.preemptions


def test_the_random_decodes_met_preemptions_both_stops_and_tails_that_were_never_revealed():
    """Says nothing unless the two tests above have run."""
    if SEEN["length"] and SEEN["preemptions"]:
        assert SEEN["preemptions"] > 12 and SEEN["cut short"] > 2 and SEEN["eos"] > 20 and SEEN["length"] > 40, SEEN


@pytest.mark.parametrize("commit", ["fused", "separate"])
def test_ledger_counts_the_engine_forwards_that_the_rows_add_up_to(commit):
    decoder = BlockDecoder(tiny_model(2), STOPS, rows=2)
    policy = DecodePolicy(Threshold(0.25), 1.0, schedule=CACHES[commit])
    stats = [t.stats for t in decoder.decode(requests_of([1, 4, 6, 8, 11], 21), policy)]
    rows, parts = Counter(), [part for forward in decoder.ledger.forwards for part in forward.parts]
    for part in parts:
        rows[part.kind] += part.rows
        assert part.query_tokens == {"fused": 8, "denoise": 4, "commit": 4}.get(part.kind, part.query_tokens)
        assert part.revealed >= (part.rows if part.kind in ("denoise", "fused") else 0)
    assert all(1 <= sum(part.rows for part in forward.parts) <= 2 for forward in decoder.ledger.forwards)
    assert rows["denoise"] + rows["fused"] == sum(s.denoise_forwards for s in stats)
    assert rows["commit"] == sum(s.commit_forwards for s in stats)
    assert rows["prefill"] == sum(s.prefill_forwards for s in stats) == 4
    assert sum(part.revealed for part in parts) == sum(s.emitted_tokens for s in stats)
    assert decoder.ledger.positions == sum(part.rows * part.query_tokens for part in parts) > 0
    decoder.ledger.clear()
    assert decoder.ledger.positions == 0


def test_mask_token_and_unusable_ids_are_never_drawn_however_likely():
    model = tiny_model(1)
    model.usable_vocab = 20
    with torch.no_grad():
        model.lm_head.weight[20:] = model.lm_head.weight[:4] * 6  # the banned rows would win nearly everywhere
    for temperature in (0.0, 3.0):
        policy = DecodePolicy(Threshold(0.3), temperature)
        assert all(got.token_ids.max() < 20 for got in BlockDecoder(model, ()).decode(requests_of([3, 9], 20), policy))


def test_responses_of_one_prompt_differ_by_sample_and_step_and_repeat_by_key():
    model = tiny_model(5)
    requests = [Request("t/train/0", sample, np.array([4, 5, 6]), 20) for sample in range(6)]

    def ids(seed, step):
        policy = DecodePolicy(Threshold(0.4), 1.0, seed=seed, step=step)
        return [tuple(t.token_ids) for t in BlockDecoder(model, ()).decode(requests, policy)]

    assert len(set(ids(0, 0))) == 6
    assert ids(0, 0) == ids(0, 0)
    assert not set(ids(0, 0)) & set(ids(0, 1)) and not set(ids(0, 0)) & set(ids(1, 0))


def test_no_requests_give_no_trajectories():
    assert BlockDecoder(tiny_model(), ()).decode([], DecodePolicy(Threshold(0.5))) == []
