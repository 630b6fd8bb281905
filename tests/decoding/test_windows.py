"""Windows of several open blocks: the engine against the reference on random shapes, and the laws of each schedule.

D2F's and d3LLM's goldens (test_golden_windows.py) are Dream's, with shifted logits; what they do on LLaDA, without a
shift, is held to the reference here.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.decodes import STOPS, same
from fixtures.naive import Masked
from fixtures.tiny import requests_of, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.proposals import Proposals
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.rankings import Confidence, Margin, NegEntropy
from lightningrl.decoding.reference import decode_one
from lightningrl.decoding.registry import SCHEDULES
from lightningrl.decoding.scheduler import Scheduler
from lightningrl.decoding.schedules.block import FusedCommit, SeparateCommit
from lightningrl.decoding.schedules.full_sequence import DualCache, FullSequence
from lightningrl.decoding.schedules.multi_block import BlockBuffer, BlockPipeline, MultiBlock
from lightningrl.decoding.selectors.cumulative_entropy import CumulativeEntropy
from lightningrl.decoding.selectors.entropy import Entropy
from lightningrl.decoding.selectors.factor import Factor
from lightningrl.decoding.selectors.quota import Quota
from lightningrl.decoding.selectors.quota_threshold import QuotaThreshold
from lightningrl.decoding.selectors.scripted import Scripted
from lightningrl.decoding.selectors.skip_threshold import SkipThreshold
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.selectors.timestep import Timestep
from lightningrl.decoding.stops import FinishBlock, InsideBlock, WholeCanvas
from lightningrl.decoding.window import Window
from lightningrl.models.checkpoint import load_model
from lightningrl.utils.registry import resolve

SIZE = 4
SHARES = st.tuples(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.sampled_from([0.3, 0.95, 1.0]))
PIPELINE = st.builds(lambda shares: BlockPipeline(SIZE, *shares), SHARES)
MULTI = st.builds(
    lambda shares, *rest: MultiBlock(SIZE, *shares, *rest),
    SHARES, st.sampled_from([None, 0, 1, 2, 3]), st.sampled_from([0, 2, 3]), st.booleans(),
)  # fmt: skip
BUFFER = st.builds(lambda size, shares: BlockBuffer(size, *shares), st.sampled_from([1, 2, 4]), SHARES)
OF_ATTENTION = {
    "full": PIPELINE | MULTI | st.sampled_from([FullSequence(SIZE), DualCache(SIZE)]),
    "block_causal": BUFFER | st.just(FusedCommit()),
}
POLICY = st.builds(
    DecodePolicy,
    st.sampled_from([
        SkipThreshold(0.1), SkipThreshold(0.3), SkipThreshold(0.9), Threshold(0.3), Entropy(2.0, strict=True),
        Factor(1.0), CumulativeEntropy(3.0),
    ]),
    temperature=st.sampled_from([0.0, 1.0]),
    ranking=st.sampled_from([Confidence(), NegEntropy(), Margin()]),
    stop=st.sampled_from([FinishBlock(), InsideBlock(), WholeCanvas()]),
    logits=st.sampled_from([Logits(), Logits(bans_mask=False), Logits(untempered=True)]),
    seed=st.integers(0, 3),
)  # fmt: skip
SHARES_OF_ONE = {"block_add_threshold": 1.0, "decoded_token_threshold": 1.0}
WINDOWS = {
    "full": [
        BlockPipeline(SIZE, 0.1, 0.95), MultiBlock(SIZE), MultiBlock(SIZE, cache_delay_iter=1),
        MultiBlock(SIZE, cache_delay_iter=2, refresh_interval=3, compat=True),
    ],
    "block_causal": [BlockBuffer(4, 0.1, 0.25), BlockBuffer(2)],
}  # fmt: skip
EACH = [(attention, schedule) for attention, schedules in WINDOWS.items() for schedule in schedules]


def model_of(attention="full", seed=5, **changes):
    return tiny_model(seed, torch.float64, attention=attention, block_size=SIZE, **changes)


def decode(model, policy, lengths=(5, 2, 8, 3), new=16, stops=STOPS):
    return BlockDecoder(model, stops).decode(requests_of(lengths, new), policy)


def test_every_window_of_the_registry_is_tried():
    schedules = {resolve(member) for member in SCHEDULES.values()}
    assert {each for each in schedules if issubclass(each, Window)} == {BlockBuffer, BlockPipeline, MultiBlock}


@pytest.mark.parametrize("logit_shift", [False, True])
@pytest.mark.parametrize("attention", OF_ATTENTION)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_engine_decodes_like_the_reference(attention, logit_shift, data):
    """Rows of one run have schedules, rules, lengths of their own; where memory is short, they wait, or give their
    pages up and go on later."""
    model = model_of(attention, data.draw(st.integers(0, 9), "weights"), logit_shift=logit_shift)
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4), "prompts")
    new = SIZE * data.draw(st.integers(1, 4), "blocks")
    policies = [dataclasses.replace(data.draw(POLICY), schedule=data.draw(OF_ATTENTION[attention])) for _ in lengths]
    requests = [
        dataclasses.replace(request, policy=policy)
        for request, policy in zip(requests_of(lengths, new, seed=2), policies, strict=True)
    ]
    decoder = BlockDecoder(model, STOPS, rows=data.draw(st.integers(1, 4), "rows"), page_tokens=SIZE)
    if data.draw(st.booleans(), "memory is short"):
        canvases = [policy.schedule.canvas(length, new, SIZE) for policy, length in zip(policies, lengths, strict=True)]
        most = max(p.schedule.extent(canvas) for p, canvas in zip(policies, canvases, strict=True))
        decoder.memory_bytes = -(-most // SIZE) * decoder.page_bytes
    found = decoder.decode(requests, policies[0])
    same(found, [decode_one(model, request, request.policy, STOPS) for request in requests])


def test_d2f_and_d3llm_on_llada_decode_like_the_reference():
    """A checkpoint of LLaDA's family, unshifted, ends at its own end token."""
    model = load_model(Path(__file__).parents[1] / "fixtures" / "llada_tiny", dtype=torch.float64)
    requests, ended, whole = requests_of([5, 9], 32, vocab=100), 0, FullSequence(8)
    cached = MultiBlock(8, cache_delay_iter=2, refresh_interval=3, reveals_best=True)
    for schedule in (BlockPipeline(8), BlockPipeline(8, 0.5, 0.5), MultiBlock(8, reveals_best=True), cached):
        for stop_id in (
            113,
            int(decode_one(model, requests[0], DecodePolicy(Threshold(0.3), schedule=whole), ()).token_ids[9]),
        ):
            stop = FinishBlock() if isinstance(schedule, BlockPipeline) else InsideBlock()
            policy = DecodePolicy(SkipThreshold(0.4), schedule=schedule, stop=stop)
            if isinstance(schedule, MultiBlock):
                policy = dataclasses.replace(policy, selector=Entropy(0.5), ranking=NegEntropy())
            found = BlockDecoder(model, [stop_id]).decode(requests, policy)
            same(found, [decode_one(model, request, policy, [stop_id]) for request in requests])
            ended += sum(each.stop == "eos" for each in found)
    assert ended


