"""The value model: step-level generalised advantage estimation, and a trainer that uses it."""

import numpy as np
import pytest
import torch
from fixtures.tiny import tiny_model, trajectory_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.rl.algorithm import StateGrouping
from lightningrl.rl.likelihood import index_actions
from lightningrl.rl.value import estimate, estimate_all, score_values, value_model

ANY_SHARE = {"filter_accuracy": (0.0, 1.0)}
STEPS, REWARD, VALUE = np.array([0, 0, 1, 2, 2]), np.array([0.0, 0, 0, 1, 1]), np.array([0.2, 0.4, 0.5, 0.6, 0.8])


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 0, 4, 2, 1]])
@pytest.mark.parametrize(
    ("gamma", "lam", "returns", "advantages"),
    [
        # Step means r* = [0, 0, 1], V* = [.3, .5, .7]; R* = 1 everywhere, A* = [.7, .5, .3].
        (1.0, 1.0, [1, 1, 1, 1, 1], [0.8, 0.6, 0.5, 0.4, 0.2]),
        # R* = [.81, .9, 1], A* = [.39912, .346, .3].
        (0.9, 0.8, [0.81, 0.81, 0.9, 1, 1], [0.49912, 0.29912, 0.346, 0.4, 0.2]),
    ],
)
def test_estimates_by_hand_whatever_the_order_of_tokens(gamma, lam, returns, advantages, order):
    found = estimate(STEPS[order], REWARD[order], VALUE[order], gamma, lam)
    np.testing.assert_allclose(found, [np.array(returns)[order], np.array(advantages)[order]], atol=1e-12)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    steps=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    reward=st.floats(-3, 3),
    seed=st.integers(0, 99),
)
def test_without_discount_a_terminal_reward_is_every_tokens_return(steps, reward, seed):
    """gamma = lambda = 1: R_j = reward and A_j = reward - V_j, whatever the steps."""
    steps = np.array(steps)
    value = np.random.default_rng(seed).normal(size=len(steps))
    terminal = np.where(steps == steps.max(), reward, 0.0)
    returns, advantage = estimate(steps, terminal, value, 1.0, 1.0)
    np.testing.assert_allclose(returns, reward, atol=1e-9)
    np.testing.assert_allclose(advantage, reward - value, atol=1e-9)


def test_a_trajectorys_reward_is_on_the_actions_of_its_last_step():
    """Two trajectories; the second's two steps hold 1 and 2 actions, values 0, discount .5 a step."""
    row_n, step_n = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1])
    rewards = torch.tensor([3.0, 2.0])
    returns, advantage = estimate_all(row_n, step_n, rewards, torch.zeros(4), 0.5, 1.0)
    assert returns.tolist() == advantage.tolist() == [3.0, 1.0, 2.0, 2.0]


def test_values_start_at_zero_and_are_one_an_action():
    trajectories = [trajectory_of(2, [1, 2, 3, 3, 4, 4], response_len=4), trajectory_of(4, [1, 1, 2, 3])]
    model = value_model(tiny_model())
    values = score_values(model, trajectories)
    assert values.shape == (8,) and not values.any()
    assert score_values(model, trajectories, StateGrouping(full_mask=True)).shape == (8,)
    values.sum().backward()
    assert model.lm_head.weight.grad.abs().sum() > 0, "and can be trained from there"


@pytest.mark.parametrize("algorithm", ["tracerl", "lightningrl"])
def test_with_a_value_model_advantages_are_the_estimates_and_the_values_learn(trainer_of, algorithm):
    """At first every value is 0, so a token's advantage is its trajectory's; after an update it is not."""
    run = {"algorithm": algorithm, "updates": 1, "method": ANY_SHARE | {"value": {"learning_rate": 1e-2}}}
    trainer = trainer_of(**run)
    kept = trainer._draw(1).kept
    [batch], advantage_NG = trainer._batches(kept, 1)
    by_trajectory = dict(zip(map(id, kept.trajectories), advantage_NG.ravel(), strict=True))
    for micro in batch.micro:
        row_n = index_actions(micro.trajectories).row_n
        expected = torch.tensor([by_trajectory[id(t)] for t in micro.trajectories])[row_n].double()
        for found in (micro.actions.advantage_n, micro.targets[1]):
            torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)
    trainer = trainer_of(**run)
    first, second = trainer.step().metrics, trainer.step().metrics
    assert first["value_mean"] == 0 and second["value_mean"] != 0 and first["value_loss"] > 0
    assert np.isfinite(second["policy_loss"]) and second["value_skipped"] == 0


def test_a_value_loss_that_is_not_finite_is_skipped_and_leaves_no_number_that_json_cannot_hold(trainer_of):
    trainer = trainer_of(algorithm="tracerl", method=ANY_SHARE)
    critic = trainer.algorithm.critic
    before = {name: tensor.clone() for name, tensor in critic.model.state_dict().items()}
    [batch, *_], _ = trainer._batches(trainer._draw(1).kept, 1)
    batch.micro[0].targets[1][0] = float("nan")
    row = critic.update(batch)
    assert row == {"value_loss": None, "value_mean": None, "return_mean": None, "value_skipped": 1.0}
    assert all(torch.equal(before[name], tensor) for name, tensor in critic.model.state_dict().items())


def test_a_run_with_a_value_model_goes_on_from_its_state_to_the_same_bits(trainer_of):
    whole, cut, resumed = (trainer_of(algorithm="tracerl", method=ANY_SHARE, steps=3) for _ in range(3))
    rows = [whole.step().metrics for _ in range(3)]
    cut.step()
    resumed.load_state_dict(cut.state_dict())
    assert [resumed.step().metrics for _ in range(2)] == rows[1:]
    for name, tensor in whole.algorithm.critic.model.state_dict().items():
        assert torch.equal(resumed.algorithm.critic.model.state_dict()[name], tensor)
