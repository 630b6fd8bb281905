"""Rows over canvases share forwards: in any batch and order, with little memory, beside a bad row, each as alone."""

import dataclasses

import numpy as np
import pytest
import torch
from fixtures.decodes import same
from fixtures.tiny import requests_of, tiny_model

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.rankings import NegEntropy, Random
from lightningrl.decoding.reference import decode_one
from lightningrl.decoding.schedules.full_sequence import DualCache, FullSequence, PrefixCache
from lightningrl.decoding.selectors.entropy import Entropy
from lightningrl.decoding.selectors.factor import Factor
from lightningrl.decoding.selectors.quota import Quota
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.stops import WholeCanvas

STOPS, POISON = (3, 7), 22
SCHEDULES = [FullSequence(4), PrefixCache(4), DualCache(4, 2), DualCache(4, refresh_every=2), FullSequence(4, 5)]
WHOLE = {"stop": WholeCanvas()}
POLICIES = [
    DecodePolicy(Threshold(0.3, inclusive=True), schedule=DualCache(4), **WHOLE),
    DecodePolicy(Quota(4), 1.0, schedule=FullSequence(4), seed=1, logits=Logits(untempered=True), **WHOLE),
    DecodePolicy(Factor(1.0), 0.7, top_k=5, schedule=PrefixCache(4, 2), logits=Logits(cfg_scale=0.5)),
    DecodePolicy(Entropy(1.5), ranking=NegEntropy(), schedule=DualCache(4, refresh_every=2), step=3),
    DecodePolicy(Quota(2), 1.0, top_p=0.8, ranking=Random(), schedule=FullSequence(4, 5), **WHOLE),
]
"""Dealt to the requests of a run in turn: different schedules, caches, rules and ends beside each other."""


def dealt(lengths, news, seed=0, vocab=23):
    requests = requests_of(lengths, 4, seed, vocab)
    given = zip(requests, news, strict=True)
    return [dataclasses.replace(r, max_new_tokens=n, policy=POLICIES[i % 5]) for i, (r, n) in enumerate(given)]


def mixed(count, seed=5, longest=14):
    rng = np.random.default_rng(seed)
    return dealt(rng.integers(1, longest, count).tolist(), (4 * rng.integers(1, 5, count)).tolist())


def full_model(**changes):
    return tiny_model(4, torch.float64, attention="full", **changes)


def test_in_float64_a_row_decodes_the_same_alone_and_in_any_batch_in_any_order():
    model, requests = full_model(), mixed(20)
    alone = [decode_one(model, request, request.policy, STOPS) for request in requests]
    assert len({each.stats.denoise_forwards for each in alone}) > 5 and {each.stop for each in alone} == {
        "eos",
        "length",
    }
    for rows, order in [(20, range(20)), (7, range(19, -1, -1)), (3, np.random.default_rng(0).permutation(20))]:
        found = BlockDecoder(model, STOPS, rows=rows).decode([requests[i] for i in order], requests[0].policy)
        same(found, [alone[i] for i in order])


def test_requests_through_a_little_memory_finish_right_in_turn_and_one_that_never_fits_is_refused_alone():
    model, requests = full_model(), mixed(40)
    requests[7] = Request("t/never", 0, np.arange(90) % 20, 32, POLICIES[0])
    unconstrained = BlockDecoder(model, STOPS, rows=40)
    expected = unconstrained.decode(requests, requests[0].policy)
    assert unconstrained.ledger.preemptions == 0
    decoder = BlockDecoder(model, STOPS, rows=40, page_tokens=4)
    decoder.memory_bytes = 20 * decoder.page_bytes
    found = {outcome.index: outcome for outcome in decoder.stream(requests, requests[0].policy)}
    assert sorted(found) == list(range(40)), "no request is lost"
    refused = found.pop(7)
    assert str(refused.error).startswith("t/never: 90 prompt tokens and 32 new ones need")
    assert "bytes of KV cache, the budget is" in str(refused.error)
    same([found[i].trajectory for i in sorted(found)], [each for i, each in enumerate(expected) if i != 7])
    assert decoder.pool.cache.nbytes <= decoder.memory_bytes
    assert len(decoder.ledger.forwards) > 2 * len(unconstrained.ledger.forwards), "they had to wait"


