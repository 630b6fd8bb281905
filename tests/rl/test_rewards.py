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
from lightningrl.rl.algorithms.grpo_traj import GRPOTrajectory
from lightningrl.rl.algorithms.lightningrl import Algorithm1, LightningRL
from lightningrl.rl.algorithms.lightningrl_plus import LightningRLPlus
from lightningrl.rl.algorithms.published_code import PublishedCode
from lightningrl.rl.algorithms.tracerl import TraceRL
from lightningrl.rl.groups import Groups
from lightningrl.rl.rewards import (
    FUNCTIONS,
    Reward,
    accuracy,
    group_minmax,
    group_z_score,
    normalise_batch,
    normalise_group,
    total_reward,
)
from lightningrl.rl.rollout import RolloutBatch, RolloutLosses
from lightningrl.rl.step_metrics import advantage_metrics, collapse_ratio, rollout_metrics

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


def test_z_score_of_both_groups_and_minmax():
    close(group_z_score(TPF), Z_TPF)
    close(group_z_score(CORRECT.astype(float)), [[1, 1, -1, -1], [0, 0, 0, 0]])
    assert group_minmax(np.full((1, 3), 2.0)).tolist() == [[0.5] * 3], "a constant group"


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        # The paper's text, accuracy +-1 and speed z-scored, over the batch: mean 0.5, unbiased std 1.220204.
        (LIGHTNINGRL, [[-0.689754, 0.776275, -1.595809, -0.129781], [-0.063391, -0.063391, 1.829243, -0.063391]]),
        # z + z over the batch: mean 0, unbiased std 1.096898.
        (PUBLISHED, [[-0.311461, 1.31937, -1.31937, 0.311461], [-0.526348, -0.526348, 1.579045, -0.526348]]),
        # z + z = [-.341641, 1.447214, -1.447214, .341641] in its group, unbiased std 1.214096; group 2: 1.154701.
        (ALGORITHM1, [[-0.281389, 1.191982, -1.191982, 0.281389], [-0.5, -0.5, 1.5, -0.5]]),
        # The raw sums [3, 5, 2, 4], mean 3.5, unbiased std sqrt(5/3) = 1.290994; [3, 3, 7, 3], mean 4, std 2.
        (GRPO, [[-0.387298, 1.161895, -1.161895, 0.387298], [-0.5, -0.5, 1.5, -0.5]]),
        # z-scored correctness and raw TPF, the rest left to the value model.
        (TRACERL, [[3, 5, 2, 4], [2, 2, 6, 2]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_advantages_of_the_algorithms(algorithm, expected):
    close(algorithm.advantages(golden_groups()), expected)
    assert algorithm.states.full_mask == (algorithm is PUBLISHED)
    assert algorithm.has_value_model == (algorithm is TRACERL)


@pytest.mark.parametrize("count", [6, 10, 32])
def test_equal_rewards_that_are_no_binary_fractions_have_z_score_0(count):
    """32 x (1/3) must give 0; a naive sum on Python 3.11 gives -1."""
    for k, t in itertools.product(range(21), range(1, 21)):
        assert (group_z_score(np.full((1, count), k / t)) == 0).all()
    noisy = np.full((1, count), 1 / 3) + np.resize([1e-16, -1e-16], count)
    assert (group_z_score(noisy) == 0).all()
    for normalise in (normalise_group, normalise_batch):
        assert (normalise(np.full((2, count), 1.0)) == 0).all()


@settings(max_examples=50, deadline=None, derandomize=True)
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
    buggy = [[False, True, False, True], [False, False, True, False]]
    assert LIGHTNINGRL.imitated(golden_groups()).tolist() == CORRECT.tolist()
    assert PUBLISHED.imitated(golden_groups()).tolist() == buggy
    without = LightningRL(LightningRL.Config(nll=0))
    assert not any(each.imitated(golden_groups()).any() for each in (GRPO, TRACERL, without))


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        ({"filter_tpf_range": 2.0}, [True, False, False]),
        ({"filter_tpf_range": 2.0000001}, [False, False, False]),
        ({"filter_tpf_range": 2.0, "filter_all_wrong": False}, [True, False, True]),
        ({"filter_tpf_range": 0.0, "filter_all_wrong": False}, [True, True, True]),
    ],
)
def test_filter_keeps_a_spread_of_the_limit_and_drops_less_and_all_wrong(method, kept):
    """4096 tokens: TPF 2 and 4 differ by 2, the limit; 4 and 4 by 0; the third group has no correct one."""
    groups = [[answer_of(4096, first, right), answer_of(4096, 1024, also)] for first, right, also in
              ((2048, True, False), (1024, True, True), (2048, False, False))]  # fmt: skip
    assert LightningRL(LightningRL.Config(**method)).keep(Groups(groups)).tolist() == kept


