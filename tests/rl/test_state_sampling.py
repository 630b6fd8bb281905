"""Training on a random, weighted part of the states: on average the gradient of all, whatever shares the work."""

import itertools

import numpy as np
import pytest
import torch
from fixtures.tiny import MASK_ID, make_trainer, tiny_setup, twin

from lightningrl.config.train import Run
from lightningrl.models import packing
from lightningrl.rl import value as value_module
from lightningrl.rl.algorithm import OnlineAlgorithm
from lightningrl.rl.algorithms.lightningrl import LightningRL
from lightningrl.rl.likelihood import index_actions, trajectory_row
from lightningrl.rl.registry import ALGORITHMS
from lightningrl.rl.state_sampling import StateSampling, taken_at, taken_count
from lightningrl.rl.update import Batch, update
from lightningrl.utils.registry import resolve

ROLL_OUT = [name for name, where in ALGORITHMS.items() if resolve(where).rolls_out]

ALGORITHM = LightningRL(LightningRL.Config(clip_low=0.2, clip_high=0.28, kl=0.05, nll=0.1))
METHODS = {"tracerl": {"filter_accuracy": (0.0, 1.0)}, "published_code": {"filter_all_wrong": False}}
KEPT = {"filter_all_wrong": False, "filter_tpf_range": 0.0}
VALUE = {"learning_rate": 1e-2, "gamma": 0.9, "lam": 0.8}


def states_of(trajectory):
    return len(trajectory_row(trajectory, MASK_ID).copy_block)


def moved(rollout, chosen, algorithm=ALGORITHM, positions=None, sampling=None):
    """The negative gradient of an update of a policy that is not the one that decoded, and the figures."""
    model, base, trajectories, advantage, in_nll = rollout
    policy = twin(model)
    with torch.no_grad():
        policy.lm_head.weight.mul_(1.1)
    before = torch.cat([p.detach().flatten().clone() for p in policy.parameters()])
    given = [trajectories[at] for at in chosen], advantage[chosen], in_nll[chosen], policy, base
    batch = Batch.build(algorithm, *given, 4, positions=positions, sampling=sampling)
    row = update(algorithm, policy, torch.optim.SGD(policy.parameters(), lr=1.0), batch, 1e9)
    return torch.cat([p.detach().flatten() for p in policy.parameters()]) - before, row, batch


def with_offsets(monkeypatch, offsets):
    """Gives each trajectory its draw, by uid, in place of the keyed one."""

    def taken(self, trajectory, states):
        return taken_at(offsets[trajectory.uid], states, taken_count(states, self.share))

    monkeypatch.setattr(StateSampling, "taken", taken)


@pytest.mark.parametrize("states", range(1, 12))
@pytest.mark.parametrize("share", [1 / 3, 0.5, 0.9])
def test_every_state_is_taken_by_equally_many_draws_and_none_twice(states, share):
    count = taken_count(states, share)
    draws = [taken_at(offset, states, count) for offset in range(states)]
    assert all(len(set(draw.tolist())) == count and (np.diff(draw) > 0).all() for draw in draws)
    assert (np.bincount(np.concatenate(draws), minlength=states) == count).all()


@pytest.mark.parametrize(
    ("chosen", "positions", "reduction"),
    [([3], None, "seq-tok-tok"), ([3], 28, "longest-seq-tok"), ([2, 9], None, "tok-longest-seq")],
)
def test_the_mean_gradient_over_all_draws_is_that_of_all_states(rollout, monkeypatch, chosen, positions, reduction):
    """Every draw there is, once: of one long trajectory, and every pair of draws of two; whole and in parts. The means
    that are logged are right on average too, and the weights sum up to the tokens that the normalisers say."""
    algorithm = LightningRL(ALGORITHM.config.model_copy(update={"reduction": reduction}))
    trajectories = [rollout[2][at] for at in chosen]
    full, row, whole = moved(rollout, chosen, algorithm, positions)
    draws = list(itertools.product(*(range(states_of(t)) for t in trajectories)))
    assert len(draws) in (15, 9 * 3)
    found, rows, weights, spread = [], [], [], []
    for offsets in draws:
        with_offsets(monkeypatch, {t.uid: offset for t, offset in zip(trajectories, offsets, strict=True)})
        step, figures, batch = moved(rollout, chosen, algorithm, positions, StateSampling(0.4, 0, 1, 1))
        assert batch.sums == whole.sums and batch.positions < whole.positions and batch.actions < whole.actions
        found.append(step)
        rows.append(figures)
        counted = [m.actions.weighted(torch.ones(m.plan.actions, dtype=torch.float64)) for m in batch.micro]
        weights.append(float(torch.cat(counted).sum()))
        spread.append(float((step - full).norm() / full.norm()))
    torch.testing.assert_close(torch.stack(found).mean(dim=0), full, rtol=0, atol=1e-12)
    assert np.mean(weights) == pytest.approx(whole.sums.all.tokens) and min(spread) > 0.01
    for name in ("loss", "policy_loss", "kl", "nll", "ratio", "entropy"):
        assert np.mean([figures[name] for figures in rows]) == pytest.approx(row[name], abs=1e-10), name


def test_the_mean_over_many_keyed_draws_approaches_the_gradient_of_all(rollout):
    """Twelve trajectories, 64 updates: the error of the mean falls with the root of their number, to an eighth of one
    draw's; at most twice that is allowed."""
    chosen = list(range(12))
    full, _, _ = moved(rollout, chosen)
    steps = [moved(rollout, chosen, sampling=StateSampling(0.4, 7, 1, number))[0] for number in range(64)]
    single = np.mean([float((step - full).norm()) for step in steps])
    assert float((torch.stack(steps).mean(dim=0) - full).norm()) < 2 * single / 8 and single > 0.05 * float(full.norm())


