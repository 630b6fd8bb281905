"""The decoder against an independent one (fixtures/naive.py): token for token, step for step, forward for forward."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from fixtures.naive import (
    RANKINGS,
    Masked,
    dense_block_mask,
    naive_cumulative_entropy,
    naive_decode,
    naive_factor,
    naive_quota,
    naive_scripted,
    naive_threshold,
)
from fixtures.tiny import MASK_ID, requests_of, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.decoding import page_pool
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.rankings import Confidence, NegEntropy, Position
from lightningrl.decoding.registry import RANKINGS as REGISTERED_RANKINGS
from lightningrl.decoding.registry import SELECTORS
from lightningrl.decoding.row_state import Rows
from lightningrl.decoding.schedules.block import FusedCommit, Recompute, SeparateCommit
from lightningrl.decoding.selectors.cumulative_entropy import CumulativeEntropy
from lightningrl.decoding.selectors.factor import Factor
from lightningrl.decoding.selectors.quota import Quota
from lightningrl.decoding.selectors.scripted import Scripted
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.stops import FinishBlock, InsideBlock
from lightningrl.models.attention import PagedKV
from lightningrl.utils.registry import resolve

STOPS = (3, 7, 11)
CACHES = {"fused": FusedCommit, "separate": SeparateCommit, "recompute": Recompute}


def same(one, other):
    """Equal in everything that is discrete; log-probabilities to rounding."""
    assert (one.uid, one.sample, one.stop, one.response_len, one.stats) == (
        other.uid, other.sample, other.stop, other.response_len, other.stats,
    )  # fmt: skip
    np.testing.assert_array_equal(one.token_ids, other.token_ids)
    np.testing.assert_array_equal(one.reveal_step, other.reveal_step)
    np.testing.assert_allclose(one.behaviour_logp, other.behaviour_logp, atol=1e-6)


NAIVE = {
    Threshold: lambda s: naive_threshold(s.tau, s.inclusive, s.steps),
    Quota: lambda s: naive_quota(int(s.steps)),
    Factor: lambda s: naive_factor(s.factor, s.compat),
    CumulativeEntropy: lambda s: naive_cumulative_entropy(s.gamma),
    Scripted: lambda s: naive_scripted(s.tokens_per_step),
}
SELECTOR = st.one_of(
    st.builds(
        Threshold, st.sampled_from([0.0, 0.1, 0.2, 0.4, 0.9, 1.0, -0.5, -1.5, -2.0]), st.booleans(),
        st.none() | st.integers(1, 10),
    ),
    st.builds(Quota, st.integers(1, 10)),
    st.builds(Factor, st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0]), st.booleans()),
    st.builds(CumulativeEntropy, st.sampled_from([-1.0, 0.0, 1.0, 3.0, 6.0, 100.0])),
    st.builds(Scripted, st.sampled_from([1, 1.3, 2.5, 4])),
)  # fmt: skip
POLICY = st.builds(
    DecodePolicy,
    SELECTOR,
    temperature=st.sampled_from([0.0, 1.0, 0.7, 2.0]),
    top_k=st.sampled_from([0, 1, 3, 100]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 1e-9]),
    ranking=st.sampled_from([Confidence(), NegEntropy(), Position()]),
    schedule=st.sampled_from([plan() for plan in CACHES.values()]),
    stop=st.sampled_from([FinishBlock(), InsideBlock()]),
    seed=st.integers(0, 3),
    step=st.integers(0, 3),
)


def naive_of(model, request, policy, stops):
    ranking = {Confidence: "confidence", NegEntropy: "neg_entropy", Position: "position"}[type(policy.ranking)]
    return naive_decode(
        model, request, NAIVE[type(policy.selector)](policy.selector), ranking=ranking,
        temperature=policy.temperature, top_k=policy.top_k, top_p=policy.top_p, stops=stops,
        inside=isinstance(policy.stop, InsideBlock), seed=policy.seed, step=policy.step,
    )  # fmt: skip


def test_the_oracle_knows_every_selector_and_ranking_of_the_registry():
    assert {resolve(name) for name in SELECTORS.values()} == set(NAIVE)
    assert set(REGISTERED_RANKINGS) == set(RANKINGS)


def check_against_naive(model, request, policy, stops, got):
    """Everything that the naive decoder says about a response, and the product's counts of what it cost."""
    want, size = naive_of(model, request, policy, stops), model.config.block_size
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


SEEN = Counter()


