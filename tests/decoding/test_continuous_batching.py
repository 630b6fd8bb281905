"""200 requests of very different lengths through pages for a tenth of them: all finish, right, in their turn."""

import numpy as np
import pytest
import torch
from fixtures.tiny import requests_of, tiny_model

from lightningrl.decoding import page_pool, scheduler
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.row_state import Rows
from lightningrl.decoding.schedules.block import FusedCommit, SeparateCommit
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import DecodeError
from lightningrl.models.attention import PagedKV

STOPS = (3, 7)
NEVER_FITS = 77


@pytest.fixture(scope="module")
def model():
    return tiny_model(4, torch.float64, num_hidden_layers=1, max_position_embeddings=4096)


@pytest.fixture(scope="module")
def requests():
    """Prompts of 1 to 150 tokens, most of them short; answers of at most 5 to 100; one that no budget here holds."""
    rng = np.random.default_rng(3)
    prompts = requests_of(np.minimum(150, 1 + rng.exponential(25, 200).astype(int)).tolist(), 1)
    made = [
        Request(r.uid, r.sample, r.prompt_ids, int(new))
        for r, new in zip(prompts, rng.integers(5, 100, 200), strict=True)
    ]
    made[NEVER_FITS] = Request("t/train/never", 0, rng.integers(0, 23, 3000), 50)
    return made


@pytest.fixture(scope="module")
def unconstrained(model, requests):
    fitting = [request for request in requests if len(request.prompt_ids) < 3000]
    decoder = BlockDecoder(model, STOPS, rows=64)
    found = iter(decoder.decode(fitting, DecodePolicy(Threshold(0.3), 1.0)))
    assert decoder.ledger.preemptions == 0
    return [None if index == NEVER_FITS else next(found) for index in range(200)]