def test_on_llada_d3llm_reveals_the_surest_position_of_all_open_blocks_too():
    """At an entropy that nothing has: one position a forward in the first full block, and the surest one elsewhere."""
    model, other = model_of(), 0
    schedule = MultiBlock(SIZE, 0.0, 1.0, reveals_best=True)
    policy = DecodePolicy(Entropy(-1.0), ranking=NegEntropy(), schedule=schedule, stop=WholeCanvas())
    for got in decode(model, policy):
        at, position = got.reveal_step, np.arange(16)
        for step in range(1, got.stats.denoise_forwards + 1):
            here = position[at == step]
            first = position[at >= step][0] // SIZE
            assert len(here) in (1, 2) and first in here // SIZE
            other += len(here) == 2
            surest = min(got.entropy[here])
            assert got.entropy[here[-1]] == surest or len(here) == 1
    assert other > 4


def test_rows_with_a_twin_and_rows_with_a_window_share_forwards():
    model = model_of(logit_shift=True)
    policies = [
        DecodePolicy(SkipThreshold(0.3), schedule=BlockPipeline(SIZE)),
        DecodePolicy(Threshold(0.3), schedule=FullSequence(SIZE), logits=Logits(cfg_scale=1.0)),
    ]
    requests = [dataclasses.replace(r, policy=p) for r, p in zip(requests_of([5, 2], 16), policies, strict=True)]
    same(
        BlockDecoder(model, STOPS).decode(requests, policies[0]),
        [decode_one(model, request, request.policy, STOPS) for request in requests],
    )


