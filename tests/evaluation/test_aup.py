"""AUP against published values, golden numbers with their derivation, and the laws that it should obey."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.evaluation.aup import (
    aup,
    aup_anchored,
    aup_replicates,
    first_accuracy,
    first_accuracy_replicates,
    weight,
)

# LightningRL's own calc_aup.py (its public repository): the arrays typed there.
TYPED = list(zip([2.75, 3.04, 3.11, 3.19], [91.56, 90.57, 90.32, 89.89], strict=True))

points_strategy = st.lists(st.tuples(st.floats(0.5, 12.0), st.floats(0.0, 100.0)), min_size=1, max_size=9)
few = settings(max_examples=50)


def test_golden_areas():
    # y_max = 66.9 < y: every W is 1. 2.75*91.56 = 251.79; + .29*(91.56+90.57)/2 = 26.40885;
    # + .07*(90.57+90.32)/2 = 6.33115; + .08*(90.32+89.89)/2 = 7.2084. Sum 291.7384.
    assert aup(TYPED, 66.9) == pytest.approx(291.7384, abs=1e-9)
    # 1*80 + (80*1 + 78*W)/2, W = exp(-3*(1 - 78/80)) = exp(-0.075) = 0.927743; 80 + (80 + 72.363992)/2 = 156.181996
    assert weight(78, 80) == pytest.approx(math.exp(-0.075)) == pytest.approx(0.927743, abs=1e-6)
    assert aup([(1, 80), (2, 78)], 80) == pytest.approx(156.181996, abs=1e-6)
    # nothing right anywhere is zero, not an exception
    assert aup([(1, 0.0), (2, 0.0)], 0.0) == 0.0 == aup_anchored([(1, 0.0)], -5.0, 0.0)


def test_points_more_than_five_below_are_dropped_and_bridged():
    # 74 < 80 - 5 goes; left 1*80 + 2*(80 + 72.363992)/2 + (72.363992 + 76*exp(-.15))/2 = 301.252891
    curve = [(1, 80), (2, 74), (3, 78), (4, 76)]
    assert aup(curve, 80) == pytest.approx(301.252891, abs=1e-6)
    assert aup(curve, 80) == aup([(1, 80), (3, 78), (4, 76)], 80)
    assert aup([(1, 80), (2, 74)], 80) == 80.0
    assert aup([(1, 80), (2, 75)], 75) == 80 + 0.5 * (80 + 75)  # exactly five points below is kept


@pytest.mark.parametrize(
    ("method", "points", "y_max", "published"),
    [  # d3LLM leaderboard, commit e5bfcac, AUP to two decimals
        ("d3LLM-LLaDA, GSM8K-CoT", [(1, 74.02), (9.11, 73.09)], 74.98, 637.65),
        ("dParallel-LLaDA, MATH", [(1, 32), (3.17, 30.18)], 41.15, 64.54),
        ("Fast-dLLM-LLaDA, MBPP", [(1, 41.58), (2.13, 38.6)], 63.6, 56.60),
        ("EAGLE-3, HumanEval-Instruct", [(1, 67.58), (5.98, 67.58)], 72.25, 344.81),
        ("d3LLM-Dream, GSM8K-CoT", [(1, 83.47), (4.94, 81.36)], 83.94, 391.33),
        ("Fast-dLLM-Dream, GSM8K-CoT", [(1, 83.68), (1.44, 79)], 83.94, 116.49),
        ("d3LLM-Coder-7B, MBPP+", [(1, 69.6), (2.5, 69.3)], 70.1, 170.92),
        ("Qwen-2.5-7B-it, GSM8K-CoT", [(1, 74.1)], 74.98, 74.10),
    ],
)
def test_published_leaderboard_rows(method, points, y_max, published):
    assert aup(points, y_max) == pytest.approx(published, abs=0.005), method


def test_anchored_weights_the_first_rectangle_and_cannot_be_gained_by_starting_low():
    # f(78) = 78*exp(-.075) = 72.363992; 2*f(78) + (f(78) + f(76))/2 with f(76) = 76*exp(-.15) = 65.413805
    f78, f76 = 78 * math.exp(-0.075), 76 * math.exp(-0.15)
    assert aup_anchored([(2, 78), (3, 76)], 75, 80) == pytest.approx(2 * f78 + 0.5 * (f78 + f76))
    # `aup` pays for a low first point (its y_1 - 5 sinks with it); `aup_anchored` gives such a curve nothing
    base, low = [(1, 80), (3, 74)], [(1, 60), (6, 56)]
    assert aup(low, 80) > aup(base, 80)
    y_min = first_accuracy(base) - 5
    assert aup_anchored(low, y_min, 80) == 0.0 < aup_anchored(base, y_min, 80)


@few
@given(points_strategy, st.floats(0.0, 60.0), st.floats(1.0, 100.0), st.floats(0.0, 95.0))
def test_losing_accuracy_everywhere_never_raises_anchored(points, loss, y_max, y_min):
    """For curves whose accuracy does not rise with TPF."""
    curve = list(zip(sorted(p for p, _ in points), sorted((y for _, y in points), reverse=True), strict=True))
    worse = [(tpf, max(accuracy - loss, 0.0)) for tpf, accuracy in curve]
    assert aup_anchored(worse, y_min, y_max) <= aup_anchored(curve, y_min, y_max) + 1e-9


def test_bridging_is_the_known_exception_to_that_law():
    """A dip that falls below y_min is bridged over, as published, so a curve that rises again can gain."""
    curve = [(1, 80), (2, 75.1), (3, 80)]
    worse = [(tpf, accuracy - 0.2) for tpf, accuracy in curve]
    assert aup_anchored(worse, 75, 80) > aup_anchored(curve, 75, 80)


@few
@given(points_strategy, st.floats(1.0, 100.0), st.floats(0.5, 50.0), st.randoms(use_true_random=False))
def test_input_order_does_not_matter_and_stretching_tpf_stretches_both(points, y_max, factor, random):
    shuffled = list(points)
    random.shuffle(shuffled)
    assert aup(shuffled, y_max) == aup(points, y_max)
    assert aup_anchored(shuffled, 40, y_max) == aup_anchored(points, 40, y_max)
    stretched = [(factor * tpf, accuracy) for tpf, accuracy in points]
    if len({tpf for tpf, _ in stretched}) == len({tpf for tpf, _ in points}):  # no ties made by rounding
        assert aup(stretched, y_max) == pytest.approx(factor * aup(points, y_max))
        assert aup_anchored(stretched, 40, y_max) == pytest.approx(factor * aup_anchored(points, 40, y_max))


@few
@given(st.integers(1, 6), st.integers(0, 10**6), st.sampled_from([0.0, 55.0, 90.0]))
def test_replicates_equal_the_scalar_functions(n_points, seed, y_max):
    rng = np.random.default_rng(seed)
    tpf = rng.choice([1.0, 1.5, 2.0, 3.25, 4.0], size=(20, n_points))  # ties on purpose
    accuracy = rng.choice([0.0, 70.0, 72.5, 74.0, 78.0, 80.0], size=(20, n_points))
    curves = [list(zip(t, a, strict=True)) for t, a in zip(tpf, accuracy, strict=True)]
    y_min = rng.uniform(60, 80, size=20)
    assert first_accuracy_replicates(tpf, accuracy).tolist() == [first_accuracy(curve) for curve in curves]
    np.testing.assert_allclose(aup_replicates(tpf, accuracy, y_max), [aup(c, y_max) for c in curves], rtol=1e-12)
    anchored = [aup_anchored(c, m, y_max) for c, m in zip(curves, y_min, strict=True)]
    np.testing.assert_allclose(aup_replicates(tpf, accuracy, y_max, y_min), anchored, rtol=1e-12)


@pytest.mark.parametrize("points", [[], [(1, 101)], [(0, 50)], [(float("nan"), 50)], [(1, float("nan"))]])
def test_unusable_points_are_refused(points):
    with pytest.raises(ValueError, match=r"AUP (needs|points)"):
        aup(points, 80)


def test_a_point_exactly_at_the_limit_is_kept_whatever_the_last_bit_of_its_share():
    """Every pair of counts out of n exactly 5 points apart, as both orders of the operations round them."""
    for n in (60, 140, 300, 1000):
        right = np.arange(n // 10, n)
        low = right - n // 20
        for first, second in ((100.0 * right / n, 100.0 * low / n), (100.0 * (right / n), 100.0 * (low / n))):
            curves = np.stack([first, second], axis=1)
            areas = aup_replicates(np.tile([1.0, 2.0], (len(right), 1)), curves, 100.0)
            assert (areas > first).all(), n
            for area, (y_1, y_2) in zip(areas[::7], curves[::7], strict=True):
                points = [(1.0, y_1), (2.0, y_2)]
                assert aup(points, 100.0) == pytest.approx(area)
                assert aup_anchored(points, y_1 - 5, 100.0) > aup_anchored(points[:1], y_1 - 5, 100.0)
