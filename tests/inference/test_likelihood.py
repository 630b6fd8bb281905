"""Likelihoods of given answers against enumeration: the bound is a mean over all orders, drawn masks are unbiased."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
from fixtures.byte_checkpoint import save_byte_tokenizer
from fixtures.naive import Masked, dense_block_mask
from fixtures.tiny import MASK_ID, tiny_model

from lightningrl.errors import ConfigError, DecodeError
from lightningrl.inference.likelihood import (
    BOUND,
    LEFT_TO_RIGHT,
    Continuation,
    encode_continuation,
    log_likelihoods,
    mask_sets,
)
from lightningrl.tokenization import load_tokenizer

KINDS = {
    "blocks": {"attention": "block_causal"},
    "blocks, shifted": {"attention": "block_causal", "logit_shift": True},
    "canvas": {"attention": "full"},
    "canvas, shifted": {"attention": "full", "logit_shift": True},
    "causal": {"attention": "causal", "logit_shift": True, "mask_token_id": -1},
}
DIFFUSION = [kind for kind in KINDS if kind != "causal"]


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return tiny_model(5, torch.float64, **KINDS[request.param])


@pytest.fixture(scope="module", params=DIFFUSION)
def diffusion(request):
    return tiny_model(5, torch.float64, **KINDS[request.param])


def pair(context, target, seed=0):
    ids = np.random.default_rng(seed).integers(0, MASK_ID, context + target)
    return Continuation(ids[:context], ids[context:])


def position_logp(model, shown, position, token):
    """log p of a token at a position of what is shown, by a whole forward under a dense mask."""
    length, config = len(shown), model.config
    seen = (
        dense_block_mask(length, config.block_size)
        if config.attention == "block_causal"
        else torch.ones(length, length)
    )
    seen = torch.ones(length, length).tril() if config.attention == "causal" else seen
    with torch.no_grad():
        hidden = model.hidden(torch.tensor([shown]), torch.arange(length)[None], Masked(seen.bool()[None, None]))[0]
        logits = model.logits(hidden)[position - config.logit_shift]
        if config.has_mask:
            logits[config.mask_token_id] = -torch.inf
        return float(logits.log_softmax(-1)[token])


def in_this_order(model, each, order):
    """The log-probability of revealing a segment's positions in an order, one per forward; `each`: all tokens."""
    shown, total = list(each), 0.0
    for position in order:
        shown[position] = MASK_ID
    for position in order:
        total += position_logp(model, shown, position, each[position])
        shown[position] = each[position]
    return total