def test_a_block_that_need_not_reveal_anything_reveals_what_passes_alone():
    score = torch.tensor([[0.3, 0.6, 0.2], [0.3, 0.1, 0.2]])
    entropy, open_BK = torch.tensor([[3.0, 0.5, 2.0], [3.0, 9.0, 2.0]]), torch.ones(2, 3, dtype=torch.bool)
    for selector, passes in (
        (Threshold(0.5), [1]), (SkipThreshold(0.5), [1]), (Entropy(1.0), [1]), (Factor(1.0), [1]),
        (Factor(1.0, compat=True), [1]),
        (CumulativeEntropy(1.0), [1]), (Quota(3), []), (QuotaThreshold(0.5, 1), [1]),
    ):  # fmt: skip
        for must in (False, True):
            given = Proposals(
                open_BK, score, entropy, score, torch.zeros(2, dtype=torch.int64), torch.tensor([must] * 2)
            )
            chosen = selector.select(given)
            assert chosen[0].nonzero()[:, 0].tolist() == (passes or [1] * must)
            assert chosen[1].nonzero()[:, 0].tolist() == ([2] * must if "Cumulative" in repr(selector) else [0] * must)


def test_a_reference_that_reveals_one_position_too_many_does_so_only_where_a_block_must_reveal():
    """Fast-dLLM's off-by-one: of two open positions the lower fails, and is revealed too."""
    score, open_BK = torch.tensor([[0.9, 0.1]]), torch.ones(1, 2, dtype=torch.bool)
    for must, found in ((None, [0, 1]), (True, [0, 1]), (False, [0])):
        given = Proposals(
            open_BK, score, score, score, torch.zeros(1, dtype=torch.int64),
            None if must is None else torch.tensor([must]),
        )  # fmt: skip
        assert Factor(1.0, compat=True).select(given)[0].nonzero()[:, 0].tolist() == found


def test_a_slot_carries_nothing_once_its_row_has_ended_or_gave_its_pages_up(monkeypatch):
    """On Dream, whose last kept state predicts the next position; with few pages, so that rows give theirs up."""
    made, leave = [], Scheduler._leave

    def watched(scheduler, slot, **options):
        item = leave(scheduler, slot, **options)
        made.append(scheduler.windows)
        assert scheduler.windows.carried.keys() <= {*np.flatnonzero(scheduler.rows.busy).tolist()}
        return item

    monkeypatch.setattr(Scheduler, "_leave", watched)
    model = model_of(logit_shift=True)
    policy = DecodePolicy(Threshold(0.2), schedule=BlockPipeline(SIZE, 0.1, 0.95))
    decoder = BlockDecoder(model, STOPS, rows=3, page_tokens=SIZE)
    decoder.memory_bytes = 11 * decoder.page_bytes
    requests = requests_of((5, 2, 8, 3, 6), 16)
    same(decoder.decode(requests, policy), [decode_one(model, request, policy, STOPS) for request in requests])
    assert decoder.ledger.preemptions > 0 and len(made) == 5
    assert made[-1].carried == made[-1].planned == {}


BY_STEP = (Quota(3), Scripted(1.5), Threshold(0.3, steps=3), Timestep(6), QuotaThreshold(0.3, steps=3))
"""Selectors that ask how many forwards a block has had: its own, not its row's."""


def test_a_buffer_of_one_is_the_plain_schedule_and_one_of_two_without_looking_ahead_the_fused():
    """At the published thresholds: with one block in the buffer they have nothing to say."""
    for logit_shift in (False, True):
        model = model_of("block_causal", logit_shift=logit_shift)
        for temperature, selector in [(0.0, Threshold(0.2)), *((1.0, each) for each in (Threshold(0.2), *BY_STEP))]:
            policy = DecodePolicy(selector, temperature)
            pairs = [(BlockBuffer(1, 0.1, 0.25), SeparateCommit()), (BlockBuffer(2, **SHARES_OF_ONE), FusedCommit())]
            for window, plain in pairs:
                one, other = (decode(model, dataclasses.replace(policy, schedule=each)) for each in (window, plain))
                # Under a shift the plain one computes the position before the block again, the window carries it along.
                same(one, other, but=("schedule", "window", *(("work",) if logit_shift else ())))
                assert {each.window for each in one} == {window.buffer_size}


def test_a_window_that_opens_a_block_when_the_last_is_full_is_one_block_after_the_other():
    model, policy = model_of(), DecodePolicy(Threshold(0.2), stop=WholeCanvas())
    window, plain = MultiBlock(SIZE, **SHARES_OF_ONE), FullSequence(SIZE)
    one, other = (decode(model, dataclasses.replace(policy, schedule=each)) for each in (window, plain))
    same(one, other, but=("schedule", "window"))


