"""Laws of Fast-dLLM v2's schedule: counts, sub-blocks, exactness, rows beside others, memory, refusals."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from fixtures.decodes import same
from fixtures.naive import dense_log_probs
from fixtures.tiny import requests_of, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.rankings import Position
from lightningrl.decoding.reference import decode_one
from lightningrl.decoding.scheduler import Scheduler
from lightningrl.decoding.schedules.block import FusedCommit, SeparateCommit
from lightningrl.decoding.schedules.sub_block import SubBlocks
from lightningrl.decoding.selectors.quota import Quota
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.stops import FinishBlock, InsideBlock
from lightningrl.errors import ConfigError, DecodeError
from lightningrl.rl.likelihood import check_scorable, score_tokens

STOPS, POISON = (3, 7), 22
SCHEDULES = [
    SubBlocks(2), SubBlocks(4), SubBlocks(1, caches_block=True), SubBlocks(2, caches_block=True),
    SubBlocks(2, compat=True), SubBlocks(2, caches_block=True, compat=True),
]  # fmt: skip


def shifted(seed=4, **changes):
    return tiny_model(seed, torch.float64, **({"logit_shift": True} | changes))


def decode(model, policy, lengths=(9, 8, 2, 5, 12), new=12, stops=(), **options):
    decoder = BlockDecoder(model, stops, **options)
    return decoder.decode(requests_of(lengths, new), policy), decoder.ledger


POLICY = st.builds(
    DecodePolicy, st.sampled_from([Threshold(0.15), Threshold(0.3), Threshold(1.0), Quota(2)]),
    temperature=st.sampled_from([0.0, 1.0]), top_p=st.sampled_from([1.0, 0.8]),
    schedule=st.sampled_from([*SCHEDULES, FusedCommit(), SeparateCommit()]),
    stop=st.sampled_from([InsideBlock(), FinishBlock()]), logits=st.sampled_from([Logits(), Logits(filtered=True)]),
    seed=st.integers(0, 3),
)  # fmt: skip


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_engine_decodes_like_the_reference(data):
    """Rows of all variants beside SDAR's schedules, with prompts that end on the grid and off it, in few slots."""
    model = shifted(data.draw(st.integers(0, 9)))
    requests = requests_of(data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4)), 12, seed=2)
    requests = [dataclasses.replace(request, policy=data.draw(POLICY)) for request in requests]
    decoder = BlockDecoder(model, STOPS, rows=data.draw(st.integers(1, 4)))
    same(decoder.decode(requests, requests[0].policy), [decode_one(model, r, r.policy, STOPS) for r in requests])


