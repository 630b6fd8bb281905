"""One optimiser update: exact whatever the micro-batches; a non-finite one changes nothing."""

import numpy as np
import pytest
import torch
from fixtures.tiny import requests_of, tiny_model, twin

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.rl.algorithms.lightningrl import LightningRL
from lightningrl.rl.likelihood import score_tokens
from lightningrl.rl.update import Batch, update

ALGORITHM = LightningRL(LightningRL.Config(clip_low=0.2, clip_high=0.28, kl=0.05, nll=0.1))


@pytest.fixture(scope="module")
def rollout():
    """A policy, another base, twelve trajectories of unequal length with advantages and an NLL set."""
    model, base = tiny_model(4, torch.float64), tiny_model(4, torch.float64)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(0.97)
    requests = requests_of([1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 8, 12], 13)
    trajectories = BlockDecoder(model, (3, 7)).decode(requests, DecodePolicy(Threshold(0.3), 1.0))
    rng = np.random.default_rng(1)
    assert len({t.response_len for t in trajectories}) > 2
    return model, base, trajectories, rng.normal(size=12), rng.random(12) < 0.5


def train(rollout, size, updates=3):
    model, base, trajectories, advantage, in_nll = rollout
    policy = twin(model)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=0.01)
    batch = Batch.build(ALGORITHM, trajectories, advantage, in_nll, model, base, size)
    rows = [update(ALGORITHM, policy, optimiser, batch, 1.0) for _ in range(updates)]
    return policy.state_dict(), rows, batch


def test_micro_batches_of_1_and_8_and_all_give_the_same_weights_and_metrics(rollout):
    whole, rows, batch = train(rollout, 12)
    assert len(batch.micro) == 1 and rows[-1]["clip_fraction"] > 0
    for size in (1, 5, 8):
        weights, other, micro = train(rollout, size)
        assert len(micro.micro) == -(-12 // size) and micro.sums == batch.sums and micro.positions == batch.positions
        for name, tensor in whole.items():
            torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-10)
        for one, two in zip(rows, other, strict=True):
            assert one | {"clip_fraction": 0} == pytest.approx(two | {"clip_fraction": 0}, abs=1e-10)
            assert one["clip_fraction"] == pytest.approx(two["clip_fraction"], abs=1e-7), "counted in float32"


def test_gradient_is_that_of_the_loss_over_the_whole_batch(rollout):
    model, base, trajectories, advantage, in_nll = rollout
    policy = twin(model)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    batch = Batch.build(ALGORITHM, trajectories, advantage, in_nll, model, base, 4)
    update(ALGORITHM, policy, torch.optim.SGD(policy.parameters(), lr=1.0), batch, 1e9)
    whole, fresh = Batch.build(ALGORITHM, trajectories, advantage, in_nll, model, base, 12), twin(model)
    scores = score_tokens(fresh, whole.micro[0].trajectories)
    lengths = np.array([t.response_len for t in trajectories])
    assert (whole.sums.all.sequences, whole.sums.all.tokens) == (12, lengths.sum())
    assert whole.sums.nll.tokens == lengths[in_nll].sum()
    loss, _ = ALGORITHM.loss(scores, whole.micro[0].actions(scores), whole.sums)
    loss.backward()
    for name, parameter in fresh.named_parameters():
        torch.testing.assert_close(before[name] - policy.get_parameter(name), parameter.grad, rtol=0, atol=1e-12)


def test_rows_of_a_batch_keep_their_advantage_nll_flag_and_base_log_probs_through_the_sorting(rollout):
    model, base, trajectories, advantage, in_nll = rollout
    batch = Batch.build(ALGORITHM, trajectories, advantage, in_nll, model, base, 5)
    seen = 0
    for micro in batch.micro:
        scores = score_tokens(base, micro.trajectories)
        actions = micro.actions(scores)
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
    model, base, trajectories, advantage, in_nll = rollout
    moved = {}
    for limit in (1e9, 0.01):
        policy = twin(model)
        batch = Batch.build(ALGORITHM, trajectories, advantage, in_nll, model, base, 12)
        row = update(ALGORITHM, policy, torch.optim.SGD(policy.parameters(), lr=1.0), batch, limit)
        step = torch.cat([(a - b).flatten() for a, b in zip(policy.parameters(), model.parameters(), strict=True)])
        moved[limit] = row["grad_norm"], float(step.detach().norm())
    assert moved[1e9] == pytest.approx((moved[0.01][0],) * 2, rel=1e-9) and moved[1e9][0] > 0.1
    assert moved[0.01][1] == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("poison", ["advantage", "base", "infinite advantage"])
def test_a_non_finite_update_is_skipped_and_changes_nothing(rollout, poison):
    model, base, trajectories, advantage, in_nll = rollout
    advantage, other = advantage.copy(), twin(base)
    if poison == "base":
        with torch.no_grad():
            other.model.norm.weight[0] = float("nan")
    else:
        advantage[3] = float("nan") if poison == "advantage" else float("inf")
    policy = twin(model)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.1)
    batch = Batch.build(ALGORITHM, trajectories, advantage, in_nll, model, other, 5)
    row = update(ALGORITHM, policy, optimiser, batch, 1.0)
    assert row["skipped"] == 1.0
    assert {name for name, value in row.items() if value is None} == set(row) - {"skipped"}
    for name, tensor in model.state_dict().items():
        assert torch.equal(policy.state_dict()[name], tensor)
    assert optimiser.state_dict()["state"] == {} and all(p.grad is None for p in policy.parameters())
    batch = Batch.build(ALGORITHM, trajectories, rollout[3], in_nll, model, base, 5)
    good = update(ALGORITHM, policy, optimiser, batch, 1.0)
    assert good["skipped"] == 0.0 and not torch.equal(policy.lm_head.weight, model.lm_head.weight)