@settings(max_examples=100, deadline=None, derandomize=True)
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
    requests = requests_of(lengths, data.draw(st.integers(1, 14), "new"), seed=1, vocab=30)
    policies = data.draw(st.lists(POLICY, min_size=len(requests), max_size=len(requests)), "policies")
    requests = [dataclasses.replace(r, policy=policy) for r, policy in zip(requests, policies, strict=True)]
    stops = data.draw(st.sampled_from([(), (5,), STOPS]), "stops")
    decoder = BlockDecoder(
        model, stops, rows=data.draw(st.integers(1, 5), "rows"),
        page_tokens=block_size * data.draw(st.sampled_from([1, 1, 2, 5]), "page blocks"),
    )  # fmt: skip
    found = decoder.decode(requests, policies[0])
    for request, got in zip(requests, found, strict=True):
        check_against_naive(model, request, request.policy, set(stops), got)
        SEEN["cut short"] += bool((got.reveal_step == 0).any())
        SEEN[got.stop] += 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_decoder_equals_the_naive_decoder_when_the_pages_run_out_and_rows_are_taken_up_again(data):
    """Counts of forwards too: what a row costs does not depend on its neighbours."""
    size = data.draw(st.sampled_from([1, 2, 3, 4]), "block_size")
    model = tiny_model(data.draw(st.integers(0, 99), "weights"), torch.float64, block_size=size, num_hidden_layers=1)
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=3, max_size=5), "prompts")
    requests = requests_of(lengths, data.draw(st.integers(4, 7), "blocks") * size, seed=1)
    policies = data.draw(st.lists(POLICY, min_size=len(requests), max_size=len(requests)), "policies")
    requests = [dataclasses.replace(r, policy=policy) for r, policy in zip(requests, policies, strict=True)]
    decoder = BlockDecoder(model, STOPS, rows=5, page_tokens=size)
    longest = max(-(-(len(r.prompt_ids) + r.max_new_tokens) // size) for r in requests)
    decoder.memory_bytes = (longest + data.draw(st.integers(0, 2), "pages over")) * decoder.page_bytes
    found = decoder.decode(requests, policies[0])
    SEEN["preemptions"] += decoder.ledger.preemptions
    for request, got in zip(requests, found, strict=True):
        check_against_naive(model, request, request.policy, set(STOPS), got)


def test_the_random_decodes_met_preemptions_both_stops_and_tails_that_were_never_revealed():
    """Says nothing unless the two tests above have run."""
    if SEEN["length"] and SEEN["preemptions"]:
        assert SEEN["preemptions"] > 20 and SEEN["cut short"] > 5 and SEEN["eos"] > 20 and SEEN["length"] > 40, SEEN


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_do_not_depend_on_their_batch_or_its_order(temperature):
    model = tiny_model(4, torch.float64)
    requests = requests_of([1, 2, 4, 5, 7, 8, 9, 3, 12, 6], 17)
    policy = DecodePolicy(Threshold(0.25), temperature, seed=1)
    alone = [BlockDecoder(model, STOPS, rows=1).decode([request], policy)[0] for request in requests]
    assert len({t.stats.denoise_forwards for t in alone}) > 2, "rows must leave the batch at different times"
    for rows in (1, 3, 10):
        for order in (range(10), range(9, -1, -1), [3, 0, 9, 1, 7, 2, 8, 4, 6, 5]):
            found = BlockDecoder(model, STOPS, rows=rows).decode([requests[i] for i in order], policy)
            for index, got in zip(order, found, strict=True):
                same(got, alone[index])


def test_fused_and_separate_commits_give_the_same_responses_and_differ_only_in_forwards():
    model = tiny_model(2, torch.float64)
    requests = requests_of([1, 4, 6, 8, 11], 21)
    plans = {
        commit: BlockDecoder(model, STOPS, rows=3).decode(
            requests, DecodePolicy(Threshold(0.25), 1.0, schedule=CACHES[commit]())
        )
        for commit in ("fused", "separate")
    }
    for fused, separate in zip(plans["fused"], plans["separate"], strict=True):
        blocks = -(-(len(fused.prompt_ids) % 4 + len(fused.token_ids)) // 4)
        assert fused.stats.commit_forwards == 0 and separate.stats.commit_forwards == blocks - 1
        assert fused.stats.tpf == fused.stats.tpf_true
        stats = dataclasses.replace(separate.stats, commit_forwards=0)
        same(fused, dataclasses.replace(separate, stats=stats))


@pytest.mark.parametrize("commit", ["fused", "separate"])
def test_ledger_counts_the_engine_forwards_that_the_rows_add_up_to(commit):
    model = tiny_model(2)
    decoder = BlockDecoder(model, STOPS, rows=2)
    found = decoder.decode(
        requests_of([1, 4, 6, 8, 11], 21), DecodePolicy(Threshold(0.25), 1.0, schedule=CACHES[commit]())
    )
    rows = {"prefill": 0, "denoise": 0, "fused": 0, "commit": 0}
    parts = [part for forward in decoder.ledger.forwards for part in forward.parts]
    for part in parts:
        rows[part.kind] += part.rows
        assert part.query_tokens == {"fused": 8, "denoise": 4, "commit": 4}.get(part.kind, part.query_tokens)
        assert part.positions == part.rows * part.query_tokens
        assert part.revealed >= (part.rows if part.kind in ("denoise", "fused") else 0)
    assert all(1 <= sum(part.rows for part in forward.parts) <= 2 for forward in decoder.ledger.forwards)
    assert rows["denoise"] + rows["fused"] == sum(t.stats.denoise_forwards for t in found)
    assert rows["commit"] == sum(t.stats.commit_forwards for t in found)
    assert rows["prefill"] == sum(t.stats.prefill_forwards for t in found) == 4
    assert sum(part.revealed for part in parts) == sum(t.stats.emitted_tokens for t in found)
    assert decoder.ledger.positions == sum(f.positions for f in decoder.ledger.forwards) > 0
    decoder.ledger.clear()
    assert decoder.ledger.positions == 0


class _KeysAndValues:
    """An `Attend` under a dense mask that keeps each layer's keys and values."""

    def __init__(self, length, block_size):
        self.masked, self.kept = Masked(dense_block_mask(length, block_size)[None, None]), {}

    def __call__(self, layer, q, k, v):
        self.kept[layer] = k, v
        return self.masked(layer, q, k, v)


@pytest.mark.parametrize("commit", ["fused", "separate"])
@torch.no_grad()
def test_cached_keys_and_values_of_finished_blocks_are_those_of_the_clean_sequence(commit, monkeypatch):
    caches = []
    monkeypatch.setattr(page_pool, "PagedKV", lambda *a: caches.append(PagedKV(*a)) or caches[-1])
    tables = {}  # request -> its pages, noted when it leaves
    leave = Rows.leave

    def noting(rows, slot):
        tables[rows.item[slot].index] = list(rows.held[slot])
        return leave(rows, slot)

    monkeypatch.setattr(Rows, "leave", noting)
    model = tiny_model(6, torch.float64)
    requests = requests_of([1, 4, 6, 9], 14)
    found = BlockDecoder(model, (), rows=4).decode(
        requests, DecodePolicy(Threshold(0.2), 1.0, schedule=CACHES[commit]())
    )
    assert {len(np.unique(t.reveal_step)) < len(t.token_ids) for t in found} == {True}
    for row, trajectory in enumerate(found):
        ids = np.concatenate([trajectory.prompt_ids, trajectory.token_ids])
        clean = len(ids) - 4  # the last block is never committed
        attend = _KeysAndValues(clean, 4)
        model.hidden(torch.from_numpy(ids[None, :clean]), torch.arange(clean)[None], attend)
        for layer, (keys, values) in attend.kept.items():
            for table, expected in ((caches[0].keys, keys), (caches[0].values, values)):
                held = table[layer].unflatten(0, (-1, caches[0].page_tokens))[tables[row]].flatten(0, 1)[:clean]
                torch.testing.assert_close(held.transpose(0, 1), expected[0], rtol=0, atol=1e-12)


def test_mask_token_and_unusable_ids_are_never_drawn_however_likely():
    model = tiny_model(1)
    model.usable_vocab = 20
    with torch.no_grad():
        model.lm_head.weight[20:] = model.lm_head.weight[:4] * 6  # the banned rows would win nearly everywhere
    requests = requests_of([3, 4, 9], 20)
    logits = model.logits(torch.nn.functional.normalize(torch.randn(200, 16), dim=-1) * 4)
    assert (logits.argmax(-1) >= 20).float().mean() > 0.5
    for temperature in (0.0, 1.0, 3.0):
        for got in BlockDecoder(model, ()).decode(requests, DecodePolicy(Threshold(0.3), temperature)):
            assert got.token_ids.max() < 20


def test_mask_tokens_in_the_prompt_are_context_and_stay():
    model = tiny_model(1, torch.float64)
    request = Request("t/train/0", 0, np.array([5, MASK_ID, 6, 7, MASK_ID, 2]), 6)
    got = BlockDecoder(model, ()).decode([request], DecodePolicy(Threshold(0.3)))[0]
    want = naive_decode(model, request, naive_threshold(0.3))
    assert got.prompt_ids.tolist() == [5, MASK_ID, 6, 7, MASK_ID, 2]
    assert (got.token_ids.tolist(), got.reveal_step.tolist()) == (want.tokens, want.reveal)


def test_stop_tokens_of_the_prompt_do_not_end_the_response():
    model = tiny_model(1, torch.float64)
    with torch.no_grad():
        model.lm_head.weight[7] *= 0.0  # logit 0: rarely the best
    got = BlockDecoder(model, (7,)).decode(
        [Request("t/train/0", 0, np.array([7, 7, 7, 7, 7, 7]), 9)], DecodePolicy(Threshold(0.3))
    )
    assert got[0].stop == "length" and len(got[0].token_ids) == 10 and 7 not in got[0].token_ids


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
