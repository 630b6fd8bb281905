"""Rewards, advantages, filters, collapse ratio: numbers computed by hand."""

import itertools

import numpy as np
import pytest
from fixtures.tiny import answer_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.answering import score
from lightningrl.judges.boxed import BoxedJudge
from lightningrl.judges.code import CodeJudge
from lightningrl.rl.advantages import collapse_ratio, group_z_score, normalise_batch, normalise_group
from lightningrl.rl.algorithms.grpo_traj import GRPOTrajectory
from lightningrl.rl.algorithms.lightningrl import LightningRL
from lightningrl.rl.filters import keep_groups
from lightningrl.rl.rollout import Drawn, Groups
from lightningrl.rl.step_metrics import collapse_metrics, rollout_metrics

CORRECT = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], dtype=bool)
"""Group 1: lengths [200,240,150,300], forwards [100,60,50,60]; group 2 tpf [2,2,6,2]."""
TPF = np.array([[2.0, 4.0, 3.0, 5.0], [2.0, 2.0, 6.0, 2.0]])
SIGNED = np.where(CORRECT, 1.0, -1.0)
Z_TPF = [[-1.341641, 0.447214, -0.447214, 1.341641], [-0.577350, -0.577350, 1.732051, -0.577350]]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def golden_groups():
    lengths, forwards = [[200, 240, 150, 300], [200, 120, 300, 120]], [[100, 60, 50, 60], [100, 60, 50, 60]]
    tables = zip(lengths, forwards, CORRECT.tolist(), strict=True)
    return Groups([[answer_of(*cells) for cells in zip(*rows, strict=True)] for rows in tables])


def test_z_score_of_both_groups():
    close(group_z_score(TPF), Z_TPF)
    close(group_z_score(CORRECT.astype(float)), [[1, 1, -1, -1], [0, 0, 0, 0]])


def test_batch_normalisation_of_z_scored_rewards():
    """z + z: mean 0, unbiased std 1.096898."""
    total = group_z_score(CORRECT.astype(float)) + group_z_score(TPF)
    assert total.mean() == pytest.approx(0, abs=1e-12) and total.std(ddof=1) == pytest.approx(1.096898, abs=1e-6)
    expected = [[-0.311461, 1.31937, -1.31937, 0.311461], [-0.526348, -0.526348, 1.579045, -0.526348]]
    close(normalise_batch(total), expected)


def test_advantages_of_lightningrl_are_the_papers():
    """As in the paper's text (accuracy +-1, speed z-scored): mean 0.5, unbiased std 1.220204."""
    total = SIGNED + group_z_score(TPF)
    close(total, [[-0.341641, 1.447214, -1.447214, 0.341641], [0.422650, 0.422650, 2.732051, 0.422650]])
    assert total.mean() == pytest.approx(0.5) and total.std(ddof=1) == pytest.approx(1.220204, abs=1e-6)
    expected = [[-0.689754, 0.776275, -1.595809, -0.129781], [-0.063391, -0.063391, 1.829243, -0.063391]]
    close(LightningRL().advantages(SIGNED, TPF), expected)


def test_group_normalisation_of_group_1():
    close(normalise_group((SIGNED + group_z_score(TPF))[:1]), [[-0.281389, 1.191982, -1.191982, 0.281389]])


def test_grpo_normalises_the_raw_sum_in_its_group():
    """By hand: group 1 sums +-1 + tpf = [3, 5, 2, 4], mean 3.5, unbiased std sqrt(5/3) = 1.290994.

    Group 2: [3, 3, 7, 3], mean 4, unbiased std 2.
    """
    expected = [[-0.387298, 1.161895, -1.161895, 0.387298], [-0.5, -0.5, 1.5, -0.5]]
    close(GRPOTrajectory().advantages(SIGNED, TPF), expected)


