"""What forwards cost: positions and attended keys, of each response and in the ledger, and the numbers made of them."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from fixtures.decodes import CACHES, POLICY, STOPS, WORK
from fixtures.tiny import requests_of, tiny_config, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.decoding import scheduler, tpf_variants
from lightningrl.decoding.engine import BlockDecoder, Pool
from lightningrl.decoding.ledger import WITHOUT_TOKENS
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.reference import decode_one
from lightningrl.decoding.row_state import pages_of
from lightningrl.decoding.schedules.autoregressive import Autoregressive
from lightningrl.decoding.schedules.block import FusedCommit, Recompute, SeparateCommit
from lightningrl.decoding.schedules.full_sequence import DualCache, FullSequence, PrefixCache
from lightningrl.decoding.schedules.multi_block import BlockBuffer, BlockPipeline, MultiBlock
from lightningrl.decoding.schedules.sub_block import SubBlocks
from lightningrl.decoding.selectors.quota import Quota
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.window import Window
from lightningrl.models.attention import key_limits, keys_attended
from lightningrl.types import DecodeStats


def work(stats):
    return tuple(getattr(stats, name) for name in WORK)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    attention=st.sampled_from(["block_causal", "full", "causal"]), size=st.integers(1, 5),
    ends=st.lists(st.integers(1, 23), min_size=1, max_size=4), data=st.data(),
)  # fmt: skip
def test_the_closed_form_of_attended_keys_is_the_sum_of_every_positions_limit(attention, size, ends, data):
    """Canvases that end inside a block of the model's grid, too."""
    config = tiny_config(block_size=size, attention=attention)
    bounds = [sorted(data.draw(st.lists(st.integers(0, end), min_size=2, max_size=2))) for end in ends]
    first_B, last_B = np.array(bounds).T
    if data.draw(st.booleans(), "whole blocks"):
        first_B, last_B = first_B // size * size, last_B // size * size
    summed = [
        int(key_limits(config, np.arange(first, last)[None], np.array([end])).sum())
        for first, last, end in zip(first_B, last_B, ends, strict=True)
    ]
    assert keys_attended(config, first_B, last_B, np.array(ends)).tolist() == summed


def totals(ledger):
    """(positions, keys) of each kind."""
    found = Counter()
    for part in (part for forward in ledger.forwards for part in forward.parts):
        found[f"{part.kind}_positions"] += part.positions
        found[f"{part.kind}_keys"] += part.keys
    return found


def check_sums(decoder, trajectories):
    """Responses and ledger have counted the same: a prefill, and everything else but what was computed again."""
    found = totals(decoder.ledger)
    for what in ("positions", "keys"):
        decoded = sum(found[name] for name in found if name.endswith(what) and not name.startswith(WITHOUT_TOKENS))
        assert found[f"prefill_{what}"] == sum(getattr(t.stats, f"prefill_{what}") for t in trajectories)
        assert decoded == sum(getattr(t.stats, f"decode_{what}") for t in trajectories)
    return found


def watched(monkeypatch):
    """(positions, keys) of every forward that the model is really given: the keys that its masks leave visible."""
    launched, hidden = [], Pool.hidden

    def watching(pool, spans, ids_N):
        seen = 0
        for span in spans:
            all_of_them = span.rows * span.queries * span.kv_tokens
            seen += all_of_them - (0 if span.hidden_GQT is None else int(span.hidden_GQT.sum()))
        launched.append((len(ids_N), seen))
        return hidden(pool, spans, ids_N)

    monkeypatch.setattr(Pool, "hidden", watching)
    return launched