@pytest.mark.parametrize("cache", [FusedCommit(), SeparateCommit()], ids=["fused", "separate"])
def test_200_requests_through_a_tenth_of_their_memory_finish_right_in_turn_and_within_the_budget(
    model, requests, unconstrained, cache, monkeypatch
):
    caches, put_off, turns = [], [], []
    monkeypatch.setattr(page_pool, "PagedKV", lambda *a: caches.append(PagedKV(*a)) or caches[-1])
    save = Rows.save

    def noting(rows, slot):
        running = [rows.item[s].index for s in np.flatnonzero(rows.busy)]
        put_off.append((rows.item[slot].index, running))
        return save(rows, slot)

    monkeypatch.setattr(Rows, "save", noting)
    take_turn = scheduler.Scheduler._turn

    def checking(scheduler):
        held = [page for slot in scheduler.rows.held for page in slot]
        assert len(set(held)) == len(held) == pages - len(scheduler.rows.free), "a page has one holder"
        waiting = [item.index for item in scheduler.waiting]
        running = [scheduler.rows.item[slot].index for slot in np.flatnonzero(scheduler.rows.busy)]
        assert waiting == sorted(waiting) and max(running) < min([*waiting, 200]), "the oldest are served first"
        turns.append(len(running))
        return take_turn(scheduler)

    monkeypatch.setattr(scheduler.Scheduler, "_turn", checking)

    decoder = BlockDecoder(model, STOPS, rows=200, page_tokens=4)
    need = [-(-(len(r.prompt_ids) + r.max_new_tokens) // 4) for r in requests]
    pages = (sum(need) - need[NEVER_FITS]) // 10
    assert max(n for i, n in enumerate(need) if i != NEVER_FITS) < pages < need[NEVER_FITS]
    decoder.memory_bytes = pages * decoder.page_bytes
    finished, policy = {}, DecodePolicy(Threshold(0.3), 1.0, schedule=cache)
    for outcome in decoder.stream(requests, policy):
        assert outcome.index not in finished, "an outcome a request"
        finished[outcome.index] = outcome, len(turns)

    assert sorted(finished) == list(range(200)), "no request is lost"
    refused = finished[NEVER_FITS][0]
    assert refused.trajectory is None and isinstance(refused.error, DecodeError)
    assert str(refused.error).startswith("t/train/never: 3000 prompt tokens and 50 new ones need")
    assert finished[NEVER_FITS][1] == 0, "it is refused before anything is computed"
    for index, expected in enumerate(unconstrained):
        if expected is not None:
            got = finished[index][0].trajectory
            np.testing.assert_array_equal(got.token_ids, expected.token_ids)
            np.testing.assert_array_equal(got.reveal_step, expected.reveal_step)
            np.testing.assert_allclose(got.behaviour_logp, expected.behaviour_logp, atol=1e-6)
            assert got.stats.denoise_forwards == expected.stats.denoise_forwards
            assert got.stats.prefill_forwards == expected.stats.prefill_forwards

    (allocated,) = caches
    assert allocated.nbytes <= decoder.memory_bytes
    assert decoder.ledger.preemptions == len(put_off) > 10
    # The oldest is never put off, so in every turn it goes on: a request is done at the latest after as many turns as
    # it and all older ones would take one after another, and one for each to be taken up again.
    assert all(index != min(running) for index, running in put_off)
    spent = 0
    for index in range(200):
        outcome, turn = finished[index]
        if outcome.trajectory is not None:
            stats = outcome.trajectory.stats
            spent += stats.prefill_forwards + stats.denoise_forwards + stats.commit_forwards + 1
            assert turn <= spent, f"request {index} is done after {turn} turns"
    assert len(turns) < spent / 5 and max(turns) > 10, "and they share their turns"


def test_a_long_request_among_short_ones_that_keep_coming_is_not_starved(model):
    """The first needs nearly all pages at its end; the short ones behind it wait then, and are not lost."""
    requests = [Request("t/train/long", 0, np.arange(8), 120)]
    requests += [Request(f"t/train/{i}", 0, np.arange(1 + i % 5), 6) for i in range(60)]
    decoder = BlockDecoder(model, (), rows=16, page_tokens=4)
    decoder.memory_bytes = 33 * decoder.page_bytes
    order = [outcome.index for outcome in decoder.stream(requests, DecodePolicy(Threshold(1.0)))]
    assert sorted(order) == list(range(61))
    assert decoder.ledger.preemptions > 0
    # 120 tokens one at a time and a prefill; no forward is spent on the others alone before it has ended.
    decoder.ledger.clear()
    for outcome in decoder.stream(requests, DecodePolicy(Threshold(1.0))):
        if outcome.index == 0:
            assert len(decoder.ledger.forwards) == 121


@pytest.mark.parametrize("cache", [FusedCommit(), SeparateCommit()])
def test_a_prompt_prefilled_in_chunks_is_answered_the_same(cache, monkeypatch):
    model = tiny_model(2, torch.float64)
    requests, policy = requests_of([1, 4, 6, 11, 23, 40, 37], 14), DecodePolicy(Threshold(0.25), schedule=cache)
    whole = BlockDecoder(model, STOPS, rows=3).decode(requests, policy)
    monkeypatch.setattr(scheduler, "CHUNK_TOKENS", 8)
    decoder = BlockDecoder(model, STOPS, rows=3)
    chunked = decoder.decode(requests, policy)
    for one, other in zip(whole, chunked, strict=True):
        assert (one.token_ids.tolist(), one.stats) == (other.token_ids.tolist(), other.stats)
        assert one.reveal_step.tolist() == other.reveal_step.tolist()
    lengths = [p.query_tokens for f in decoder.ledger.forwards for p in f.parts if p.kind == "prefill"]
    assert max(lengths) == 8 and len(lengths) > sum(t.stats.prefill_forwards for t in chunked)


def test_short_rows_beside_a_long_one_do_not_attend_over_its_length(model):
    short = requests_of([1, 4, 6, 11], 14)
    long = Request("t/train/long", 0, np.arange(600) % 23, 14)
    policy = DecodePolicy(Threshold(0.25))
    alone = BlockDecoder(model, STOPS).decode(short, policy)
    decoder = BlockDecoder(model, STOPS)
    found = decoder.decode([*short, long], policy)
    for one, other in zip(alone, found, strict=False):
        assert (one.token_ids.tolist(), one.stats) == (other.token_ids.tolist(), other.stats)
    parts = [part for forward in decoder.ledger.forwards for part in forward.parts]
    assert sum(part.rows for part in parts if part.kv_tokens >= 600) == found[-1].stats.denoise_forwards + 1
    assert all(part.kv_tokens <= 28 for part in parts if part.kv_tokens < 600)