@pytest.mark.parametrize("count", [6, 10, 32])
def test_equal_rewards_that_are_no_binary_fractions_have_z_score_0(count):
    """32 x (1/3) must give 0; a naive sum on Python 3.11 gives -1."""
    for k, t in itertools.product(range(21), range(1, 21)):
        assert (group_z_score(np.full((1, count), k / t)) == 0).all()
    noisy = np.full((1, count), 1 / 3) + np.resize([1e-16, -1e-16], count)
    assert (group_z_score(noisy) == 0).all()


def test_a_group_of_equal_rewards_normalises_to_0():
    assert (normalise_group(np.full((2, 4), 1.0)) == 0).all()
    assert (normalise_batch(np.full((2, 4), 1.0)) == 0).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    values=st.lists(st.lists(st.integers(-50, 50), min_size=4, max_size=4), min_size=1, max_size=4),
    scale=st.integers(1, 9), shift=st.integers(-99, 99),
)  # fmt: skip
def test_z_scores_ignore_scale_and_shift_and_have_mean_0_and_variance_1(values, scale, shift):
    table = np.array(values, dtype=float)
    z = group_z_score(table)
    np.testing.assert_allclose(group_z_score(scale * table + shift), z, atol=1e-9)
    np.testing.assert_allclose(z.mean(axis=1), 0, atol=1e-12)
    varied = table.min(axis=1) < table.max(axis=1)
    np.testing.assert_allclose(z[varied].var(axis=1), 1)
    assert (z[~varied] == 0).all()


def test_nll_set_is_what_the_judge_found_correct_not_what_has_a_reward_of_at_least_0():
    """The published rule selects [F,T,F,T] and [F,F,T,F]; the right one [T,T,F,F] and all four."""
    total = group_z_score(CORRECT.astype(float)) + group_z_score(TPF)
    buggy = (total >= 0).tolist()
    assert buggy == [[False, True, False, True], [False, False, True, False]]
    found = LightningRL().nll_set(CORRECT)
    assert found.dtype == bool and found.tolist() == [[True, True, False, False], [True] * 4]
    assert not GRPOTrajectory().nll_set(CORRECT).any()


def test_filter_keeps_a_spread_of_the_limit_and_drops_less_and_all_wrong():
    """Range 0.0099 dropped, 0.01 kept; all-wrong dropped when asked (both exact in binary at scale 2^-10)."""
    tpf, right = (
        np.array([[2.0, 2.0099], [2.0, 2.0 + 2**-6], [1.0, 3.0]]),
        np.array([[1, 1], [1, 0], [0, 0]], dtype=bool),
    )
    assert keep_groups(tpf, right, 2**-6, True).tolist() == [False, True, False]
    assert keep_groups(tpf, right, 2**-6, False).tolist() == [False, True, True]
    assert keep_groups(tpf, right, 0.0, False).tolist() == [True, True, True]
    assert keep_groups(np.array([[0.0, 0.0099], [0.0, 0.01]]), np.ones((2, 2), bool), 0.01, True).tolist() == [
        False,
        True,
    ]


def test_collapse_ratio_by_hand():
    """Group 1 gaps: .05 .1 .5 | .05 .45 | .4; group 2: 0 0 .2 | 0 .2 | .2 (0.5 and 0.25 apart from floats' edges).

    Below 0.07: .05, .05, 0, 0, 0 = 5 of 12 pairs; below 0.3: those, .1 and three of .2 = 9; below 0.6: all 12.
    """
    advantage = np.array([[0.0, 0.05, 0.1, 0.5], [1.0, 1.0, 1.0, 1.2]])
    assert [collapse_ratio(advantage, eps) for eps in (0.07, 0.3, 0.6)] == pytest.approx([5 / 12, 9 / 12, 1.0])
    assert collapse_ratio(np.array([[0.0, 0.25]]), 0.25) == 0.0, "strictly closer than eps"
    assert collapse_ratio(np.array([[0.0, 0.0], [0.0, 9.0]]), 0.1) == 0.5, "pairs inside groups only"


