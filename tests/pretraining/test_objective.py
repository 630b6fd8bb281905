"""The supervised objectives: the diffusion loss is the any-order mean, the autoregressive one a causal LM's loss."""

import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from fixtures.naive import dense_log_probs
from fixtures.tiny import MASK_ID, tiny_model, twin
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.training.supervised.corpus import TrainingSequence
from lightningrl.training.supervised.objective import (
    autoregressive_row,
    diffusion_row,
    supervised_backward,
    weighted_cross_entropy,
)


def sequence_of(prompt_len, response_len, seed=0):
    rng = np.random.default_rng(seed)
    return TrainingSequence(rng.integers(0, MASK_ID, prompt_len), rng.integers(0, MASK_ID, response_len))


class FixedDraws:
    """Stands for the generator: every block masks `count` of its `maskable`, in the order of `ranks`."""

    def __init__(self, count, maskable, ranks):
        self.answers = [(count - 0.5) / maskable, np.array(ranks) / 10]

    def random(self, shape):
        answer = self.answers.pop(0)
        return np.full(shape, answer) if np.isscalar(answer) else np.broadcast_to(answer, shape)


def any_order_nll(model, sequence, start, end):
    """Mean over all orders of revealing positions start..end of -log p(the tokens, one by one, rest masked)."""
    ids = np.concatenate([sequence.prompt_ids, sequence.response_ids]).tolist()[:end]
    free = range(max(start, len(sequence.prompt_ids)), end)
    totals = []
    for order in itertools.permutations(free):
        state, total = [MASK_ID if p in free else t for p, t in enumerate(ids)], 0.0
        for position in order:
            total -= dense_log_probs(model, state)[position, ids[position]].item()
            state[position] = ids[position]
        totals.append(total)
    return sum(totals) / len(totals)


@torch.no_grad()
@pytest.mark.parametrize(("prompt_len", "block", "maskable"), [(4, 1, 4), (5, 1, 3), (2, 0, 2)])
def test_expected_diffusion_loss_of_a_block_is_its_any_order_mean(prompt_len, block, maskable):
    """By enumeration of the draws: counts n = 1..m equally likely, then every order of the m positions."""
    model = tiny_model(2, torch.float64)
    sequence = sequence_of(prompt_len, 4 * (block + 1) - prompt_len)
    first = 4 - maskable
    losses = []
    for count in range(1, maskable + 1):
        for order in itertools.permutations(range(maskable)):
            ranks = [9] * first + list(order)
            row, weight = diffusion_row(sequence, 4, 1, MASK_ID, FixedDraws(count, maskable, [ranks]))
            assert row.scored.sum() == count and weight.tolist() == [maskable / count] * count
            losses.append(weighted_cross_entropy(model, [(row, weight)]).item())
    assert len(losses) == maskable * math.factorial(maskable)
    expected = any_order_nll(model, sequence, 4 * block, 4 * block + 4)
    assert np.mean(losses) == pytest.approx(expected, abs=1e-10)
    assert np.std(losses) > 0.01


def test_mask_counts_are_uniform_and_every_set_of_a_count_equally_likely():
    """48,000 copies of a block of 4: each count 12,000 times (sd 95), each of its C(4, n) sets alike; bounds 5 sd."""
    sequence = sequence_of(4, 4)
    row, weight = diffusion_row(sequence, 4, 48_000, MASK_ID, np.random.default_rng(0))
    sets = Counter(tuple(np.flatnonzero(line)) for line in row.scored)
    for count in range(1, 5):
        sizes = [sets[chosen] for chosen in itertools.combinations(range(4), count)]
        assert abs(sum(sizes) - 12_000) < 475
        expected = 12_000 / len(sizes)
        assert all(abs(size - expected) < 5 * math.sqrt(expected) for size in sizes)
    assert weight.sum() == pytest.approx(4 * 48_000)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    prompt_len=st.integers(1, 9),
    blocks=st.integers(1, 3),
    size=st.integers(1, 5),
    copies=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_diffusion_rows_mask_response_tokens_only_and_show_the_rest(prompt_len, blocks, size, copies, seed):
    total = (prompt_len // size + blocks) * size
    sequence = sequence_of(prompt_len, total - prompt_len)
    row, weight = diffusion_row(sequence, size, copies, MASK_ID, np.random.default_rng(seed))
    ids = np.concatenate([sequence.prompt_ids, sequence.response_ids])
    assert row.copy_block.tolist() == [b for b in range(prompt_len // size, total // size) for _ in range(copies)]
    at = row.copy_block[:, None] * size + np.arange(size)
    assert (row.target_ids == ids[at]).all() and (row.copy_ids == np.where(row.scored, MASK_ID, ids[at])).all()
    assert (at[row.scored] >= prompt_len).all() and row.scored.any(axis=1).all()
    assert row.clean_ids.tolist() == ids[: total - size].tolist()
    maskable = (at >= prompt_len).sum(axis=1)
    expected = [m / n for m, n in zip(maskable, row.scored.sum(axis=1), strict=True) for _ in range(n)]
    assert weight.tolist() == pytest.approx(expected)
    assert weight.sum() == pytest.approx(copies * len(sequence.response_ids)), "a copy weighs what it could mask"


def test_autoregressive_row_is_a_causal_language_models_loss():
    """Each response token from the clean past and a mask in its own place: one dense forward a token, block size 1."""
    model, sequence = tiny_model(2, torch.float64), sequence_of(5, 7)
    row, weight = autoregressive_row(sequence, MASK_ID)
    found = weighted_cross_entropy(model, [(row, weight)])
    causal = twin(model)
    causal.config = dataclasses.replace(model.config, block_size=1)
    ids = np.concatenate([sequence.prompt_ids, sequence.response_ids]).tolist()
    terms = [-dense_log_probs(causal, [*ids[:p], MASK_ID])[p, ids[p]] for p in range(5, 12)]
    expected = torch.stack(terms).sum()
    assert found.item() == pytest.approx(expected.item(), abs=1e-10) and weight.tolist() == [1.0] * 7
    found.backward()
    expected.backward()
    for one, other in zip(model.parameters(), causal.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-10)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(4, 4), (5, 7), (2, 14), (9, 3), (3, 9), (6, 6), (4, 12)]
    return [diffusion_row(sequence_of(*shape, seed=i), 4, 2, MASK_ID, rng) for i, shape in enumerate(shapes)]


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


def test_loss_and_gradient_are_the_whole_batchs_mean_whatever_the_micro_batch():
    model, rows = tiny_model(2, torch.float64), batch()
    mean = weighted_cross_entropy(model, rows) / sum(weight.sum() for _, weight in rows)
    mean.backward()
    expected = gradients(model)
    for size in (1, 2, 3, 8):
        model.zero_grad()
        assert supervised_backward(model, rows, size) == pytest.approx(mean.item(), abs=1e-12)
        for one, other in zip(gradients(model), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_mean_is_per_maskable_token():
    """A model that answers uniformly over the 23 usable tokens has loss log 23 whatever was masked."""
    model = tiny_model(2, torch.float64)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert supervised_backward(model, batch(), 3) == pytest.approx(math.log(23), abs=1e-12)
