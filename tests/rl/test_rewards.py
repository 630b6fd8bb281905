"""Rewards, advantages, filters, collapse ratio: numbers computed by hand."""

import dataclasses
import itertools

import numpy as np
import pytest
from fixtures.tiny import CoinJudge, answer_of, trajectory_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.answering import Task, score
from lightningrl.config.train import Run
from lightningrl.errors import ConfigError
from lightningrl.judges.boxed_answer import BoxedJudge
from lightningrl.judges.code.judge import CodeJudge
from lightningrl.rl import rewards as rewards_module
from lightningrl.rl.advantages import collapse_ratio, group_minmax, group_z_score, normalise_batch, normalise_group
from lightningrl.rl.algorithms.grpo_traj import GRPOTrajectory
from lightningrl.rl.algorithms.lightningrl import Algorithm1, LightningRL
from lightningrl.rl.algorithms.lightningrl_plus import LightningRLPlus
from lightningrl.rl.algorithms.published_code import PublishedCode
from lightningrl.rl.algorithms.tracerl import TraceRL
from lightningrl.rl.groups import Groups
from lightningrl.rl.rewards import FUNCTIONS, Reward, accuracy, total_reward
from lightningrl.rl.rollout import RolloutBatch
from lightningrl.rl.step_metrics import advantage_metrics, rollout_metrics

LIGHTNINGRL, GRPO, TRACERL = (each(each.Config()) for each in (LightningRL, GRPOTrajectory, TraceRL))
ALGORITHM1, PLUS, PUBLISHED = (each(each.Config()) for each in (Algorithm1, LightningRLPlus, PublishedCode))
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
    close(LIGHTNINGRL.advantages(golden_groups()), expected)


def test_group_normalisation_of_group_1():
    close(normalise_group((SIGNED + group_z_score(TPF))[:1]), [[-0.281389, 1.191982, -1.191982, 0.281389]])


def test_grpo_normalises_the_raw_sum_in_its_group():
    """By hand: group 1 sums +-1 + tpf = [3, 5, 2, 4], mean 3.5, unbiased std sqrt(5/3) = 1.290994.

    Group 2: [3, 3, 7, 3], mean 4, unbiased std 2.
    """
    expected = [[-0.387298, 1.161895, -1.161895, 0.387298], [-0.5, -0.5, 1.5, -0.5]]
    close(GRPO.advantages(golden_groups()), expected)


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
    assert LIGHTNINGRL.imitated(golden_groups()).tolist() == CORRECT.tolist()
    assert PUBLISHED.imitated(golden_groups()).tolist() == buggy
    without = LightningRL(LightningRL.Config(nll=0))
    assert not any(each.imitated(golden_groups()).any() for each in (GRPO, TRACERL, without))


def keep(forwards, correct, **method):
    """Groups of two responses of 2^12 tokens with these forwards."""
    pairs = zip(forwards, correct, strict=True)
    groups = Groups([[answer_of(4096, *cells) for cells in zip(*pair, strict=True)] for pair in pairs])
    return LightningRL(LightningRL.Config(**method)).keep(groups).tolist()


def test_filter_keeps_a_spread_of_the_limit_and_drops_less_and_all_wrong():
    """4096 tokens: TPF 2 and 4 differ by 2, the limit; 4 and 4 by 0; the third group has no correct one."""
    forwards, right = [[2048, 1024], [1024, 1024], [2048, 1024]], [[1, 0], [1, 1], [0, 0]]
    assert keep(forwards, right, filter_tpf_range=2.0) == [True, False, False]
    assert keep(forwards, right, filter_tpf_range=2.0000001) == [False, False, False]
    assert keep(forwards, right, filter_tpf_range=2.0, filter_all_wrong=False) == [True, False, True]
    assert keep(forwards, right, filter_tpf_range=0.0, filter_all_wrong=False) == [True, True, True]


def test_the_default_limit_keeps_a_range_of_0_01_and_drops_0_0099():
    """Lengths 200 and 201 at 100 forwards: 2.00 and 2.01; 20000 and 20099 at 10000: 2.0000 and 2.0099."""
    near = Groups([[answer_of(20000, 10000), answer_of(20099, 10000)]])
    far = Groups([[answer_of(300, 100), answer_of(302, 100)]])
    assert LIGHTNINGRL.keep(near).tolist() == [False] and LIGHTNINGRL.keep(far).tolist() == [True]


def test_where_the_judge_grades_all_wrong_means_that_no_test_passed():
    """Fractions [.9, .5] without one that passed all are kept, [0, 0] dropped (published code, by pass rate)."""
    answers = [[answer_of(8, 4, False, value), answer_of(8, 2, False, other)] for value, other in ((0.9, 0.5), (0, 0))]
    assert LIGHTNINGRL.keep(Groups(answers, graded=True)).tolist() == [True, False]
    assert LIGHTNINGRL.keep(Groups(answers)).tolist() == [False, False]