@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_sums_over_responses_are_the_ledgers_and_what_the_masks_leave_visible_whatever_is_preempted(data):
    """Random prompts, schedules, rows and memory. A row that lost its pages has the counts that it has alone, and what
    it computes again is in the ledger as `recompute`."""
    size = data.draw(st.sampled_from([1, 3, 4]), "block_size")
    attention = data.draw(st.sampled_from(["block_causal", "full", "causal"]), "attention")
    model = tiny_model(data.draw(st.integers(0, 9), "weights"), torch.float64, block_size=size, attention=attention)
    schedules = [FullSequence(3)] if attention == "full" else [*CACHES.values(), FullSequence(3)]
    schedule = data.draw(st.sampled_from(schedules), "schedule")
    requests = requests_of(data.draw(st.lists(st.integers(1, 17), min_size=1, max_size=5), "prompts"), 9, seed=2)
    policy = dataclasses.replace(data.draw(POLICY), schedule=schedule)
    decoder = BlockDecoder(model, STOPS, rows=data.draw(st.integers(1, 5), "rows"), page_tokens=size * 4)
    longest = max(-(-(len(r.prompt_ids) + 12) // decoder.page_tokens) for r in requests)
    decoder.memory_bytes = (longest + data.draw(st.integers(0, 2), "more_pages")) * decoder.page_bytes
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(scheduler, "CHUNK_TOKENS", data.draw(st.sampled_from([2, 8, 2048]), "chunk"))
        launched = watched(monkeypatch)
        found = decoder.decode(requests, policy)
    alone = [decode_one(model, request, policy, STOPS) for request in requests]
    assert [work(t.stats) for t in found] == [work(t.stats) for t in alone]
    check_sums(decoder, found)
    per_forward = [(f.positions, sum(part.keys for part in f.parts)) for f in decoder.ledger.forwards]
    assert per_forward == launched


REST = {
    ("full", False): [
        PrefixCache(4), PrefixCache(4, 2, refresh_every=2), DualCache(4), DualCache(4, refresh_every=3),
        BlockPipeline(4, 0.1, 0.5), MultiBlock(4, 0.1, 0.5), MultiBlock(4, 0.1, 0.5, cache_delay_iter=1),
        MultiBlock(4, 0.0, 0.3, cache_delay_iter=2, refresh_interval=3, compat=True),
    ],
    ("block_causal", False): [FusedCommit(), DualCache(4), BlockBuffer(1), BlockBuffer(4, 0.1, 0.25)],
    ("block_causal", True): [SubBlocks(1), SubBlocks(2), SubBlocks(2, caches_block=True), SubBlocks(4, compat=True)],
    ("causal", True): [Autoregressive(), Autoregressive()],
}  # fmt: skip
"""Schedules of canvases, windows and sub-blocks, by the attention and whether logits are shifted."""


@pytest.mark.parametrize(("attention", "logit_shift"), REST)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_so_they_are_with_caches_of_canvases_windows_sub_blocks_and_twins(attention, logit_shift, data):
    """A row with a twin (`cfg_scale`) counts both. Where memory is short, rows that kept a stale cache compute it
    again."""
    shape = {"block_size": 4, "attention": attention, "logit_shift": logit_shift}
    model = tiny_model(data.draw(st.integers(0, 9), "weights"), torch.float64, **shape)
    requests = requests_of(data.draw(st.lists(st.integers(1, 13), min_size=1, max_size=5), "prompts"), 12, seed=2)
    for at, request in enumerate(requests):
        policy = DecodePolicy(
            data.draw(st.sampled_from([Threshold(0.2), Threshold(0.9)])), data.draw(st.sampled_from([0.0, 1.0])),
            schedule=data.draw(st.sampled_from(REST[attention, logit_shift])), seed=at,
        )  # fmt: skip
        if not isinstance(policy.schedule, Window) and data.draw(st.booleans(), "twin"):
            policy = dataclasses.replace(policy, logits=Logits(cfg_scale=1.0))
        requests[at] = dataclasses.replace(request, policy=policy)
    decoder = BlockDecoder(model, STOPS, rows=data.draw(st.integers(1, 5), "rows"), page_tokens=4)
    canvases = [(r.policy, r.canvas(r.policy, 4, model.config.mask_token_id)[1]) for r in requests]
    longest = max(pages_of(policy, policy.schedule.extent(canvas), 4) for policy, canvas in canvases)
    decoder.memory_bytes = (longest + data.draw(st.integers(0, 4), "more_pages")) * decoder.page_bytes
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(scheduler, "CHUNK_TOKENS", data.draw(st.sampled_from([4, 2048]), "chunk"))
        launched = watched(monkeypatch)
        found = decoder.decode(requests, requests[0].policy)
    alone = [decode_one(model, request, request.policy, STOPS) for request in requests]
    assert [t.stats for t in found] == [t.stats for t in alone]
    check_sums(decoder, found)
    per_forward = [(f.positions, sum(part.keys for part in f.parts)) for f in decoder.ledger.forwards]
    assert per_forward == launched


def test_what_a_preempted_row_computes_again_is_said_and_is_in_no_responses_counts():
    model = tiny_model(3, torch.float64)
    requests, policy = requests_of([5, 9, 7, 13], 20), DecodePolicy(Threshold(0.3), seed=3)
    plenty, scarce = (BlockDecoder(model, (), rows=4, page_tokens=4) for _ in range(2))
    scarce.memory_bytes = 12 * scarce.page_bytes
    whole, found = plenty.decode(requests, policy), scarce.decode(requests, policy)
    assert scarce.ledger.preemptions > 0 == plenty.ledger.preemptions
    assert [t.stats for t in found] == [t.stats for t in whole]
    usual, again = check_sums(plenty, whole), check_sums(scarce, found)
    assert again["recompute_positions"] > 0 and again["recompute_keys"] > 0 and "recompute_positions" not in usual
    assert scarce.ledger.positions == plenty.ledger.positions + again["recompute_positions"]


def test_the_keys_of_a_block_causal_decode_in_closed_form():
    """Prompt of p full blocks, n blocks decoded in T forwards each. In a forward of block b = p, p + 1, ..., K queries
    see b + 1 blocks of K keys: T K K (b + 1). All but the last are computed once more, clean, and see as much."""
    size, prompt, blocks, steps = 4, 2, 3, 4
    model = tiny_model(1, torch.float64, block_size=size)
    requests = requests_of([prompt * size], blocks * size)
    seen = [size * size * (b + 1) for b in range(prompt + blocks)]
    for schedule in (FusedCommit(), SeparateCommit()):
        [got] = BlockDecoder(model, ()).decode(requests, DecodePolicy(Quota(steps), schedule=schedule))
        stats = got.stats
        assert (stats.prefill_positions, stats.prefill_keys) == (prompt * size, sum(seen[:prompt])) == (8, 48)
        assert stats.decode_positions == size * (blocks * steps + blocks - 1) == 56
        assert stats.decode_keys == steps * sum(seen[prompt:]) + sum(seen[prompt:-1]) == 4 * 192 + 112
    [got] = BlockDecoder(model, ()).decode(requests, DecodePolicy(Quota(steps), schedule=Recompute()))
    assert work(got.stats) == (0, 0, steps * (12 + 16 + 20), steps * (sum(seen[:3]) + sum(seen[:4]) + sum(seen)))
    [got] = BlockDecoder(model, ()).decode(requests, DecodePolicy(Quota(steps), schedule=FullSequence(size)))
    assert work(got.stats) == (0, 0, 12 * 20, 12 * sum(seen))
    full = tiny_model(1, torch.float64, block_size=size, attention="full")
    [got] = BlockDecoder(full, ()).decode(requests, DecodePolicy(Quota(steps), schedule=FullSequence(size)))
    assert work(got.stats) == (0, 0, 12 * 20, 12 * 20 * 20), "every position sees the whole canvas"


@pytest.mark.parametrize("forwards", ["spans", "gathered", "turns"])
@pytest.mark.parametrize("schedule", [FusedCommit(), SeparateCommit()])
def test_every_way_of_launching_forwards_counts_the_same(forwards, schedule):
    model = tiny_model(4, torch.float64)
    requests, policy = requests_of([1, 4, 6, 11, 3], 14), DecodePolicy(Threshold(0.25), schedule=schedule)
    decoder = BlockDecoder(model, STOPS, rows=3, forwards=forwards)
    found = decoder.decode(requests, policy)
    assert [work(t.stats) for t in found] == [work(decode_one(model, r, policy, STOPS).stats) for r in requests]
    check_sums(decoder, found)


def test_the_device_turns_table_names_as_many_keys_as_are_counted(monkeypatch):
    from lightningrl.decoding import device_turn

    named, run = [], device_turn.DeviceTurns.run

    def noting(turns, rows, slots_B, committed_C, rules):
        found, active = run(turns, rows, slots_B, committed_C, rules), len(slots_B)
        first = device_turn.shape_of(active, len(committed_C))[0]
        lines = [*range(active), *range(first, first + len(committed_C))]
        named.append((turns.size * len(lines), turns.size * int(turns._table[lines, device_turn.USED].sum())))
        return found

    monkeypatch.setattr(device_turn.DeviceTurns, "run", noting)
    decoder = BlockDecoder(tiny_model(4, torch.float64), STOPS, rows=3, forwards="turns")
    decoder.decode(requests_of([1, 4, 6, 11, 3], 14), DecodePolicy(Threshold(0.25)))
    turns = [f for f in decoder.ledger.forwards if all(part.kind not in WITHOUT_TOKENS for part in f.parts)]
    assert len(named) > 5
    assert [(f.positions, sum(part.keys for part in f.parts)) for f in turns if len(named)][-len(named) :] == named


# Two responses to prompts of 6 tokens, blocks of 4, decoded with separate commits. The first is that of
# tests/decoding/test_decoder_scripted.py: 5 tokens with the stop token, 4 denoise forwards, 1 commit, 1 prefill. It
# computes the prompt's full block once (4 positions that see 4 keys each), the block at 4 in 2 forwards and in its
# commit (4 positions, 8 keys), the block at 8 in 2 (4 positions, 12 keys). The second ends at the limit: 2 tokens in 1
# denoise forward (block at 4), 1 prefill.
FIRST = DecodeStats(5, 6, 4, 1, 1, 4, 4 * 4, 5 * 4, 3 * 4 * 8 + 2 * 4 * 12)
SECOND = DecodeStats(2, 2, 1, 0, 1, 4, 4 * 4, 4, 4 * 8)


def test_every_number_by_hand_from_one_run():
    found = tpf_variants.views([FIRST, SECOND], ["eos", "length"])
    assert found == pytest.approx({
        # content: 5 - 1 stop token, and 2; forwards: 4 + 1 + 1, and 1 + 0 + 1
        "tpf_harness": (4 + 2) / (6 + 2),
        # 5 tokens in 6 rounds, 2 in 2: the mean of the ratios
        "tpf_rounds_mean": (5 / 6 + 2 / 2) / 2,
        # 4 + 20 and 4 + 4 positions for 7 tokens; without the prefills 20 + 4
        "positions_per_token": (24 + 8) / 7,
        "positions_per_token_decode": (20 + 4) / 7,
        # 16 + 96 + 96 and 16 + 32 keys for 7 tokens; without the prefills 192 + 32
        "keys_per_token": (208 + 48) / 7,
        "keys_per_token_decode": (192 + 32) / 7,
    })  # fmt: skip
    assert tuple(found) == tpf_variants.VIEWS
    assert (FIRST.tpf, FIRST.tpf_true, SECOND.tpf, SECOND.tpf_true) == (5 / 4, 5 / 5, 2, 2)


def test_the_paper_and_the_same_labs_engine_count_one_run_differently():
    """Why one model has two published numbers: the paper's count leaves the commits out and takes text behind the stop
    token in (`tpf_paper`); the engine's counts every round and takes the mean of ratios (`tpf_rounds_mean`)."""
    model, policy = tiny_model(4, torch.float64), DecodePolicy(Threshold(0.3), schedule=SeparateCommit())
    requests = [Request(f"t/test/{i}", 0, np.arange(8) + i % 3, 40) for i in range(6)]
    found = BlockDecoder(model, STOPS).decode(requests, policy)
    visible = [tpf_variants.visible_tokens(t, STOPS) for t in found]
    steps = [tpf_variants.distinct_steps(t) for t in found]
    paper = sum(visible) / sum(steps)
    rounds = [1 + t.stats.denoise_forwards + t.stats.commit_forwards for t in found]
    engine = np.mean([t.response_len / n for t, n in zip(found, rounds, strict=True)])
    assert tpf_variants.views([t.stats for t in found], [t.stop for t in found])["tpf_rounds_mean"] == engine < paper
    assert sum(t.stats.commit_forwards for t in found) > 0


def test_a_count_that_one_response_lacks_leaves_only_what_needs_it_unknown():
    old = dataclasses.replace(SECOND, **dict.fromkeys(WORK))
    found = tpf_variants.views([FIRST, old], ["eos", "length"])
    assert found["tpf_harness"] == (4 + 2) / (6 + 2) and found["tpf_rounds_mean"] is not None
    assert {name for name in found if found[name] is None} == {n for n in tpf_variants.VIEWS if "per_token" in n}
    assert tpf_variants.views([FIRST, SECOND], ["eos", None])["tpf_harness"] is None, "how it ended is not known"