@pytest.mark.parametrize("sub_block", [1, 2, 4])
@pytest.mark.parametrize("caches_block", [False, True])
def test_at_a_threshold_that_nothing_passes_every_forward_gives_one_token_but_the_prefill_off_the_grid(
    sub_block, caches_block
):
    """The published count: k blocks after a prefill are k K + 1 tokens in as many forwards, and one where the prefill
    reveals nothing."""
    policy = DecodePolicy(Threshold(1.0), schedule=SubBlocks(sub_block, caches_block, compat=True))
    for got in decode(shifted(), policy)[0]:
        begin, stats = len(got.prompt_ids), got.stats
        is_on_grid = begin % 4 == 0
        assert got.response_len == begin // 4 * 4 + 12 + 1 - begin == stats.denoise_forwards
        assert stats.prefill_forwards == (begin >= 4 and not is_on_grid) and stats.commit_forwards == 0


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 9), st.sampled_from(SCHEDULES), st.sampled_from([0.0, 1.0]))
def test_every_position_is_revealed_once_from_sub_block_to_sub_block_and_first_ones_by_commits(
    seed, schedule, temperature
):
    found, ledger = decode(shifted(seed), DecodePolicy(Threshold(0.2), temperature, schedule=schedule))
    parts = [part for forward in ledger.forwards for part in forward.parts]
    assert sum(part.revealed for part in parts) == sum(got.stats.emitted_tokens for got in found)
    firsts = sum(
        int((np.arange(len(got.prompt_ids), len(got.prompt_ids) + got.response_len) % 4 == 0).sum()) for got in found
    )
    assert sum(part.revealed for part in parts if part.kind in ("commit", "prefill")) == firsts
    assert all(part.query_tokens == 4 for part in parts if part.kind == "commit")
    assert all(got.exact_cache == (not schedule.caches_block) for got in found)
    for got in found:
        position = len(got.prompt_ids) + np.arange(got.response_len)
        groups = np.where(position % 4 == 0, -1, position % 4 // schedule.sub_block) + position // 4 * 8
        step = got.reveal_step[: got.response_len]
        for a, b in itertools.pairwise(np.unique(groups)):
            assert step[groups == a].max() < step[groups == b].min()


@pytest.mark.parametrize("threshold", [0.4, 1.0])
def test_a_cache_of_a_block_that_is_its_own_sub_block_changes_nothing_and_a_smaller_one_does(threshold):
    model = shifted(2, block_size=8)
    runs = {
        (b, cached): decode(model, DecodePolicy(Threshold(threshold), schedule=SubBlocks(b, cached)), new=24)[0]
        for b in (2, 8) for cached in (False, True)
    }  # fmt: skip
    same(runs[8, True], runs[8, False], but=("exact_cache",))
    pairs = [(a.behaviour_logp, b.behaviour_logp) for a, b in zip(runs[2, True], runs[2, False], strict=True)]
    assert any(abs(a - b).max() > 1e-3 for a, b in pairs if len(a) == len(b))


@pytest.mark.parametrize("sub_block", [1, 2, 4])
def test_from_left_to_right_every_sub_block_gives_what_sdars_blocks_give(sub_block):
    """One token a forward by position: the first of a block is predicted by a clean block before it in all of them."""
    policy = DecodePolicy(Quota(4), 1.0, ranking=Position(), schedule=FusedCommit())
    ours = dataclasses.replace(policy, schedule=SubBlocks(sub_block))
    same(decode(shifted(), ours)[0], decode(shifted(), policy)[0], but=("schedule", "stats"))


def test_the_cache_is_exact_and_the_trainers_likelihood_is_the_decoders():
    """Each token's log-probability is that of a dense forward over its state, and the trainer's."""
    model = shifted(6)
    found, _ = decode(model, DecodePolicy(Threshold(0.25), 1.0, schedule=SubBlocks(2), stop=InsideBlock()), stops=STOPS)
    for got in found:
        ids = np.r_[got.prompt_ids, got.token_ids]
        steps = np.r_[np.zeros(len(got.prompt_ids), int), got.reveal_step]
        for p in range(len(got.prompt_ids), len(got.prompt_ids) + got.response_len):
            state = np.where((steps < steps[p]) & ((steps > 0) | (np.arange(len(ids)) < len(got.prompt_ids))), ids, 23)
            with torch.no_grad():
                table = dense_log_probs(model, state.tolist())
            assert abs(table[p, ids[p]].item() - got.behaviour_logp[p - len(got.prompt_ids)]) < 1e-6
    scores = score_tokens(model, found)
    behaviour = np.concatenate([got.behaviour_logp[: got.response_len] for got in found])
    order = np.lexsort((scores.position_n.numpy(), scores.row_n.numpy()))
    np.testing.assert_allclose(scores.logp_n.detach().numpy()[order], behaviour, atol=1e-6)
    check_scorable("block_causal", [DecodePolicy(Threshold(0.9), schedule=SubBlocks(8))], False)
    with pytest.raises(ConfigError, match="stale keys and values"):
        check_scorable("block_causal", [DecodePolicy(Threshold(0.9), schedule=SubBlocks(8, True))], False)
    check_scorable("block_causal", [DecodePolicy(Threshold(0.9), schedule=SubBlocks(8, True))], True)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_rows_that_wait_for_pages_or_are_put_off_anywhere_end_as_alone(schedule):
    """With little memory the youngest give their pages up; by force, rows leave in the middle of blocks, before and
    after commits: their caches are rebuilt as they were, and their counts stay their own."""
    model = shifted(3)
    requests = requests_of([5, 8, 2, 11, 4], 20)
    policy = DecodePolicy(Threshold(0.3), 1.0, schedule=schedule, seed=3)
    expected = [decode_one(model, request, policy, ()) for request in requests]
    decoder = BlockDecoder(model, (), rows=5, page_tokens=4)
    decoder.memory_bytes = 10 * decoder.page_bytes
    same(decoder.decode(requests, policy), expected)
    assert decoder.ledger.preemptions > 0
    decoder, turns = BlockDecoder(model, (), rows=4, page_tokens=4), itertools.count()

    def put_off(run):
        turn = next(turns)
        if turn % 3 == 2 and run.rows.item:
            for slot in list(run.rows.item)[turn % 2 :: 2]:
                run.pool.cache.clear(run.rows.held[slot])
                run.waiting.appendleft(run.rows.save(slot))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scheduler, "_admit", lambda run, admit=Scheduler._admit: (put_off(run), admit(run)))
        same(decoder.decode(requests, policy), expected)


