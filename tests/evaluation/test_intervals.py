"""Intervals: textbook values, agreement with theory, pairing, and independence from everything but the key."""

import numpy as np
import pytest
from fixtures.limits import processor_time
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.evaluation.aup import aup_replicates
from lightningrl.evaluation.intervals import (
    bootstrap_weights,
    paired_difference,
    percentile_interval,
    pooled_ratio,
    wilson_by_problem,
)


def test_wilson_with_one_sample_a_problem_is_the_textbooks():
    # n = 10, p = 0.8, z = 1.959964: centre (.8 + z2/20)/(1 + z2/10) = .7167, half .2265 -> 49.02 % .. 94.33 %
    low, high = wilson_by_problem(np.array([1] * 8 + [0] * 2), np.ones(10))
    assert (low, high) == pytest.approx((49.0162, 94.3318), abs=1e-3)
    low, high = wilson_by_problem(np.zeros(20), np.ones(20))  # at the ends it is one-sided and not a point
    assert low == 0.0 and high == pytest.approx(100 * 3.8414588 / (20 + 3.8414588), abs=1e-4)  # z2 / (n + z2)
    low, high = wilson_by_problem(np.ones(20), np.ones(20))
    assert low < 100.0 == high


def test_copies_of_a_sample_are_no_evidence_and_independent_samples_are():
    correct = np.array([1] * 13 + [0] * 7)
    one = wilson_by_problem(correct, np.ones(20))
    assert wilson_by_problem(32 * correct, np.full(20, 32)) == pytest.approx(one)
    correct = np.random.default_rng(0).binomial(16, 0.6, size=100)
    many = wilson_by_problem(correct, np.full(100, 16))
    few = wilson_by_problem((correct > 9).astype(int), np.ones(100))
    assert (many.high - many.low) < 0.5 * (few.high - few.low)


@settings(max_examples=50)
@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_wilson_contains_the_estimate_and_stays_in_range(answers):
    correct = np.array(answers, float)
    low, high = wilson_by_problem(correct, np.ones(len(correct)))
    assert 0.0 <= low <= 100 * correct.mean() <= high <= 100.0


def test_weights_are_resamples_keyed_by_seed_and_name_only():
    weights = bootstrap_weights(50, 200, 3, "gsm-mini")
    assert weights.shape == (200, 50) and (weights.sum(1) == 50).all() and weights.min() == 0
    bootstrap_weights.cache_clear()
    np.testing.assert_array_equal(weights, bootstrap_weights(50, 200, 3, "gsm-mini"))
    assert (weights != bootstrap_weights(50, 200, 4, "gsm-mini")).any()
    assert (weights != bootstrap_weights(50, 200, 3, "math-mini")).any()
    with pytest.raises(ValueError):
        weights[0, 0] = 9
    with pytest.raises(ValueError, match="at least one problem"):
        bootstrap_weights(0, 10, 0)


def test_bootstrap_of_a_mean_agrees_with_the_normal_theory():
    values = np.random.default_rng(1).normal(10, 2, size=400)
    low, high = percentile_interval(pooled_ratio(values, np.ones(400), bootstrap_weights(400, 4000, 0)))
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_pairing_removes_what_both_policies_share():
    """Same answers but fifteen problems mended: the paired interval is far narrower than the difference of two."""
    rng = np.random.default_rng(2)
    base = (rng.random(300) < 0.6).astype(float)
    after = base.copy()
    after[np.flatnonzero(base == 0)[:15]] = 1
    weights, ones = bootstrap_weights(300, 2000, 0), np.ones(300)
    value, low, high = paired_difference((after, ones), (base, ones), weights, 100.0)
    assert value == pytest.approx(5.0) and 0 < low < 5.0 < high  # 15 of 300 problems: five points
    apart = pooled_ratio(after, ones, weights) - pooled_ratio(base, ones, bootstrap_weights(300, 2000, 1))
    unpaired = percentile_interval(100 * apart)
    assert high - low < 0.5 * (unpaired.high - unpaired.low)
    assert paired_difference((base, ones), (base, ones), weights, 100.0) == (0.0, 0.0, 0.0)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_replicates_are_exact_whatever_the_summation_order(seed):
    rng = np.random.default_rng(seed)
    tokens, forwards = rng.integers(1, 9000, size=(3, 40)), rng.integers(1, 900, size=(3, 40))
    weights = bootstrap_weights(40, 30, seed)
    forward = pooled_ratio(tokens, forwards, weights)
    backward = pooled_ratio(tokens[:, ::-1], forwards[:, ::-1], weights[:, ::-1])
    np.testing.assert_array_equal(forward, backward)


def test_a_thousand_aup_replicates_of_a_full_benchmark_are_fast():
    """1,319 problems, nine thresholds, 1,000 replicates: at most two seconds of processor time (0.1 s)."""
    rng = np.random.default_rng(0)
    forwards = rng.integers(20, 90, size=(9, 1319))
    tokens, correct = forwards * 3, rng.random((9, 1319)) < 0.9
    with processor_time(2.0):
        weights = bootstrap_weights(1319, 1000, 11)
        accuracy = 100 * pooled_ratio(correct, np.ones((9, 1319)), weights)
        areas = aup_replicates(pooled_ratio(tokens, forwards, weights), accuracy, 92.0)
    assert areas.shape == (1000,)