def test_the_default_limit_keeps_a_range_of_0_01_and_drops_0_0099():
    """TPF 2.0000 and 2.0099 at 10000 forwards; 3.00 and 3.02 at 100."""
    near = Groups([[answer_of(20000, 10000), answer_of(20099, 10000)]])
    far = Groups([[answer_of(300, 100), answer_of(302, 100)]])
    assert LIGHTNINGRL.keep(near).tolist() == [False] and LIGHTNINGRL.keep(far).tolist() == [True]


def test_tracerls_filter_keeps_20_to_80_percent_correct_and_asks_no_spread():
    groups = [[answer_of(8, 2, correct=i < right) for i in range(5)] for right in (0, 1, 3, 4, 5)]
    assert TRACERL.keep(Groups(groups)).tolist() == [False, True, True, True, False]


def test_where_the_judge_grades_its_value_is_the_accuracy_and_all_wrong_means_that_no_test_passed():
    """Fractions [.9, .5] without one that passed all are kept, [0, 0] dropped (published code, by pass rate)."""
    answers = [[answer_of(8, 4, False, value), answer_of(8, 2, False, other)] for value, other in ((0.9, 0.5), (0, 0))]
    graded, other = (LIGHTNINGRL.groups(answers, Task(tuple, judge, 8)) for judge in (CodeJudge, BoxedJudge))
    assert LIGHTNINGRL.keep(graded).tolist() == [True, False] and LIGHTNINGRL.keep(other).tolist() == [False, False]
    assert accuracy(graded).tolist() == [[0.9, 0.5], [0, 0]] and accuracy(other).tolist() == [[-1, -1], [-1, -1]]


def test_overlong_answers_count_as_wrong_from_the_margin_on():
    """Published code, max_new_tokens 8192: 8186 tokens kept, 8187 wrong."""
    answers, task = [[answer_of(8186, 64), answer_of(8187, 64)]], Task(lambda example: (), CoinJudge(), 8192)
    groups = PUBLISHED.groups(answers, task)
    assert groups.correct_NG.tolist() == [[True, False]] and accuracy(groups).tolist() == [[1.0, -1.0]]
    judged_alone = PublishedCode(PublishedCode.Config(overlong_margin=None))
    for algorithm in (LIGHTNINGRL, judged_alone):
        assert algorithm.groups(answers, task).correct_NG.all()


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([{"name": "accuracy"}, {"name": "tpf", "scale": "minmax"}], [[1, 1.666667, -0.666667, 0], [1, 1, 2, 1]]),
        # Group 1, correct TPF [2, 4]: z = [-1, 1]; the wrong ones get 0. Group 2 is all correct.
        ([{"name": "tpf", "scale": "z_score", "only_correct": True}], [[-1, 1, 0, 0], Z_TPF[1]]),
        ([{"name": "tpf", "only_correct": True, "weight": 0.5}], [[1, 2, 0, 0], [1, 1, 3, 1]]),
    ],
)
def test_scaled_weighted_and_gated_rewards(rewards, expected):
    rewards = [Reward(**reward) for reward in rewards]
    close(total_reward(rewards, golden_groups()), expected)
    wrong = Groups([[answer_of(4, 2, False), answer_of(4, 1, False)]])
    assert not rewards[-1].only_correct or total_reward(rewards, wrong).tolist() == [[0, 0]]


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


@pytest.mark.parametrize("wrong", [lambda g: g.tpf_NG[0], lambda g: g.tpf_NG * np.nan, lambda g: 1.0])
def test_an_unknown_reward_and_one_that_is_not_one_number_a_response_are_errors(wrong, monkeypatch):
    with pytest.raises(ValueError, match="found 'speed', allowed: accuracy, tpf, tpf_true, forwards, length, correct"):
        Reward(name="speed")
    monkeypatch.setattr(rewards_module, "resolve", lambda name: wrong)
    with pytest.raises(ConfigError, match="expected one finite number for each of 2 x 4 responses"):
        total_reward([Reward(name="mine:reward")], golden_groups())


def test_of_an_algorithms_members_only_rewards_are_reported_as_rewards():
    class Mine(LightningRL):
        def members(self):
            return super().members() | {"helper": "nowhere:Helper"}

    name = f"{accuracy.__module__}:accuracy"
    found = Mine(Mine.Config(rewards=[Reward(name=name)])).metrics(golden_groups(), np.zeros((2, 4)))
    assert found[f"reward_{name}_mean"] == SIGNED.mean() and not any("nowhere" in key for key in found)


