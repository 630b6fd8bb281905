"""Keyed randomness and the draw from a distribution."""

import math

import numpy as np
import pytest
import torch
from fixtures.naive import GOLDEN, MASK64, keyed_uniform, splitmix
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.decoding.rng import row_key, uniform
from lightningrl.decoding.sampler import draw

INT64 = st.integers(-(2**63), 2**63 - 1)


def sampled(log_probs, u):
    """Draws at every position, from all tokens."""
    return draw(log_probs, torch.arange(len(log_probs)), u, None, None)


def test_the_reference_generator_is_splitmix64():
    """The first outputs from seed 1234567 as published with the algorithm (Vigna's splitmix64.c, Rosetta Code)."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [splitmix((1234567 + i * GOLDEN) & MASK64) for i in range(3)] == published


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(INT64, st.integers(0, 2**20), st.integers(1, 2**20)), min_size=1, max_size=3))
def test_uniform_is_two_rounds_of_splitmix64_over_key_position_and_forward(keys):
    found = uniform(*torch.tensor(keys).unbind(-1))
    expected = [(splitmix(splitmix(key + at * GOLDEN) + forward * GOLDEN) >> 11) / 2**53 for key, at, forward in keys]
    assert found.dtype == torch.float64 and found.tolist() == expected
    assert all(0.0 <= value < 1.0 for value in expected)


def test_known_values_are_frozen():
    """Computed by fixtures/naive.keyed_uniform: blake2b-64 (little-endian) of "seed/step/uid/sample", two SplitMix64s.

    A change here changes every sampled rollout of every experiment.
    """
    frozen = [
        ((0, 0, "gsm-mini/train/00000", 0, 0, 1), 0.5639314647728779),
        ((7, 3, "gsm-mini/train/00017", 5, 42, 9), 0.6978089367185448),
        ((123456, 80, "code-mini/test/00299", 31, 8191, 300), 0.5655893590610905),
    ]
    for arguments, value in frozen:
        seed, step, uid, sample, position, forward = arguments
        key = torch.tensor([row_key(seed, step, uid, sample)])
        assert uniform(key, torch.tensor([position]), torch.tensor([forward])).item() == value
        assert keyed_uniform(*arguments) == value


def test_uniforms_are_uniform_and_uncorrelated_along_every_part_of_the_key():
    """chi2 over 64 cells, 63 degrees of freedom: mean 63, sd sqrt(126) = 11.2; 6 sd above the mean is 130.

    Correlation of n = 65,536 neighbours has sd 1/256; the bound is 6 of them.
    """
    n = 1 << 16
    keys = torch.tensor([row_key(0, 1, f"t/train/{i}", 0) for i in range(256)])
    one = torch.ones(n, dtype=torch.int64)
    grids = {
        "position": uniform(keys[0] * one, torch.arange(n), one),
        "forward": uniform(keys[0] * one, one, torch.arange(n)),
        "key and position": uniform(keys.repeat_interleave(256), torch.arange(256).repeat(256), one),
        "key and forward": uniform(keys.repeat(256), one, torch.arange(256).repeat_interleave(256)),
    }
    for name, values in grids.items():
        counts = np.bincount((values.numpy() * 64).astype(int), minlength=64)
        chi2 = float(((counts - n / 64) ** 2 / (n / 64)).sum())
        assert 10 < chi2 < 130, name
        assert abs(np.corrcoef(values[:-1].numpy(), values[1:].numpy())[0, 1]) < 6 / 256, name
        assert len(values.unique()) == n, name


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    weights=st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1.0)), min_size=1, max_size=9),
    u=st.floats(0, 1, exclude_max=True),
)
def test_draw_inverts_the_cumulative_distribution_and_never_gives_a_token_of_probability_0(weights, u):
    if not any(weights):
        weights = [*weights, 1.0]
    probability = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    token, logp = sampled(probability.log()[None], torch.tensor([u]))
    drawn = token.item()
    assert probability[drawn] > 0
    assert logp.item() == pytest.approx(math.log(probability[drawn]))
    below, upto = math.fsum(probability[:drawn].tolist()), math.fsum(probability[: drawn + 1].tolist())
    assert below - 1e-12 <= u <= upto + 1e-12


def test_draw_at_the_ends_of_the_unit_interval_gives_the_first_and_last_tokens_with_mass():
    log_probs = torch.tensor([[-math.inf, math.log(0.5), math.log(0.5), -math.inf]] * 2, dtype=torch.float64)
    token, _ = sampled(log_probs, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert token.tolist() == [1, 2]


def test_greedy_draw_is_the_argmax_and_reads_no_uniform():
    log_probs = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]]).log()
    token, logp = draw(log_probs, torch.tensor([], dtype=torch.int64), torch.tensor([]), None, None)
    assert token.tolist() == [1, 0]
    torch.testing.assert_close(logp.exp(), torch.tensor([0.6, 0.5]))