def test_four_blocks_at_once_take_fewer_forwards_than_one():
    """Training-free: on the same weights, in which confidences differ little from block to block."""
    model, forwards = model_of("block_causal"), {}
    for size in (1, 2, 4):
        policy = DecodePolicy(Threshold(0.9), schedule=BlockBuffer(size, 0.0, 0.25), stop=WholeCanvas())
        forwards[size] = sum(each.stats.denoise_forwards for each in decode(model, policy, new=32))
    assert forwards[4] < forwards[2] < forwards[1]


@pytest.mark.parametrize("new", [16, 32])
def test_d2f_with_all_thresholds_at_one_reveals_one_token_a_forward(new):
    policy = DecodePolicy(SkipThreshold(1.0), schedule=BlockPipeline(SIZE, **SHARES_OF_ONE), stop=WholeCanvas())
    for each in decode(model_of(logit_shift=True), policy, new=new):
        assert sorted(each.reveal_step) == list(range(1, new + 1)) and each.stats.denoise_forwards == new


@pytest.mark.parametrize("logit_shift", [False, True])
@pytest.mark.parametrize("schedule", [BlockPipeline(SIZE, 0.1, 0.5), BlockBuffer(4, 0.1, 0.25)], ids=repr)
def test_the_caches_of_pipelines_are_exact(schedule, logit_shift):
    """Every token's log-probability is that of one forward over the whole canvas under the block-causal mask, in the
    state in which it was drawn: from the prompt's end with the prompt as the first block, or on the model's grid."""
    is_pipeline = isinstance(schedule, BlockPipeline)
    model = model_of("full" if is_pipeline else "block_causal", logit_shift=logit_shift)
    policy, most = DecodePolicy(SkipThreshold(0.9), schedule=schedule, stop=WholeCanvas()), 0
    for prompt_len, got in zip((5, 2, 8, 3), decode(model, policy), strict=True):
        assert got.exact_cache
        ids, reveal = np.r_[got.prompt_ids, got.token_ids], np.r_[np.zeros(prompt_len, int), got.reveal_step]
        at = np.arange(len(ids))
        block = np.where(at < prompt_len, -1, (at - prompt_len) // SIZE) if is_pipeline else at // SIZE
        seen = Masked(torch.from_numpy(block[:, None] >= block)[None, None])
        for step in range(1, got.stats.denoise_forwards + 1):
            state = torch.from_numpy(np.where(reveal < step, ids, model.config.mask_token_id))
            with torch.no_grad():
                logp = model.log_probs(model.hidden(state[None], torch.from_numpy(at)[None], seen)[0])
            here = np.flatnonzero(reveal == step)
            expected = logp[here - logit_shift, ids[here]].numpy()
            np.testing.assert_allclose(got.behaviour_logp[here - prompt_len], expected, atol=1e-6)
            most = max(most, len({*block[here].tolist()}))
    assert most > 1, "some forward revealed in several blocks"


def test_d3llms_cache_that_never_stores_is_no_cache_and_one_that_stores_is_inexact_and_says_so():
    for logit_shift in (False, True):
        model = model_of(logit_shift=logit_shift)
        policy = DecodePolicy(Entropy(2.3, strict=True), ranking=NegEntropy(), stop=WholeCanvas())
        without, late, soon = (
            decode(model, dataclasses.replace(policy, schedule=MultiBlock(SIZE, cache_delay_iter=delay)))
            for delay in (None, 1000, 1)
        )
        same(late, without, but=("exact_cache",))
        assert {each.exact_cache for each in without} == {True}
        assert {each.exact_cache for each in (*late, *soon)} == {False}
        assert any((a.behaviour_logp != b.behaviour_logp).any() for a, b in zip(soon, without, strict=True))


@pytest.mark.parametrize(("attention", "schedule"), EACH, ids=repr)
@pytest.mark.parametrize("logit_shift", [False, True])
def test_every_position_is_revealed_once_and_the_ledger_has_every_forward(attention, schedule, logit_shift):
    model = model_of(attention, logit_shift=logit_shift)
    policy, decoder = (
        DecodePolicy(SkipThreshold(0.2), schedule=schedule, stop=WholeCanvas()),
        BlockDecoder(model, STOPS),
    )
    [request] = requests_of([SIZE + 1], 16 + SIZE - 1 if attention == "block_causal" else 16)
    [got] = decoder.decode([request], policy)
    assert (got.reveal_step > 0).all() and len(got.reveal_step) == request.max_new_tokens
    parts = [part for forward in decoder.ledger.forwards for part in forward.parts]
    assert sum(part.revealed for part in parts) == request.max_new_tokens
    stats = got.stats
    assert len(parts) == stats.denoise_forwards + stats.commit_forwards + stats.prefill_forwards
    kinds = {part.kind for part in parts}
    if attention == "block_causal":
        assert {"prefill", "fused", "denoise"} <= kinds
    else:
        keeps = isinstance(schedule, BlockPipeline) or schedule.cache_delay_iter is not None
        assert ("fused" in kinds, "refresh" in kinds) == (keeps, keeps and isinstance(schedule, MultiBlock))


@pytest.mark.parametrize(("attention", "schedule"), EACH, ids=repr)
def test_rows_that_lost_their_pages_go_on_as_if_they_had_not(attention, schedule):
    """Every other row is put off by force in every third turn, in the middle of its blocks."""
    model = model_of(attention, 3, logit_shift=True)
    policy = DecodePolicy(SkipThreshold(0.3), 1.0, schedule=schedule, seed=3)
    requests = requests_of([5, 2, 7, 3], 16)
    expected = [decode_one(model, request, policy, ()) for request in requests]
    decoder, turns = BlockDecoder(model, (), rows=4, page_tokens=SIZE), iter(range(1000))

    def put_off(run, admit):
        if next(turns) % 3 == 2:
            for slot in list(run.rows.item)[::2]:
                run._put_off(slot)
        admit(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scheduler, "_admit", lambda run, admit=Scheduler._admit: put_off(run, admit))
        same(decoder.decode(requests, policy), expected)
    assert decoder.ledger.preemptions >= 4


@pytest.mark.parametrize(("attention", "schedule"), EACH, ids=repr)
def test_a_row_without_finite_logits_fails_alone_and_one_that_cannot_fit_is_refused_alone(attention, schedule):
    model, poison = model_of(attention, 4), 22
    with torch.no_grad():
        model.model.embed_tokens.weight[poison] = float("nan")
        model.lm_head.weight[poison] = 0.0
        model.usable_vocab = poison
    policy, requests = (
        DecodePolicy(SkipThreshold(0.3), 1.0, schedule=schedule),
        requests_of([5, 2, 7], 16, vocab=poison),
    )
    bad = dataclasses.replace(requests[0], uid="t/train/bad", prompt_ids=np.array([3, poison, 5]))
    long = dataclasses.replace(requests[0], uid="t/train/long", max_new_tokens=48)
    decoder = BlockDecoder(model, (), page_tokens=SIZE)
    decoder.memory_bytes = 2 * 12 * decoder.page_bytes
    outcomes = {each.request.uid: each for each in decoder.stream([bad, long, *requests], policy)}
    assert "probabilities are not finite" in str(outcomes["t/train/bad"].error)
    if schedule.extent(schedule.canvas(5, 48, SIZE)) > 2 * 12 * SIZE:
        assert "bytes of KV cache" in str(outcomes["t/train/long"].error)
    same([outcomes[each.uid].trajectory for each in requests], [decode_one(model, r, policy, ()) for r in requests])


def test_a_stop_token_ends_what_is_opened_and_d3llm_fills_what_lies_behind_it():
    model = model_of()
    whole = DecodePolicy(SkipThreshold(0.2), schedule=MultiBlock(SIZE), stop=WholeCanvas())
    early = dataclasses.replace(whole, stop=InsideBlock())
    filled = saved = 0
    for stop_id in range(0, 22, 6):
        for request in requests_of([5, 2, 8], 32):
            long, short = (decode_one(model, request, policy, [stop_id]) for policy in (whole, early))
            saved += long.stats.denoise_forwards - short.stats.denoise_forwards
            if short.stop == "eos":
                behind = short.reveal_step == 0
                filled += int(behind.sum())
                assert (short.token_ids[behind] == stop_id).all() and not behind[: short.response_len].any()
    assert filled and saved > 0
    pipeline = dataclasses.replace(whole, schedule=BlockPipeline(SIZE, 0.1, 0.3), stop=FinishBlock())
    ended = [each for each in decode(model, pipeline, new=32) if each.stop == "eos"]
    assert ended and all(len(each.token_ids) < 32 and (each.reveal_step > 0).all() for each in ended)


def test_published_defects_count_keys_twice_and_read_the_wrong_logit_only_where_asked():
    model = model_of(logit_shift=True)
    policy = DecodePolicy(Entropy(2.5, strict=True), ranking=NegEntropy(), stop=WholeCanvas())
    ours, theirs = (
        decode(model, dataclasses.replace(policy, schedule=MultiBlock(SIZE, cache_delay_iter=2, compat=compat)), new=32)
        for compat in (False, True)
    )
    assert any((a.behaviour_logp != b.behaviour_logp).any() for a, b in zip(ours, theirs, strict=True))