def test_rows_of_all_kinds_decode_in_any_order_as_alone_and_a_bad_one_or_one_too_large_fails_alone():
    model = shifted()
    with torch.no_grad():
        model.model.embed_tokens.weight[POISON] = float("nan")
        model.lm_head.weight[POISON] = 0.0
        model.usable_vocab = POISON
    policies = [DecodePolicy(Threshold(0.3), float(i % 2), schedule=s, seed=i) for i, s in
                enumerate([*SCHEDULES, FusedCommit(), SeparateCommit()])]  # fmt: skip
    given = zip(requests_of([9, 2, 5, 8, 3, 8, 12, 4, 7, 1], 12, vocab=POISON), itertools.cycle(policies))
    requests = [dataclasses.replace(request, policy=policy) for request, policy in given]
    alone = [decode_one(model, request, request.policy, STOPS) for request in requests]
    requests.insert(3, Request("t/bad", 0, np.array([4, POISON, 2]), 12, policies[2]))
    requests.insert(6, Request("t/never", 0, np.arange(100) % 20, 20, policies[0]))
    alone[3:3] = [None]
    alone[6:6] = [None]
    for rows, order in ((12, range(12)), (3, range(11, -1, -1))):
        decoder = BlockDecoder(model, STOPS, rows=rows, page_tokens=4)
        decoder.memory_bytes = 28 * decoder.page_bytes
        found = {outcome.index: outcome for outcome in decoder.stream([requests[i] for i in order], policies[0])}
        assert sorted(found) == list(range(12))
        for place, index in enumerate(order):
            if alone[index] is None:
                why = "not finite" if index == 3 else "bytes of KV cache, the budget is"
                assert why in str(found[place].error)
            else:
                same([found[place].trajectory], [alone[index]])


def test_models_and_sizes_that_do_not_fit_are_refused_with_why():
    policy = DecodePolicy(Threshold(0.9), schedule=SubBlocks(3))
    with pytest.raises(DecodeError, match="sub_block is 3, which does not divide the model's blocks of 4 positions"):
        decode(shifted(), policy)
    for shape, found in (
        ({"logit_shift": False}, "unshifted"),
        ({"attention": "causal"}, "causal attention and shifted"),
    ):
        with pytest.raises(DecodeError, match=f"block_causal attention and shifted logits.*{found}"):
            decode(shifted(**shape), dataclasses.replace(policy, schedule=SubBlocks(2)))
    with pytest.raises(DecodeError, match="sub_block is 0"):
        SubBlocks(0)
