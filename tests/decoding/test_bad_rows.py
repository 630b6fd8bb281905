"""One request that goes wrong fails alone: its neighbours answer as if it had not been there."""

import numpy as np
import pytest
import torch
from fixtures.decodes import CACHES, SELECTORS
from fixtures.tiny import requests_of, tiny_model

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import DecodeError

POISON = 22


def poisoned_model(value=float("nan")):
    """The embedding of one token is not finite, so a row with it in its prompt has no finite logit."""
    model = tiny_model(4, torch.float64)
    with torch.no_grad():
        model.model.embed_tokens.weight[POISON] = value
        model.lm_head.weight[POISON] = 0.0
        model.usable_vocab = POISON
    return model


def outcomes(decoder, requests, policy):
    found = sorted(decoder.stream(requests, policy), key=lambda outcome: outcome.index)
    assert [outcome.index for outcome in found] == list(range(len(requests)))
    return found


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES)
@pytest.mark.parametrize("at, value", [(0, float("nan")), (3, float("nan")), (6, float("inf"))])
def test_a_row_without_finite_logits_fails_alone_and_leaves_nothing_behind_in_the_pages_it_had(at, value, cache):
    """Wherever it stands in the batch, and whoever gets its pages afterwards."""
    model, policy = poisoned_model(value), DecodePolicy(Threshold(0.3), 1.0, schedule=cache)
    requests = requests_of([9, 2, 5, 14, 3, 8, 21, 1, 6, 30], 22, vocab=POISON)
    prompt = np.r_[requests[at].prompt_ids, np.full(17, 5), POISON]
    requests[at] = Request("t/train/bad", 0, prompt, 22)
    good = [request for index, request in enumerate(requests) if index != at]
    alone = BlockDecoder(model, (), rows=1).decode(good, policy)
    alone.insert(at, None)
    for rows, forwards in ((2, "spans"), (3, "spans"), (10, "spans"), (3, "gathered"), (3, "turns")):
        decoder = BlockDecoder(model, (), rows=rows, page_tokens=4, forwards=forwards)
        for got, expected in zip(outcomes(decoder, requests, policy), alone, strict=True):
            if expected is None:
                assert got.trajectory is None and "t/train/bad: the model's probabilities are not" in str(got.error)
            else:
                assert got.error is None, f"{got.error} with {rows} rows"
                np.testing.assert_array_equal(got.trajectory.token_ids, expected.token_ids)
                np.testing.assert_array_equal(got.trajectory.reveal_step, expected.reveal_step)


class Picky:
    """A user's selector that compares, so that it chooses nothing where a score is not a number."""

    def select(self, candidates):
        best = candidates.score_BK.masked_fill(~candidates.open_BK, -torch.inf).amax(dim=-1, keepdim=True)
        return (candidates.score_BK >= best) & candidates.open_BK


@pytest.mark.parametrize("selector", [*SELECTORS, Picky()])
def test_no_selector_stops_the_others_or_is_blamed_for_a_row_without_finite_logits(selector):
    requests = requests_of([3, 7, 4], 9, vocab=POISON)
    requests[1].prompt_ids[2] = POISON
    found = outcomes(BlockDecoder(poisoned_model(), ()), requests, DecodePolicy(selector))
    assert [outcome.error is not None for outcome in found] == [False, True, False]
    assert "not finite" in str(found[1].error)


@pytest.mark.parametrize("seed", [3, 26, 31])
@pytest.mark.parametrize("cache", ["fused", "separate"])
def test_rows_fail_that_draw_a_token_of_damaged_weights_and_no_others_though_pages_change_hands(cache, seed):
    """Under separate commits a row may write what is not finite and be put off before its next draw shows it (seed 26:
    its pages go to row 5)."""
    clean, model = tiny_model(4, torch.float64), tiny_model(4, torch.float64)
    with torch.no_grad():
        model.model.embed_tokens.weight[POISON] = float("nan")
    lengths = np.random.default_rng(seed).integers(1, 30, 8).tolist()
    requests = requests_of(lengths, 24, seed, vocab=POISON)
    policy = DecodePolicy(Threshold(0.0), 1.0, schedule=CACHES[cache], seed=seed)
    expected = BlockDecoder(clean, ()).decode(requests, policy)
    decoder = BlockDecoder(model, (), rows=8, page_tokens=8)
    decoder.memory_bytes = 11 * decoder.page_bytes
    found = outcomes(decoder, requests, policy)
    assert decoder.ledger.preemptions > 0
    # Nothing reads the last block.
    drawn = [POISON in trajectory.token_ids[:-4] for trajectory in expected]
    assert [outcome.error is not None for outcome in found] == drawn and 1 < sum(drawn) < 8
    for outcome, trajectory in zip(found, expected, strict=True):
        if outcome.trajectory is not None:
            np.testing.assert_array_equal(outcome.trajectory.token_ids, trajectory.token_ids)


def test_a_stream_left_before_its_end_leaves_nothing_behind_for_the_next():
    """`decode` leaves at the first error, when another bad row has just written its prompt; the cache is kept."""
    model, policy = poisoned_model(), DecodePolicy(Threshold(0.0))
    decoder = BlockDecoder(model, (), rows=2, page_tokens=8)
    # Turn 1: the first ends, bad0 writes its prompt. Turn 2: bad0 fails while bad1 writes its own.
    bad = [Request(f"t/train/bad{i}", 0, np.r_[np.full(40, 5 + i), np.full(8, POISON)], 30) for i in range(2)]
    with pytest.raises(DecodeError, match="t/train/bad0"):
        decoder.decode([Request("t/train/0", 0, np.array([1]), 1), *bad], policy)
    assert len(decoder.ledger.forwards) == 2
    good = requests_of([2, 9, 30, 5, 17, 3, 33, 1], 22, vocab=POISON)
    expected = BlockDecoder(model, (), rows=1).decode(good, policy)
    for got, alone in zip(decoder.decode(good, policy), expected, strict=True):
        np.testing.assert_array_equal(got.token_ids, alone.token_ids)
