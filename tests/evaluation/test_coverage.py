"""How often a 95 % interval holds the truth, over seeded draws of whole evaluations."""

import numpy as np
import pytest

from lightningrl.evaluation.aup import aup, aup_replicates
from lightningrl.evaluation.intervals import (
    bootstrap_weights,
    effective_answers,
    paired_accuracy_difference,
    percentile_interval,
    pooled_ratio,
    ratio_interval,
    wilson_by_problem,
)

DRAWS = 600
ERROR = 3 * (0.95 * 0.05 / DRAWS) ** 0.5
"""Three standard errors of a coverage of 95 % over so many draws."""


def chances(rng, problems, accuracy, correlation):
    """A problem's chance of a right answer: a beta law, in which two samples of it have that correlation."""
    if correlation == 0:
        return np.full(problems, accuracy)
    if correlation == 1:
        return (rng.random(problems) < accuracy).astype(float)
    weight = 1 / correlation - 1
    return rng.beta(accuracy * weight, (1 - accuracy) * weight, problems)


@pytest.mark.parametrize("samples", [4, 8, 16])
@pytest.mark.parametrize("problems", [30, 60, 200])
def test_accuracy_with_several_samples_a_problem(problems, samples):
    rng, counts = np.random.default_rng(7), np.full(problems, samples)
    found = []
    for accuracy in (0.5, 0.9, 0.95, 0.98):
        for correlation in (0, 0.1, 0.3, 0.6, 0.9, 1):
            hits = 0
            for _ in range(DRAWS):
                low, high = wilson_by_problem(
                    rng.binomial(samples, chances(rng, problems, accuracy, correlation)), counts
                )
                hits += low <= 100 * accuracy <= high
            found.append(hits / DRAWS)
    assert min(found) >= 0.94 - ERROR and np.mean(found) >= 0.95, found


def test_accuracy_with_one_sample_a_problem_is_wilsons():
    rng, ones = np.random.default_rng(8), np.ones(60)
    for accuracy in (0.3, 0.5, 0.8, 0.9):
        intervals = [wilson_by_problem(rng.binomial(1, accuracy, 60), ones) for _ in range(DRAWS)]
        assert np.mean([low <= 100 * accuracy <= high for low, high in intervals]) >= 0.94 - ERROR


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


def curve(tokens, forwards, correct):
    return list(zip(tokens.sum(1) / forwards.sum(1), 100 * correct.mean(1), strict=True))


def test_tpf_differences_and_aup():
    """Those of TPF and of paired accuracy hold 95 %, that of AUP a little less, as points are dropped at a limit."""
    rng, thresholds, y_max = np.random.default_rng(11), np.array([0.5, 0.7, 0.8, 0.9, 0.95]), 92.0
    large = evaluation(rng, 200_000, thresholds)
    true_aup, true_tpf = aup(curve(*large), y_max), large[0][3].sum() / large[1][3].sum()
    true_difference = 100 * (large[2][4].mean() - large[2][0].mean())
    weights, ones = bootstrap_weights(100, 400, 0), np.ones((len(thresholds), 100))
    hits = np.zeros(3)
    for _ in range(DRAWS):
        tokens, forwards, correct = evaluation(rng, 100, thresholds)
        areas = aup_replicates(
            pooled_ratio(tokens, forwards, weights), 100 * pooled_ratio(correct, ones, weights), y_max
        )
        intervals = (
            (true_aup, percentile_interval(areas)),
            (true_tpf, ratio_interval(tokens[3], forwards[3], weights)),
            (true_difference, paired_accuracy_difference(correct[4], ones[4], correct[0], ones[0], weights)),
        )
        hits += [low <= truth <= high for truth, (low, high) in intervals]
    aup_covered, tpf_covered, difference_covered = hits / DRAWS
    assert tpf_covered >= 0.94 - ERROR and difference_covered >= 0.94 - ERROR, hits / DRAWS
    assert 0.90 <= aup_covered <= 0.98, hits / DRAWS