def test_a_runs_method_changes_the_keys_it_gives_and_no_others():
    def run_of(algorithm, **method):
        return Run(name="r", role="after", algorithm=algorithm, benchmark="b", steps=1, method=method)

    changed = run_of("grpo_traj", kl=0.5, advantage="center").method
    assert (changed.kl, changed.advantage, changed.rewards) == (0.5, "center", GRPO.config.rewards)
    assert run_of("tracerl").method == TRACERL.config
    assert run_of("tracerl", kl=0.01).implementation.value == TRACERL.value
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


def test_collapse_is_reported_for_the_advantages_trained_with_and_for_the_raw_sum():
    """By hand. Raw sum normalised in its group: -0.387, 1.162, -1.162, 0.387 have no pair within 0.5; -0.5, -0.5, 1.5,
    -0.5 have three of six. Trained with: gaps .05 .3 2 | .25 1.95 | 1.7 and a group 1 apart.
    """
    found = advantage_metrics(golden_groups(), np.array([[0.0, 0.05, 0.3, 2.0], [0.0, 1.0, 2.0, 3.0]]))
    assert found["collapse_ratio_0.5_sum"] == found["collapse_ratio_0.01_sum"] == 3 / 12
    assert [found[f"collapse_ratio_{eps}"] for eps in (0.01, 0.05, 0.1, 0.5)] == [0, 0, 1 / 12, 3 / 12]


def metrics_of(sampled, kept, wanted, special_ids=(), **losses):
    return rollout_metrics(RolloutBatch(Groups(sampled), Groups(kept), 1, RolloutLosses(**losses)), wanted, special_ids)


def test_step_metrics_of_the_golden_groups():
    """Group 1 alone: pooled TPF 890 / 270 = 3.296296 (ratio of sums), mean of ratios 3.5. Of both, all are reported."""
    both = golden_groups().answers
    row = metrics_of(both[:1], both[:1], 2)
    assert row["tpf"] == pytest.approx(890 / 270) == score(both[0]).tpf and score(both[0]).accuracy_pct == 50
    assert row["reward_speed_mean"] == row["reward_total_mean"] == pytest.approx(3.5)
    assert row["forwards_per_problem"] == 270 / 4 == score(both[0]).forwards_per_problem
    assert row["response_tokens_mean"] == 890 / 4 == score(both[0]).response_tokens_mean
    assert row["accuracy_pct"] == 50.0 and row["reward_accuracy_mean"] == 0.0
    assert (row["groups_sampled"], row["groups_kept"], row["groups_missing"], row["acceptance_rate"]) == (1, 1, 1, 1.0)
    assert row["statuses"] == {"ok": 2, "wrong": 2} and row["truncated_pct"] == 100.0
    row = metrics_of(both, both[1:], 1, groups_unscorable=3)
    assert row["accuracy_pct"] == 75.0 and row["acceptance_rate"] == 0.5 and row["groups_unscorable"] == 3
    assert row["reward_total_mean"] == pytest.approx((SIGNED + TPF).mean()), "the raw sum, whatever is trained with"
    row = metrics_of([], [], 3, groups_unscorable=2)
    assert row["groups_missing"] == 3 and row["acceptance_rate"] == 0 and "tpf" not in row


def test_step_metrics_count_commits_in_tpf_true():
    groups = [[answer_of(6, 2, commits=1), answer_of(9, 3, commits=2)]]
    row = metrics_of(groups, groups, 1)
    assert (row["tpf"], row["tpf_true"]) == (15 / 5, 15 / 8)
    assert (row["tpf_mean"], row["tpf_true_mean"]) == (3, (6 / 3 + 9 / 5) / 2)
    assert (row["tpf_harness"], row["tpf_rounds_mean"]) == (15 / 8, (6 / 3 + 9 / 5) / 2), "no stop token, no prefill"
    assert "positions_per_token" not in row, "made-up responses do not say what they computed"


def test_step_metrics_count_tpf_as_the_papers_code_does():
    """Text behind the stop token counts, special tokens do not, over distinct steps: 5 of 6 tokens, 4 steps; 1.25."""
    trajectory = trajectory_of(2, [1, 1, 2, 2, 3, 4], response_len=5)
    answer = dataclasses.replace(answer_of(5, 4), trajectory=trajectory)
    row = metrics_of([[answer]], [], 1, special_ids=[5])
    assert trajectory.token_ids.tolist() == [1, 2, 3, 4, 5, 6], "the stop token is the fifth"
    assert row["tpf_paper"] == row["tpf_paper_mean"] == 1.25