def test_step_metrics_of_the_golden_groups():
    """Group 1 alone: pooled TPF 890 / 270 = 3.296296, mean of ratios 3.5."""
    groups = Groups(golden_groups().answers[:1])
    close(groups.tpf_NG, TPF[:1])
    row = rollout_metrics(Drawn(groups, groups, 1, 0), False, 2)
    assert row["tpf"] == pytest.approx(890 / 270) and row["tpf"] == pytest.approx(3.296296, abs=1e-6)
    assert row["reward_speed_mean"] == pytest.approx(3.5)
    assert row["forwards_per_problem"] == pytest.approx(270 / 4) and row["response_tokens_mean"] == pytest.approx(
        890 / 4
    )
    assert row["accuracy_pct"] == 50.0 and row["reward_accuracy_mean"] == 0.0
    assert (row["groups_sampled"], row["groups_kept"], row["groups_missing"], row["acceptance_rate"]) == (1, 1, 1, 1.0)
    assert row["statuses"] == {"ok": 2, "wrong": 2} and row["truncated_pct"] == 100.0
    assert row["reward_total_mean"] == pytest.approx(3.5), "the raw sum of both, whatever is trained with"


def test_collapse_is_reported_for_the_advantages_trained_with_and_for_the_raw_sum():
    """By hand. Raw sum normalised in its group: -0.387, 1.162, -1.162, 0.387 have no pair within 0.5; -0.5, -0.5, 1.5,
    -0.5 have three of six. Trained with: gaps .05 .3 2 | .25 1.95 | 1.7 and a group 1 apart.
    """
    found = collapse_metrics(golden_groups(), np.array([[0.0, 0.05, 0.3, 2.0], [0.0, 1.0, 2.0, 3.0]]), False)
    assert found["collapse_ratio_0.5_sum"] == found["collapse_ratio_0.01_sum"] == 3 / 12
    assert [found[f"collapse_ratio_{eps}"] for eps in (0.01, 0.05, 0.1, 0.5)] == [0, 0, 1 / 12, 3 / 12]


def test_step_metrics_report_all_sampled_groups_and_collapse_over_the_kept_only():
    groups = golden_groups()
    kept = Groups(groups.answers[1:])
    row = rollout_metrics(Drawn(groups, kept, 2, 3), False, 1)
    assert row["accuracy_pct"] == 75.0 and row["acceptance_rate"] == 0.5 and row["groups_unscorable"] == 3
    assert row["reward_total_mean"] == pytest.approx((SIGNED + TPF).mean())


def test_step_metrics_count_commits_in_tpf_true():
    groups = Groups([[answer_of(6, 2, commits=1), answer_of(9, 3, commits=2)]])
    row = rollout_metrics(Drawn(groups, groups, 1, 0), False, 1)
    assert (row["tpf"], row["tpf_true"]) == (15 / 5, 15 / 8)


def test_step_metrics_without_any_group_are_counts_only():
    row = rollout_metrics(Drawn(Groups([]), Groups([]), 4, 2), False, 3)
    assert row["groups_missing"] == 3 and row["acceptance_rate"] == 0 and "tpf" not in row


def test_graded_accuracy_is_the_judges_value_and_else_plus_or_minus_1():
    groups = Groups([[answer_of(4, 2, False, 0.25), answer_of(4, 2, True, 1.0), answer_of(4, 2, False, 0.0)]])
    assert groups.accuracy_reward(True).tolist() == [[0.25, 1.0, 0.0]]
    assert groups.accuracy_reward(False).tolist() == [[-1.0, 1.0, -1.0]]


def test_every_judge_says_whether_its_value_is_graded():
    """Accuracy is +-1, the pass fraction for code; PolicyTrainer reads `judge.graded`."""
    assert BoxedJudge.graded is False
    assert CodeJudge.graded is True


def test_score_pools_tokens_over_forwards():
    """Ratio of sums: (200 + 240 + 150 + 300) / (100 + 60 + 50 + 60) = 3.296296."""
    found = score(golden_groups().answers[0])
    assert found.tpf == pytest.approx(890 / 270) and found.accuracy_pct == 50.0
    assert found.forwards_per_problem == 67.5 and found.response_tokens_mean == 222.5