def segments(model, each):
    """What is revealed together: (all tokens up to there, pads that are masks; the positions)."""
    ids, begin, size = each.ids.tolist(), len(each.context_ids), model.config.block_size
    if model.config.attention == "full":
        return [(ids, range(begin, len(ids)))]
    ends = range(begin // size * size + size, len(ids) + size, size)
    padded = ids + [MASK_ID] * (-len(ids) % size)
    return [(padded[:end], range(max(begin, end - size), min(len(ids), end))) for end in ends]


def mean_over_orders(model, each):
    total = 0.0
    for shown, places in segments(model, each):
        total += float(np.mean([in_this_order(model, shown, order) for order in permutations(places)]))
    return total


@pytest.mark.parametrize(("context", "target"), [(3, 4), (4, 3), (1, 2), (2, 1), (9, 4)])
def test_the_bound_without_draws_is_the_mean_over_all_orders_of_revealing(diffusion, context, target):
    each = pair(context, target, context)
    [found] = log_likelihoods(diffusion, [each], BOUND, samples=2**5)
    assert found.logp == pytest.approx(mean_over_orders(diffusion, each), abs=1e-9)
    assert found.is_greedy is None


class Scripted:
    """A generator of which everything is said before."""

    def __init__(self, start, orders):
        self.start, self.orders = start, orders

    def integers(self, length):
        return self.start

    def random(self, shape):
        return np.array(self.orders, dtype=float).reshape(shape)


@pytest.mark.parametrize("samples", [1, 2])
def test_drawn_masks_are_unbiased_over_all_draws_there_are(samples):
    """A table of log-probabilities for each (set, position) stands for a model; all draws are as likely."""
    length, rng = 3, np.random.default_rng(1)
    table = {tuple(map(bool, bits)): rng.normal(size=length) for bits in product([0, 1], repeat=length)}
    value = lambda states: sum(  # noqa: E731
        weight * table[tuple(masked.tolist())][scored].sum() for masked, scored, weight in zip(*states, strict=True)
    )
    draws = product(range(length), product(permutations(range(length)), repeat=samples))
    found = [value(mask_sets(length, samples, Scripted(*draw))) for draw in draws]
    assert len(found) == 3 * 6**samples and np.std(found) > 0.1
    exact = value(mask_sets(length, 7, Scripted(None, None)))
    assert np.mean(found) == pytest.approx(exact, abs=1e-12)


def test_the_mean_of_seeds_is_the_expectation_within_its_standard_error(diffusion):
    each = pair(3, 6, 2)
    exact = log_likelihoods(diffusion, [each], BOUND, samples=64)[0].logp
    found = [log_likelihoods(diffusion, [each], BOUND, samples=12, seed=seed)[0].logp for seed in range(120)]
    error = np.std(found, ddof=1) / len(found) ** 0.5
    assert 0 < error < 0.25 and abs(np.mean(found) - exact) < 4 * error
    again = log_likelihoods(diffusion, [pair(2, 2), each], BOUND, samples=12, seed=7)[1].logp
    assert again == pytest.approx(found[7], abs=1e-9), "draws are keyed by the tokens, not by the place in the list"


def test_from_left_to_right_is_a_distribution_and_that_of_one_forward_a_token(model):
    each = pair(3, 2, 4)
    words = [Continuation(each.context_ids, np.array(word)) for word in product(range(MASK_ID), repeat=2)]
    model.usable_vocab = MASK_ID
    found = log_likelihoods(model, words, LEFT_TO_RIGHT)
    assert np.exp([one.logp for one in found]).sum() == pytest.approx(1, abs=1e-9)
    best = max(
        range(MASK_ID), key=lambda token: np.logaddexp.reduce([f.logp for f in found[token * 23 : token * 23 + 23]])
    )
    [greedy] = [word for word, one in zip(words, found, strict=True) if one.is_greedy]
    assert greedy.target_ids[0] == best
    model.usable_vocab = model.config.vocab_size


def test_from_left_to_right_equals_whole_forwards(diffusion):
    each = pair(2, 6, 3)
    expected = sum(in_this_order(diffusion, shown, list(places)) for shown, places in segments(diffusion, each))
    assert log_likelihoods(diffusion, [each], LEFT_TO_RIGHT)[0].logp == pytest.approx(expected, abs=1e-9)


def test_a_causal_model_has_its_plain_likelihood_by_every_name():
    model, each = tiny_model(5, torch.float64, **KINDS["causal"]), pair(3, 5)
    ids = each.ids.tolist()
    expected = sum(position_logp(model, ids, place, ids[place]) for place in range(3, 8))
    for method in (BOUND, LEFT_TO_RIGHT):
        [found] = log_likelihoods(model, [each], method, samples=1)
        assert found.logp == pytest.approx(expected, abs=1e-9) and found.is_greedy is False


@pytest.mark.parametrize("method", [BOUND, LEFT_TO_RIGHT])
def test_batches_of_any_size_and_order_give_the_same(model, method):
    them = [pair(1 + n % 7, 1 + n % 5, n) for n in range(9)]
    whole = log_likelihoods(model, them, method, samples=6)
    for positions in (1, 40, 200):
        found = log_likelihoods(model, them[::-1], method, samples=6, positions=positions)[::-1]
        assert [one.logp for one in found] == pytest.approx([one.logp for one in whole], abs=1e-9)


def test_a_long_context_loses_its_beginning_and_what_cannot_be_scored_is_refused(model):
    long = pair(300, 3)
    cut = Continuation(long.context_ids[-125:], long.target_ids)
    assert log_likelihoods(model, [long], LEFT_TO_RIGHT) == log_likelihoods(model, [cut], LEFT_TO_RIGHT)
    for wrong in (pair(1, 128), pair(0, 3), pair(3, 0)):
        with pytest.raises(DecodeError, match="128 positions"):
            log_likelihoods(model, [wrong])
    with pytest.raises(ConfigError, match="allowed: bound, left_to_right"):
        log_likelihoods(model, [long], "exact")
    with pytest.raises(ConfigError, match="found 0 samples"):
        log_likelihoods(model, [long], samples=0)


def test_pairs_are_encoded_as_the_harness_does(tmp_path):
    save_byte_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    text = lambda ids: tokenizer.decode(ids)  # noqa: E731
    each = encode_continuation(tokenizer, "Question: a\nAnswer: ", "b")
    assert (text(each.context_ids), text(each.target_ids)) == ("Question: a\nAnswer:", " b")
    empty = encode_continuation(tokenizer, "", "b")
    assert empty.context_ids.tolist() == [tokenizer.eos_token_id] and text(empty.target_ids) == "b"
