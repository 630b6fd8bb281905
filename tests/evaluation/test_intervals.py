"""Intervals: textbook values, pairing, what they do not depend on; how often they hold the truth in seeded draws."""

import numpy as np
import pytest
from fixtures.limits import processor_time
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.evaluation.aup import aup, aup_replicates
from lightningrl.evaluation.intervals import (
    bootstrap_weights,
    effective_answers,
    paired_difference,
    percentile_interval,
    pooled_ratio,
    wilson_by_problem,
)

DRAWS = 600
ERROR = 3 * (0.95 * 0.05 / DRAWS) ** 0.5
"""Three standard errors of a coverage of 95 % over so many draws."""


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
    """Same answers but fifteen problems fixed: the paired interval is far narrower than the difference of two."""
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


def chances(rng, problems, accuracy, correlation):
    """A problem's chance of a right answer: a beta law, in which two samples of it have that correlation."""
    if correlation == 0:
        return np.full(problems, accuracy)
    if correlation == 1:
        return (rng.random(problems) < accuracy).astype(float)
    weight = 1 / correlation - 1
    return rng.beta(accuracy * weight, (1 - accuracy) * weight, problems)


@pytest.mark.parametrize(("problems", "samples"), [(30, 4), (30, 16), (60, 8), (60, 1), (200, 4), (200, 16)])
def test_wilson_holds_the_truth(problems, samples):
    """With one sample a problem the interval is Wilson's own, at which accuracies near 100 % are not tried."""
    rng, counts = np.random.default_rng(7), np.full(problems, samples)
    found = []
    for accuracy in (0.5, 0.9, 0.95, 0.98) if samples > 1 else (0.3, 0.5, 0.8, 0.9):
        for correlation in (0, 0.1, 0.3, 0.6, 0.9, 1) if samples > 1 else (0,):
            drawn = (rng.binomial(samples, chances(rng, problems, accuracy, correlation)) for _ in range(DRAWS))
            intervals = [wilson_by_problem(correct, counts) for correct in drawn]
            found.append(np.mean([low <= 100 * accuracy <= high for low, high in intervals]))
    assert min(found) >= 0.94 - ERROR and (samples == 1 or np.mean(found) >= 0.95), found


def test_the_number_of_effective_answers_lies_between_problems_and_samples():
    rng = np.random.default_rng(9)
    for correlation in (0, 0.2, 0.5, 0.9, 1):
        for samples in (np.full(50, 8), rng.integers(1, 9, 50)):
            correct = rng.binomial(samples, chances(rng, 50, 0.8, correlation))
            least = samples.sum() ** 2 / (samples**2).sum()  # Kish: what samples that agree are worth
            assert least - 1e-9 <= effective_answers(correct, samples) <= samples.sum()
    assert effective_answers(np.full(50, 8), np.full(50, 8)) == effective_answers(np.zeros(50), np.full(50, 8)) == 50
    many = effective_answers(rng.binomial(8, 0.5, 5000), np.full(5000, 8))
    assert many > 0.95 * 5000 * 8  # independent samples count in full


def evaluation(rng, problems, thresholds):
    """Tokens, forwards, right answers [T, N] of one draw: harder problems are slower, low thresholds fast and wrong."""
    hardness = rng.random(problems)
    tokens = rng.integers(80, 240, problems) * np.ones((len(thresholds), 1))
    forwards = tokens / (
        2.0 + 4 * (1 - thresholds[:, None]) + rng.gamma(4.0, 0.25, (len(thresholds), problems)) - hardness
    )
    correct = rng.random(problems) < 0.9 - 0.15 * (1 - thresholds[:, None]) - 0.1 * hardness
    return tokens, np.ceil(forwards), correct


def test_intervals_of_tpf_differences_and_aup_hold_the_truth():
    """Those of TPF and of paired accuracy hold 95 %, that of AUP a little less, as points are dropped at a limit."""
    rng, thresholds, y_max = np.random.default_rng(11), np.array([0.5, 0.7, 0.8, 0.9, 0.95]), 92.0
    tokens, forwards, correct = evaluation(rng, 200_000, thresholds)
    true_aup = aup(zip(tokens.sum(1) / forwards.sum(1), 100 * correct.mean(1), strict=True), y_max)
    truths = true_aup, tokens[3].sum() / forwards[3].sum(), 100 * (correct[4].mean() - correct[0].mean())
    weights, ones = bootstrap_weights(100, 400, 0), np.ones((len(thresholds), 100))
    hits = np.zeros(3)
    for _ in range(DRAWS):
        tokens, forwards, correct = evaluation(rng, 100, thresholds)
        tpf, accuracy = pooled_ratio(tokens, forwards, weights), 100 * pooled_ratio(correct, ones, weights)
        intervals = (
            percentile_interval(aup_replicates(tpf, accuracy, y_max)),
            percentile_interval(tpf[:, 3]),
            paired_difference((correct[4], ones[4]), (correct[0], ones[0]), weights, 100.0)[1:],
        )
        hits += [low <= truth <= high for truth, (low, high) in zip(truths, intervals, strict=True)]
    aup_covered, tpf_covered, difference_covered = hits / DRAWS
    assert tpf_covered >= 0.94 - ERROR and difference_covered >= 0.94 - ERROR, hits / DRAWS
    assert 0.90 <= aup_covered <= 0.98, hits / DRAWS
