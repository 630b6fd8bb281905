"""A prompt that several rows have is computed once and shared, and nobody's response depends on it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.decodes import CACHES, same
from fixtures.tiny import requests_of, tiny_model

from lightningrl.decoding import scheduler
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.reference import decode_one
from lightningrl.decoding.scheduler import Scheduler
from lightningrl.decoding.schedules.block import FusedCommit, Recompute
from lightningrl.decoding.schedules.full_sequence import FullSequence
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.stops import InsideBlock
from lightningrl.errors import DecodeError

STOPS = (3, 7)
POLICY = DecodePolicy(Threshold(0.25), 1.0, seed=3)
SAMPLES = 5


def samples(lengths, max_new_tokens=22, count=SAMPLES):
    """`count` requests for each of a few prompts, one after another."""
    prompts = requests_of(lengths, max_new_tokens)
    return [replace(prompt, sample=sample) for prompt in prompts for sample in range(count)]


def prefilled(decoder):
    return sum(p.positions for f in decoder.ledger.forwards for p in f.parts if p.kind == "prefill")


@pytest.fixture(scope="module")
def model():
    return tiny_model(4, torch.float64)


@pytest.fixture(scope="module")
def requests():
    """Prompts of 2, 2, 1 and 0 whole pages of 16 positions, with rests of 6, 0, 9 and 13."""
    return samples([38, 32, 25, 13])


@pytest.fixture(scope="module")
def alone(model, requests):
    """Each by the plain decoder."""
    return [decode_one(model, request, POLICY, STOPS) for request in requests]


@pytest.mark.parametrize(
    ("forwards", "rows"), [("spans", 1), ("spans", 4), ("spans", 64), ("gathered", 4), ("turns", 4)]
)
def test_responses_are_those_of_each_alone_and_whole_pages_are_computed_once(model, requests, alone, rows, forwards):
    decoder = BlockDecoder(model, STOPS, rows=rows, forwards=forwards)
    same(decoder.decode(requests, POLICY), alone)
    # Blocks of 4: of the rests 4, 0, 8 and 12 positions are whole blocks before the first decoded one.
    assert prefilled(decoder) == (32 + 32 + 16 + 0) + SAMPLES * (4 + 0 + 8 + 12)
    assert decoder.ledger.preemptions == 0


def test_separate_commits_share_too_and_schedules_that_recompute_or_do_not_say_so_compute_their_own(model, requests):
    class Unsaid(FusedCommit):
        shares_prompt = False

    for schedule, positions in ((CACHES["separate"], 200), (Unsaid(), SAMPLES * 104), (Recompute(), 0)):
        policy, decoder = replace(POLICY, schedule=schedule), BlockDecoder(model, STOPS, rows=8)
        same(decoder.decode(requests, policy), [decode_one(model, request, policy, STOPS) for request in requests])
        assert prefilled(decoder) == positions


def test_a_schedule_that_says_so_and_computes_the_prompt_again_is_refused(model, requests):
    class Wrong(Recompute):
        keeps_blocks = shares_prompt = True

    with pytest.raises(DecodeError, match="computes a shared prompt again: its `shares_prompt` must be False"):
        BlockDecoder(model, STOPS).decode(requests, replace(POLICY, schedule=Wrong()))


def test_a_prompt_in_chunks_is_waited_for(model, alone, requests, monkeypatch):
    monkeypatch.setattr(scheduler, "CHUNK_TOKENS", 8)
    decoder = BlockDecoder(model, STOPS, rows=4)
    same(decoder.decode(requests, POLICY), alone)
    assert prefilled(decoder) == 80 + SAMPLES * 24


@pytest.mark.parametrize(("pages", "cache"), [(5, "fused"), (7, "fused"), (11, "fused"), (5, "separate")])
def test_with_little_memory_pages_are_counted_right_and_the_responses_are_the_same(
    model, requests, alone, pages, cache, monkeypatch
):
    """The longest request needs 4 pages. After each turn a page is free or held; it has two holders only if shared."""
    take_turn, put_off = Scheduler._turn, []

    def checking(run):
        rows = run.rows
        held = [(slot, page) for slot, pages in enumerate(rows.held) for page in pages]
        idle = [page for prefix in rows.prefixes.known.values() if not prefix.holders for page in prefix.pages]
        assert sorted({page for _, page in held} | set(rows.free) | set(idle)) == list(range(pages))
        assert len(rows.free) + len(idle) + len({page for _, page in held}) == pages
        for prefix in rows.prefixes.known.values():
            holders = {slot for slot, page in held if page in prefix.pages}
            assert len(holders) == prefix.holders
            assert len({rows.item[slot].request.prompt_ids.tobytes() for slot in holders}) <= 1
        alone = [page for _, page in held if page not in rows.prefixes.pages]
        assert len(set(alone)) == len(alone)
        return take_turn(run)

    monkeypatch.setattr(Scheduler, "_turn", checking)
    for count in (len(requests), 3 * SAMPLES):
        decoder = BlockDecoder(model, STOPS, rows=6)
        decoder.memory_bytes = pages * decoder.page_bytes
        policy = replace(POLICY, schedule=CACHES[cache])
        asked = sorted(requests[:count], key=lambda request: request.sample)  # samples far apart
        expected = dict(zip([(r.uid, r.sample) for r in requests], alone, strict=True))
        but = ("stats", "schedule") if cache == "separate" else ()
        same(decoder.decode(asked, policy), [expected[r.uid, r.sample] for r in asked], but=but)
        put_off.append(decoder.ledger.preemptions)
    assert any(put_off) or pages == 11


class Later:
    """Releases requests one after another, some turns apart."""

    at_once = 3

    def __init__(self, count, every):
        self.count, self.every, self.calls = count, every, 0

    def __call__(self):
        self.calls += 1
        released = (self.calls - 1) // self.every
        return None if released > self.count else released


@pytest.mark.parametrize("every", [1, 40])
def test_requests_that_come_later_are_decoded_the_same_and_refused_when_they_come(model, requests, alone, every):
    """With 40 turns between them nothing is left to do when the next one comes."""
    long = replace(requests[0], uid="t/train/long", prompt_ids=np.zeros(200, dtype=np.int64))
    asked = [*requests[:4], long, *requests[4:]]
    decoder, release, seen = BlockDecoder(model, STOPS, rows=8), Later(len(asked), every), {}
    for outcome in decoder.stream(asked, POLICY, release=release):
        assert outcome.index < (release.calls - 1) // every, "not before it was released"
        seen[outcome.index] = outcome
    assert sorted(seen) == list(range(len(asked)))
    assert "the model has 128" in str(seen.pop(4).error)
    same([seen[index].trajectory for index in sorted(seen)], alone)
    assert max(sum(p.rows for p in f.parts) for f in decoder.ledger.forwards) <= 3


def test_what_is_not_released_is_not_decoded(model, requests):
    decoder = BlockDecoder(model, STOPS)
    release = Later(2, 1)
    assert sorted(o.index for o in decoder.stream(requests, POLICY, release=release)) == [0, 1]


@pytest.mark.parametrize("every", [1, 40])
def test_requests_of_other_block_sizes_that_come_later_wait_for_the_rows_before_them(model, every):
    """Rows decoded together have blocks of one size; of prompts that come later, too, none is lost or waits forever."""
    policies = {size: replace(POLICY, schedule=FullSequence(size), stop=InsideBlock()) for size in (2, 4)}
    asked = [replace(r, policy=policies.get(at % 3 * 2)) for at, r in enumerate(samples([9, 13], 8, count=4))]
    alone = [decode_one(model, request, request.policy or POLICY, STOPS) for request in asked]
    decoder, release = BlockDecoder(model, STOPS, rows=8), Later(len(asked), every)
    found = sorted(decoder.stream(asked, POLICY, release=release), key=lambda outcome: outcome.index)
    same([outcome.trajectory for outcome in found], alone)
    assert {each.block_size for each in alone} == {2, 4}