def test_a_row_of_blocks_that_grows_beside_canvases_makes_the_youngest_come_back_later():
    """On a block-causal model both kinds decode; the canvas that lost its pages rebuilds its cache and goes on."""
    model = tiny_model(4, torch.float64)
    long = [Request(f"t/long{i}", 0, np.arange(4 + i), 60, DecodePolicy(Quota(4))) for i in range(3)]
    policy = DecodePolicy(Quota(4), 1.0, schedule=PrefixCache(4), **WHOLE)
    canvases = [dataclasses.replace(request, policy=policy) for request in requests_of([4, 7, 2], 32)]
    expected = [decode_one(model, request, request.policy, ()) for request in (*long, *canvases)]
    decoder = BlockDecoder(model, (), rows=6, page_tokens=4)
    decoder.memory_bytes = 40 * decoder.page_bytes
    same(decoder.decode([*long, *canvases], policy), expected)
    assert decoder.ledger.preemptions > 0
    rebuilt = [part for forward in decoder.ledger.forwards for part in forward.parts if part.kind == "recompute"]
    assert any(part.query_tokens > 8 for part in rebuilt)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_row_without_finite_logits_fails_alone_and_leaves_nothing_behind_in_the_pages_it_had(schedule):
    model = full_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[POISON] = float("nan")
        model.lm_head.weight[POISON] = 0.0
        model.usable_vocab = POISON
    for cfg_scale in (0.0, 1.0):
        policy = DecodePolicy(Threshold(0.3), 1.0, schedule=schedule, logits=Logits(cfg_scale=cfg_scale))
        requests = requests_of([9, 2, 5, 14, 3, 8], 12, vocab=POISON)
        requests[3] = Request("t/bad", 0, np.r_[requests[3].prompt_ids, POISON], 12)
        expected = [None if i == 3 else decode_one(model, r, policy, ()) for i, r in enumerate(requests)]
        for rows in (2, 6):
            decoder = BlockDecoder(model, (), rows=rows, page_tokens=4)
            found = sorted(decoder.stream(requests, policy), key=lambda outcome: outcome.index)
            assert [outcome.error is not None for outcome in found] == [i == 3 for i in range(6)]
            assert "t/bad: the model's probabilities are not" in str(found[3].error)
            for outcome, alone in zip(found, expected, strict=True):
                if alone is not None:
                    np.testing.assert_array_equal(outcome.trajectory.token_ids, alone.token_ids)
                    np.testing.assert_array_equal(outcome.trajectory.reveal_step, alone.reveal_step)


def test_the_ledger_says_what_each_schedule_computes():
    """Kinds, query positions and keys of a forward's parts; the refreshes of two blocks, and what lies between them."""
    model, (request,) = full_model(), requests_of([5], 8)
    seen = {}
    for name, schedule in (("none", FullSequence(4)), ("prefix", PrefixCache(4)), ("dual", DualCache(4)),
                           ("refreshed", DualCache(4, refresh_every=2))):  # fmt: skip
        decoder = BlockDecoder(model, ())
        decoder.decode([request], DecodePolicy(Quota(4), schedule=schedule, **WHOLE))
        parts = [part for forward in decoder.ledger.forwards for part in forward.parts]
        assert {part.kv_tokens for part in parts} == {13} and sum(part.revealed for part in parts) == 8
        seen[name] = [(part.kind[0], part.query_tokens) for part in parts]
    full, again = ("r", 13), ("d", 13)
    assert seen["none"] == [again] * 8
    assert seen["prefix"] == [full, *[("d", 8)] * 3, full, *[("d", 4)] * 3]
    assert seen["dual"] == [full, *[("d", 4)] * 3] * 2
    assert seen["refreshed"] == [full, ("d", 4)] * 4