def test_draws_are_keyed_by_seed_step_update_uid_and_sample(rollout):
    """And by nothing else: in micro-batches of one or four, in parts or not, the same states are taken."""
    trajectory = max(rollout[2], key=states_of)
    states, usual = states_of(trajectory), StateSampling(0.3, 1, 2, 3)
    first = usual.taken(trajectory, states).tolist()
    assert usual.taken(trajectory, states).tolist() == first
    others = [StateSampling(0.3, *key) for key in ((2, 2, 3), (1, 3, 3), (1, 2, 4))]
    assert any(other.taken(trajectory, states).tolist() != first for other in others)
    chosen = list(range(12))
    for positions in (None, 20):
        one, two = (moved(rollout, order, positions=positions, sampling=usual) for order in (chosen, chosen[::-1]))
        torch.testing.assert_close(one[0], two[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(moved(rollout, chosen, sampling=usual)[0], one[0], rtol=0, atol=1e-12)


def test_the_gap_to_the_old_log_probabilities_counts_each_scored_action_once(rollout):
    _, row, batch = moved(rollout, list(range(12)), sampling=StateSampling(0.4, 0, 1, 1))
    policy = twin(rollout[0])
    with torch.no_grad():
        policy.lm_head.weight.mul_(1.1)
        gaps = [
            (ALGORITHM.score(policy, m.trajectories, m.plan.copies).logp_n - m.actions.old_logp_n).abs()
            for m in batch.micro
        ]
    gap_n = torch.cat(gaps)
    assert row["log_ratio_abs_mean"] == pytest.approx(float(gap_n.mean())) and len(gap_n) == batch.actions


@pytest.mark.parametrize("name", sorted({*ROLL_OUT} - {"dultra"}))
def test_every_algorithm_takes_steps_on_a_part_of_the_states(trainer_of, name):
    whole, part = (
        trainer_of(algorithm=name, method=METHODS.get(name, KEPT), **share).step().metrics
        for share in ({}, {"state_share": 0.4})
    )
    assert np.isfinite(part["loss"]) and part["logp_gap_mean"] < 1e-5
    assert part["trained_positions"] < whole["trained_positions"] or name == "published_code", "a state a block there"
    assert part["rollout_positions"] == whole["rollout_positions"]


def test_advantages_of_a_value_model_are_those_of_all_states_at_the_actions_that_are_trained_on(folder):
    """Values that are not 0, as after an update: a discounted estimate needs those of all later states."""
    found = {}
    for share, positions in ((1.0, None), (0.4, None), (0.4, 28)):
        method = METHODS["tracerl"] | {"value": VALUE}
        run = {"algorithm": "tracerl", "method": method, "microbatch_positions": positions}
        trainer = make_trainer(tiny_setup(folder, dtype=torch.float64, **run))
        with torch.no_grad():
            weight = trainer.algorithm.critic.model.lm_head.weight
            weight.copy_(torch.linspace(-1, 1, weight.numel(), dtype=weight.dtype).reshape(weight.shape))
        object.__setattr__(trainer.setup, "run", trainer.setup.run.model_copy(update={"state_share": share}))
        batch = trainer._batches(trainer._draw(1).kept, 1)[0][0]
        own = found.setdefault((share, positions), {})
        for micro in batch.micro:
            index = index_actions(micro.trajectories, trainer.algorithm.states, micro.plan.copies)
            values = zip(micro.targets[0], micro.targets[1], micro.actions.advantage_n, strict=True)
            for row, position, numbers in zip(index.row_n.tolist(), index.position_n.tolist(), values, strict=True):
                one = micro.trajectories[row]
                own[one.uid, one.sample, position] = [float(number) for number in numbers]
    whole = found.pop((1.0, None))
    for own in found.values():
        assert 0.2 * len(whole) < len(own) < 0.8 * len(whole)
        assert all(numbers == pytest.approx(whole[key], abs=1e-10) for key, numbers in own.items())


@pytest.mark.parametrize(("algorithm", "forwards"), [("lightningrl", 4), ("tracerl", 7)])
def test_compute_is_what_was_computed_the_value_models_estimate_over_all_states_too(
    trainer_of, monkeypatch, algorithm, forwards
):
    computed, original = [], packing.scored_hidden

    def counting(model, packed):
        computed.append(packed.ids_1Q.shape[1] * (3 if torch.is_grad_enabled() else 1))
        return original(model, packed)

    monkeypatch.setattr(packing, "scored_hidden", counting)
    monkeypatch.setattr(value_module, "scored_hidden", counting)
    trainer = trainer_of(algorithm=algorithm, method=METHODS.get(algorithm, KEPT), state_share=0.4)
    metrics = trainer.step().metrics
    assert metrics["token_forwards"] == metrics["rollout_positions"] + sum(computed)
    assert (sum(computed) == forwards * metrics["trained_positions"]) == (algorithm == "lightningrl")


class Unweighted(LightningRL):
    """A loss of its own."""

    def loss(self, scores, actions, sums):
        return super().loss(scores, actions, sums)


@pytest.mark.parametrize("algorithm", ["supervised", f"{__name__}:Unweighted"])
def test_an_algorithm_whose_loss_may_not_weight_its_actions_is_refused_by_name(algorithm):
    run = {"name": "r", "role": "after", "algorithm": algorithm, "benchmark": "b", "steps": 1}
    with pytest.raises(ValueError, match=rf"state_share: found 0\.5, but {algorithm} does not train on a part"):
        Run(**run, state_share=0.5)
    assert Run(**run).state_share == 1 and not OnlineAlgorithm.weighs_states