def test_tracerls_filter_keeps_20_to_80_percent_correct_and_asks_no_spread():
    for right, kept in ((0, False), (1, True), (3, True), (4, True), (5, False)):
        group = [answer_of(8, 2, correct=i < right) for i in range(5)]
        assert TRACERL.keep(Groups([group])).tolist() == [kept], right


def test_overlong_answers_count_as_wrong_from_the_margin_on():
    """Published code, max_new_tokens 8192: 8186 tokens kept, 8187 wrong."""
    answers, task = [[answer_of(8186, 64), answer_of(8187, 64)]], Task(lambda example: (), CoinJudge(), 8192)
    groups = PUBLISHED.groups(answers, task)
    assert groups.correct_NG.tolist() == [[True, False]] and accuracy(groups).tolist() == [[1.0, -1.0]]
    judged_alone = PublishedCode(PublishedCode.Config(overlong_margin=None))
    for algorithm in (LIGHTNINGRL, judged_alone):
        assert algorithm.groups(answers, task).correct_NG.all()


def test_algorithm_1_scales_both_rewards_and_normalises_in_the_group():
    """Group 1: z + z = [-.341641, 1.447214, -1.447214, .341641], unbiased std 1.214096."""
    expected = [-0.281389, 1.191982, -1.191982, 0.281389]
    found = ALGORITHM1.advantages(golden_groups())
    close(found[0], expected)
    assert found[1].std(ddof=1) == pytest.approx(1)


def test_published_code_scales_both_and_normalises_over_the_batch():
    expected = [[-0.311461, 1.31937, -1.31937, 0.311461], [-0.526348, -0.526348, 1.579045, -0.526348]]
    close(PUBLISHED.advantages(golden_groups()), expected)
    assert PUBLISHED.states.full_mask and not LIGHTNINGRL.states.full_mask


def test_minmax_speed_beside_plus_or_minus_1():
    """+-1 and min-max of [2, 4, 3, 5]: [1, 1.666667, -0.666667, 0]; a constant group is worth 0.5."""
    rewards = [Reward(name="accuracy"), Reward(name="tpf", scale="minmax")]
    close(total_reward(rewards, golden_groups())[0], [1, 1.666667, -0.666667, 0])
    assert group_minmax(np.full((1, 3), 2.0)).tolist() == [[0.5] * 3]


def test_tracerl_adds_raw_tpf_to_scaled_correctness_and_leaves_the_rest_to_its_value_model():
    close(TRACERL.advantages(golden_groups()), group_z_score(CORRECT.astype(float)) + TPF)
    assert TRACERL.has_value_model and TRACERL.value.gamma == TRACERL.value.lam == 1.0


def test_speed_for_correct_answers_only_is_scaled_among_them():
    """Group 1, correct TPF [2, 4]: z = [-1, 1]; the wrong ones get 0. Group 2 is all correct."""
    found = total_reward([Reward(name="tpf", scale="z_score", only_correct=True)], golden_groups())
    close(found, [[-1, 1, 0, 0], Z_TPF[1]])
    raw = total_reward([Reward(name="tpf", only_correct=True, weight=0.5)], golden_groups())
    close(raw, [[1, 2, 0, 0], [1, 1, 3, 1]])
    wrong = Groups([[answer_of(4, 2, False), answer_of(4, 1, False)]])
    assert total_reward([Reward(name="tpf", scale="z_score", only_correct=True)], wrong).tolist() == [[0, 0]]


def test_fewer_forwards_and_true_tpf_as_rewards():
    groups = Groups([[answer_of(6, 2, commits=1), answer_of(9, 3, commits=2)]])
    assert FUNCTIONS["forwards"](groups).tolist() == [[-2, -3]], "the longer answer costs more, at the same TPF"
    assert FUNCTIONS["tpf"](groups).tolist() == [[3, 3]]
    assert FUNCTIONS["tpf_true"](groups).tolist() == [[2, 9 / 5]]
    assert FUNCTIONS["length"](groups).tolist() == [[-6, -9]]


def test_the_rewards_of_lightningrl_plus():
    """Group 1, correct: forwards [100, 60] -> z [-1, 1], lengths [200, 240] -> z [1, -1] times 0.15; the wrong ones -1.
    Group 2: forwards [100, 60, 50, 60] mean 67.5, lengths [200, 120, 300, 120] mean 185."""
    found = PLUS.total_reward(golden_groups())
    forwards, lengths = np.array([100.0, 60, 50, 60]), np.array([200.0, 120, 300, 120])
    z = [(67.5 - f) / forwards.std() + 0.15 * (185 - n) / lengths.std() for f, n in zip(forwards, lengths, strict=True)]
    close(found, [[1 - 1 + 0.15, 1 + 1 - 0.15, -1, -1], [1 + value for value in z]])
    padded = Groups([[answer_of(40, 10), answer_of(80, 10)]])
    assert PLUS.total_reward(padded)[0].argmax() == 0, "padding costs, where TPF pays for it"
    assert LIGHTNINGRL.total_reward(padded)[0].argmax() == 1


