"""How often a 95 % interval holds the truth, over seeded draws of whole evaluations."""

import numpy as np
import pytest

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


def chances(rng, problems, accuracy, correlation):
    """A problem's chance of a right answer: a beta law, in which two samples of it have that correlation."""
    if correlation == 0:
        return np.full(problems, accuracy)
    if correlation == 1:
        return (rng.random(problems) < accuracy).astype(float)
    weight = 1 / correlation - 1
    return rng.beta(accuracy * weight, (1 - accuracy) * weight, problems)


@pytest.mark.parametrize(("problems", "samples"), [(30, 4), (30, 16), (60, 8), (60, 1), (200, 4), (200, 16)])
def test_accuracy(problems, samples):
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


def test_tpf_differences_and_aup():
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
