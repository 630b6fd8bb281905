"""200 requests of very different lengths through pages for a tenth of them: all finish, right, in their turn."""

import numpy as np
import pytest
import torch
from fixtures.decodes import CACHES, same
from fixtures.tiny import requests_of, tiny_model

from lightningrl.decoding import engine, scheduler
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.row_state import Rows
from lightningrl.decoding.scheduler import Scheduler
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
    news = rng.integers(5, 100, 200)
    made = [Request(r.uid, r.sample, r.prompt_ids, int(new)) for r, new in zip(prompts, news, strict=True)]
    made[NEVER_FITS] = Request("t/train/never", 0, rng.integers(0, 23, 3000), 50)
    return made


@pytest.fixture(scope="module")
def unconstrained(model, requests):
    """Those of the requests that can fit, in order."""
    fitting = [request for request in requests if len(request.prompt_ids) < 3000]
    decoder = BlockDecoder(model, STOPS, rows=64)
    found = decoder.decode(fitting, DecodePolicy(Threshold(0.3), 1.0))
    assert decoder.ledger.preemptions == 0
    return found


@pytest.mark.parametrize("cache", ["fused", "separate"])
def test_200_requests_through_a_tenth_of_their_memory_finish_right_in_turn_and_within_the_budget(
    model, requests, unconstrained, cache, monkeypatch
):
    caches, put_off, turns, save, take_turn = [], [], [], Rows.save, Scheduler._turn
    need = [-(-(len(r.prompt_ids) + r.max_new_tokens) // 4) for r in requests]
    pages = (sum(need) - need[NEVER_FITS]) // 10
    assert max(n for i, n in enumerate(need) if i != NEVER_FITS) < pages < need[NEVER_FITS]

    def noting(rows, slot):
        put_off.append((rows.item[slot].index, [item.index for item in rows.item.values()]))
        return save(rows, slot)

    def checking(scheduler):
        held = [page for slot in scheduler.rows.held for page in slot]
        assert len(set(held)) == len(held) == pages - len(scheduler.rows.free), "a page has one holder"
        waiting = [item.index for item in scheduler.waiting]
        running = [item.index for item in scheduler.rows.item.values()]
        assert waiting == sorted(waiting) and max(running) < min([*waiting, 200]), "the oldest are served first"
        turns.append(len(running))
        return take_turn(scheduler)

    monkeypatch.setattr(engine, "PagedKV", lambda *a: caches.append(PagedKV(*a)) or caches[-1])
    monkeypatch.setattr(Rows, "save", noting)
    monkeypatch.setattr(Scheduler, "_turn", checking)
    decoder = BlockDecoder(model, STOPS, rows=200, page_tokens=4)
    decoder.memory_bytes = pages * decoder.page_bytes
    finished, policy = {}, DecodePolicy(Threshold(0.3), 1.0, schedule=CACHES[cache])
    for outcome in decoder.stream(requests, policy):
        assert outcome.index not in finished, "an outcome a request"
        finished[outcome.index] = outcome, len(turns)

    assert sorted(finished) == list(range(200)), "no request is lost"
    refused, turn = finished.pop(NEVER_FITS)
    assert turn == 0, "it is refused before anything is computed"
    assert refused.trajectory is None and isinstance(refused.error, DecodeError)
    assert str(refused.error).startswith("t/train/never: 3000 prompt tokens and 50 new ones need")
    in_order = [finished[index] for index in sorted(finished)]
    found = [outcome.trajectory for outcome, _ in in_order]
    same(found, unconstrained, but=("stats", "schedule"))
    for name in ("denoise_forwards", "prefill_forwards"):
        assert [getattr(t.stats, name) for t in found] == [getattr(t.stats, name) for t in unconstrained]
    (allocated,) = caches
    assert allocated.nbytes <= decoder.memory_bytes
    assert decoder.ledger.preemptions == len(put_off) > 10
    # The oldest is never put off, so in every turn it goes on: a request is done at the latest after as many turns as
    # it and all older ones would take one after another, and one for each to be taken up again.
    assert all(index != min(running) for index, running in put_off)
    spent = 0
    for outcome, turn in in_order:
        stats = outcome.trajectory.stats
        spent += stats.prefill_forwards + stats.denoise_forwards + stats.commit_forwards + 1
        assert turn <= spent, f"request {outcome.index} is done after {turn} turns"
    assert len(turns) < spent / 5 and max(turns) > 10, "and they share their turns"


def test_a_long_request_among_short_ones_that_keep_coming_is_not_starved(model):
    """The first needs nearly all pages at its end; the short ones behind it wait then, and are not lost."""
    requests = [Request("t/train/long", 0, np.arange(8), 120)]
    requests += [Request(f"t/train/{i}", 0, np.arange(1 + i % 5), 6) for i in range(60)]
    decoder = BlockDecoder(model, (), rows=16, page_tokens=4)
    decoder.memory_bytes = 33 * decoder.page_bytes
    turns = {o.index: len(decoder.ledger.forwards) for o in decoder.stream(requests, DecodePolicy(Threshold(1.0)))}
    assert sorted(turns) == list(range(61)) and decoder.ledger.preemptions > 0
    # 120 tokens one at a time and a prefill; no forward is spent on the others alone before it has ended.
    assert turns[0] == 121


@pytest.mark.parametrize("cache", ["fused", "separate"])
def test_a_prompt_prefilled_in_chunks_is_answered_the_same(cache, monkeypatch):
    model = tiny_model(2, torch.float64)
    requests = requests_of([1, 4, 6, 11, 23, 40, 37], 14)
    policy = DecodePolicy(Threshold(0.25), schedule=CACHES[cache])
    whole = BlockDecoder(model, STOPS, rows=3).decode(requests, policy)
    monkeypatch.setattr(scheduler, "CHUNK_TOKENS", 8)
    decoder = BlockDecoder(model, STOPS, rows=3)
    chunked = decoder.decode(requests, policy)
    same(chunked, whole)
    lengths = [p.query_tokens for f in decoder.ledger.forwards for p in f.parts if p.kind == "prefill"]
    assert max(lengths) == 8 and len(lengths) > sum(t.stats.prefill_forwards for t in chunked)


def test_short_rows_beside_a_long_one_do_not_attend_over_its_length(model):
    short, policy = requests_of([1, 4, 6, 11], 14), DecodePolicy(Threshold(0.25))
    long = Request("t/train/long", 0, np.arange(600) % 23, 14)
    decoder = BlockDecoder(model, STOPS)
    *found, last = decoder.decode([*short, long], policy)
    same(found, BlockDecoder(model, STOPS).decode(short, policy))
    parts = [part for forward in decoder.ledger.forwards for part in forward.parts]
    assert sum(part.rows for part in parts if part.kv_tokens >= 600) == last.stats.denoise_forwards + 1
    assert all(part.kv_tokens <= 28 for part in parts if part.kv_tokens < 600)