def test_an_unknown_reward_is_an_error_that_lists_what_there_is():
    with pytest.raises(
        ValueError, match="found 'speed', allowed: accuracy, tpf, tpf_true, forwards, length, or your own"
    ):
        Reward(name="speed")


@pytest.mark.parametrize("wrong", [lambda g: g.tpf_NG[0], lambda g: g.tpf_NG * np.nan, lambda g: 1.0])
def test_a_reward_of_somebodys_own_that_is_not_one_number_a_response_is_an_error(wrong, monkeypatch):
    monkeypatch.setattr(rewards_module, "resolve", lambda name: wrong)
    with pytest.raises(ConfigError, match="expected one finite number for each of 2 x 4 responses"):
        total_reward([Reward(name="mine:reward")], golden_groups())


def run_of(algorithm, **method):
    return Run(name="r", role="after", algorithm=algorithm, benchmark="b", steps=1, method=method)


def test_a_runs_method_changes_the_keys_it_gives_and_no_others():
    changed = run_of("grpo_traj", kl=0.5, advantage="center").method
    assert (changed.kl, changed.advantage, changed.rewards) == (0.5, "center", GRPO.config.rewards)
    assert (
        run_of("tracerl").method == TRACERL.config and run_of("tracerl", kl=0.01).implementation.value == TRACERL.value
    )
    science = run_of("lightningrl", nll=0.1).science()["method"]
    assert science == {"nll": 0.1}, "what is not given is the algorithm's, whose source is in the key"


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
    row = rollout_metrics(RolloutBatch(groups, groups, 1, 0), 2)
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
    found = advantage_metrics(golden_groups(), np.array([[0.0, 0.05, 0.3, 2.0], [0.0, 1.0, 2.0, 3.0]]))
    assert found["collapse_ratio_0.5_sum"] == found["collapse_ratio_0.01_sum"] == 3 / 12
    assert [found[f"collapse_ratio_{eps}"] for eps in (0.01, 0.05, 0.1, 0.5)] == [0, 0, 1 / 12, 3 / 12]


def test_step_metrics_report_all_sampled_groups_and_collapse_over_the_kept_only():
    groups = golden_groups()
    kept = Groups(groups.answers[1:])
    row = rollout_metrics(RolloutBatch(groups, kept, 2, 3), 1)
    assert row["accuracy_pct"] == 75.0 and row["acceptance_rate"] == 0.5 and row["groups_unscorable"] == 3
    assert row["reward_total_mean"] == pytest.approx((SIGNED + TPF).mean())


def test_step_metrics_count_commits_in_tpf_true():
    groups = Groups([[answer_of(6, 2, commits=1), answer_of(9, 3, commits=2)]])
    row = rollout_metrics(RolloutBatch(groups, groups, 1, 0), 1)
    assert (row["tpf"], row["tpf_true"]) == (15 / 5, 15 / 8)
    assert (row["tpf_mean"], row["tpf_true_mean"]) == (3, (6 / 3 + 9 / 5) / 2)


def test_step_metrics_count_tpf_as_the_papers_code_does():
    """Text behind the stop token counts, special tokens do not, over distinct steps: 5 of 6 tokens, 4 steps; 1.25."""
    trajectory = trajectory_of(2, [1, 1, 2, 2, 3, 4], response_len=5)
    answer = dataclasses.replace(answer_of(5, 4), trajectory=trajectory)
    row = rollout_metrics(RolloutBatch(Groups([[answer]]), Groups([]), 1, 0), 1, special_ids=[5])
    assert trajectory.token_ids.tolist() == [1, 2, 3, 4, 5, 6], "the stop token is the fifth"
    assert row["tpf_paper"] == row["tpf_paper_mean"] == 1.25


def test_step_metrics_without_any_group_are_counts_only():
    row = rollout_metrics(RolloutBatch(Groups([]), Groups([]), 4, 2), 3)
    assert row["groups_missing"] == 3 and row["acceptance_rate"] == 0 and "tpf" not in row


def test_graded_accuracy_is_the_judges_value_and_else_plus_or_minus_1():
    answers = [[answer_of(4, 2, False, 0.25), answer_of(4, 2, True, 1.0), answer_of(4, 2, False, 0.0)]]
    assert accuracy(Groups(answers, graded=True)).tolist() == [[0.25, 1.0, 0.0]]
    assert accuracy(Groups(answers)).tolist() == [[-1.0, 1.0, -1.0]]


def test_every_judge_says_whether_its_value_is_graded():
    """Accuracy is +-1, the pass fraction for code; PolicyTrainer reads `judge.graded`."""
    assert BoxedJudge.graded is False
    assert CodeJudge.graded is True


def test_score_pools_tokens_over_forwards():
    """Ratio of sums: (200 + 240 + 150 + 300) / (100 + 60 + 50 + 60) = 3.296296."""
    found = score(golden_groups().answers[0])
    assert found.tpf == pytest.approx(890 / 270) and found.accuracy_pct == 50.0
    assert found.forwards_per_problem == 67.5 and found.response_tokens_mean == 222.5
