"""One optimiser update: exact whatever the micro-batches; a non-finite one changes nothing."""

import numpy as np
import pytest
import torch
from fixtures.tiny import twin

from lightningrl.rl.algorithms.lightningrl import LightningRL
from lightningrl.rl.likelihood import score_tokens
from lightningrl.rl.update import Batch, update

ALGORITHM = LightningRL(LightningRL.Config(clip_low=0.2, clip_high=0.28, kl=0.05, nll=0.1))


def batch_of(rollout, size, advantage=None, base=None):
    model, other, trajectories, given, in_nll = rollout
    advantage, base = given if advantage is None else advantage, base or other
    return Batch.build(ALGORITHM, trajectories, advantage, in_nll, model, base, size)


def train(rollout, size, updates=3):
    policy, batch = twin(rollout[0]), batch_of(rollout, size)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=0.01)
    rows = [update(ALGORITHM, policy, optimiser, batch, 1.0) for _ in range(updates)]
    return policy.state_dict(), rows, batch


def test_micro_batches_of_1_and_8_and_all_give_the_same_weights_and_metrics(rollout):
    whole, rows, batch = train(rollout, 12)
    assert len(batch.micro) == 1 and rows[-1]["clip_fraction"] > 0
    for size in (1, 8):
        weights, other, micro = train(rollout, size)
        assert len(micro.micro) == -(-12 // size) and micro.sums == batch.sums and micro.positions == batch.positions
        torch.testing.assert_close(weights, whole, rtol=0, atol=1e-10)
        for one, two in zip(rows, other, strict=True):
            assert one | {"clip_fraction": 0} == pytest.approx(two | {"clip_fraction": 0}, abs=1e-10)
            assert one["clip_fraction"] == pytest.approx(two["clip_fraction"], abs=1e-7), "counted in float32"


def test_gradient_is_that_of_the_loss_over_the_whole_batch(rollout):
    model, _, trajectories, _, in_nll = rollout
    policy, fresh, whole = twin(model), twin(model), batch_of(rollout, 12)
    update(ALGORITHM, policy, torch.optim.SGD(policy.parameters(), lr=1.0), batch_of(rollout, 4), 1e9)
    lengths = np.array([t.response_len for t in trajectories])
    assert (whole.sums.all.sequences, whole.sums.all.tokens) == (12, lengths.sum())
    assert whole.sums.nll.tokens == lengths[in_nll].sum()
    scores = score_tokens(fresh, whole.micro[0].trajectories)
    ALGORITHM.loss(scores, whole.micro[0].actions, whole.sums)[0].backward()
    for name, parameter in fresh.named_parameters():
        step = model.get_parameter(name).detach() - policy.get_parameter(name)
        torch.testing.assert_close(step, parameter.grad, rtol=0, atol=1e-12)


def test_rows_of_a_batch_keep_their_advantage_nll_flag_and_base_log_probs_through_the_sorting(rollout):
    _, base, trajectories, advantage, in_nll = rollout
    seen = 0
    for micro in batch_of(rollout, 5).micro:
        scores, actions = score_tokens(base, micro.trajectories), micro.actions
        torch.testing.assert_close(actions.ref_logp_n, scores.logp_n.detach())
        for row, trajectory in enumerate(micro.trajectories):
            index, mine = [t is trajectory for t in trajectories].index(True), scores.row_n == row
            assert (actions.advantage_n[mine] == advantage[index]).all()
            assert (actions.in_nll_n[mine] == bool(in_nll[index])).all()
            assert (actions.length_n[mine] == trajectory.response_len).all()
            expected = trajectory.behaviour_logp[scores.position_n[mine].numpy()]
            np.testing.assert_array_equal(actions.old_logp_n[mine].numpy(), expected)
            seen += 1
    assert seen == 12


def test_gradient_norm_is_reported_before_clipping_and_the_step_is_clipped(rollout):
    model, moved = rollout[0], {}
    for limit in (1e9, 0.01):
        policy = twin(model)
        sgd = torch.optim.SGD(policy.parameters(), lr=1.0)
        row = update(ALGORITHM, policy, sgd, batch_of(rollout, 12), limit)
        step = torch.cat([(a - b).flatten() for a, b in zip(policy.parameters(), model.parameters(), strict=True)])
        moved[limit] = row["grad_norm"], float(step.detach().norm())
    assert moved[1e9] == pytest.approx((moved[0.01][0],) * 2, rel=1e-9) and moved[1e9][0] > 0.1
    assert moved[0.01][1] == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("poison", ["advantage", "base", "infinite advantage"])
def test_a_non_finite_update_is_skipped_and_changes_nothing(rollout, poison):
    model, base, _, advantage, _ = rollout
    advantage, other, policy = advantage.copy(), twin(base), twin(model)
    if poison == "base":
        with torch.no_grad():
            other.model.norm.weight[0] = float("nan")
    else:
        advantage[3] = float("nan") if poison == "advantage" else float("inf")
    optimiser = torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.1)
    row = update(ALGORITHM, policy, optimiser, batch_of(rollout, 5, advantage, other), 1.0)
    assert row["skipped"] == 1.0
    gap = {"log_ratio_abs_mean", "log_ratio_abs_max"}
    assert {name for name, value in row.items() if value is None} == set(row) - {"skipped"} - gap
    assert max(row[name] for name in gap) < 1e-6
    assert all(torch.equal(policy.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert optimiser.state_dict()["state"] == {} and all(p.grad is None for p in policy.parameters())
    good = update(ALGORITHM, policy, optimiser, batch_of(rollout, 5), 1.0)
    assert good["skipped"] == 0.0 and not torch.equal(policy.lm_head.weight, model.lm_head.weight)
