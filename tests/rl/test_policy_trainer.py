"""The trainer around the update: learning rates, batches, compute, rollouts."""

import dataclasses

import numpy as np
import pytest
import torch
from fixtures.outsider import Stale
from fixtures.tiny import make_trainer, tiny_config, tiny_setup

from lightningrl.answering import answer
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.schedules.block import FusedCommit, Recompute, SeparateCommit
from lightningrl.decoding.schedules.full_sequence import FullSequence
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import CheckpointError, ConfigError, TrainingError
from lightningrl.models import packing
from lightningrl.rl import trainer as trainer_module
from lightningrl.rl import value as value_module
from lightningrl.rl.algorithm import AS_DECODED, StateGrouping
from lightningrl.rl.likelihood import check_scorable, index_actions, score_tokens, trajectory_row
from lightningrl.rl.registry import ALGORITHMS
from lightningrl.rl.setup import TrainSetup
from lightningrl.rl.update import Batch
from lightningrl.training.world import World
from lightningrl.utils.registry import resolve

ROLL_OUT = [name for name, where in ALGORITHMS.items() if resolve(where).rolls_out]

ALL = {"filter_all_wrong": False, "filter_tpf_range": 0.0}
NONE = {"filter_tpf_range": 1e6}


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def are_equal(one, two):
    return [torch.equal(tensor, two[name]) for name, tensor in one.items()]


def batches_of(trainer, step=1):
    return trainer._batches(trainer._draw(step).kept, step)[0]


@pytest.mark.parametrize("name", sorted({*ROLL_OUT, "supervised"} - {"dultra"}))  # which needs a planner
def test_every_algorithm_takes_steps_with_finite_losses(trainer_of, name):
    method = {} if name == "supervised" else {"filter_accuracy": (0.0, 1.0)}
    trainer = trainer_of(algorithm=name, steps=2, method=method)
    for step in (1, 2):
        metrics = trainer.step().metrics
        assert np.isfinite(metrics.get("loss", 0.0)) and metrics["step"] == step, metrics


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        # Four warm-up updates: 1/4, 2/4, 3/4, 1, and 1 from there on, over 3 steps of 2 updates.
        ({"steps": 3, "warmup_updates": 4}, [0.25, 0.5, 0.75, 1, 1, 1]),
        # Step n of 4 has the factor 1 - (n - 1) / 4, no warm-up.
        ({"steps": 4, "warmup_updates": 0, "decay": True}, [1, 1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]),
    ],
)
def test_learning_rate_warms_up_once_a_run_then_stays(trainer_of, monkeypatch, run, expected):
    """Or decays linearly by step, when asked. One optimiser lives for the whole run: it has counted all updates."""
    found, original = [], trainer_module.update

    def spy(algorithm, model, optimiser, *rest):
        found.append(optimiser.param_groups[0]["lr"])
        return original(algorithm, model, optimiser, *rest)

    monkeypatch.setattr(trainer_module, "update", spy)
    trainer = trainer_of(learning_rate=1e-3, method=ALL, **run)
    while not trainer.done:
        trainer.step()
    assert found == pytest.approx([1e-3 * factor for factor in expected])
    assert {int(state["step"]) for state in trainer.optimiser.state.values()} == {trainer.updates_done} == {len(found)}


def test_kept_groups_are_divided_among_the_updates_each_with_its_own_advantages(trainer_of):
    trainer = trainer_of(prompts=5, updates=2, method=ALL)
    kept = trainer._draw(1).kept
    batches, advantage_NG = trainer._batches(kept, 1)
    assert [sum(len(m.trajectories) for m in batch.micro) for batch in batches] == [3 * 4, 2 * 4]
    correct = {id(a.trajectory): a.verdict.correct for group in kept.answers for a in group}
    found = {}
    for batch in batches:
        own = []
        for micro in batch.micro:
            row_n = index_actions(micro.trajectories).row_n
            for row, trajectory in enumerate(micro.trajectories):
                advantage_n = micro.actions.advantage_n[row_n == row]
                assert (advantage_n == advantage_n[0]).all(), "that of each of a trajectory's actions is one"
                assert (micro.actions.in_nll_n[row_n == row] == correct[id(trajectory)]).all()
                found[id(trajectory)] = float(advantage_n[0])
                own.append(found[id(trajectory)])
        assert np.mean(own) == pytest.approx(0, abs=1e-6) and np.std(own, ddof=1) == pytest.approx(1, abs=1e-5)
    in_order = [found[id(trajectory)] for trajectory in kept.trajectories]
    assert in_order == pytest.approx(advantage_NG.ravel().tolist(), abs=1e-6), "returned in the order of the groups"
    assert found.keys() == correct.keys()
    assert trainer_of(prompts=2, updates=5, method=ALL).step().metrics["updates"] == 2, "an update a group at most"


def test_a_step_without_any_kept_group_updates_nothing_and_goes_on(trainer_of):
    trainer = trainer_of(method=NONE, max_rounds=2)
    before = weights(trainer.model)
    metrics = trainer.step().metrics
    assert (metrics["updates"], metrics["groups_kept"], metrics["groups_missing"], metrics["rounds"]) == (0, 0, 3, 2)
    assert all(are_equal(before, weights(trainer.model)))
    assert trainer.describe(trainer.step())


def test_the_reference_stays_the_policy_moves_and_the_yardstick_is_the_base_before_any_training(trainer_of):
    trainer = trainer_of(method=ALL, learning_rate=0.05, warmup_updates=0)
    base, reference = trainer.setup.validate(), weights(trainer.setup.reference)
    trainer.step()
    assert trainer.selection.base == base.figures and trainer.selection.base_correct == base.correct
    assert base.figures != trainer.setup.validate().figures
    assert all(are_equal(reference, weights(trainer.setup.reference)))
    assert not any(are_equal(reference, weights(trainer.model)))


def poison_once(trainer):
    """The first gradient is not finite."""
    factors = iter([np.inf])
    trainer.model.lm_head.weight.register_hook(lambda gradient: gradient * next(factors, 1.0))


@pytest.mark.parametrize("algorithm", ["lightningrl", "published_code"])
@pytest.mark.parametrize("skips", [False, True])
def test_decoder_and_trainer_that_disagree_are_an_error(folder, algorithm, skips):
    """Training stops past a mean gap of 0.05 nats, in whatever states it trains, before a second update is taken, also
    where the first is skipped."""
    setup, stale = (tiny_setup(folder, seed=seed, algorithm=algorithm, method=ALL, updates=2) for seed in (3, 4))
    trainer = make_trainer(dataclasses.replace(setup, decoder=stale.decoder))
    if skips:
        poison_once(trainer)
    with pytest.raises(CheckpointError, match=r"decoder and trainer disagree by \d+\.\d+ nats .* \(allowed: 0\.05\)"):
        trainer.step()
    assert trainer.updates_done == 1


def test_means_over_a_steps_updates_leave_skipped_ones_out(trainer_of, monkeypatch):
    """All but the gap to the decoder, which is known of both."""
    rows, original = [], trainer_module.update
    monkeypatch.setattr(trainer_module, "update", lambda *given: rows.append(original(*given)) or rows[-1])
    trainer = trainer_of(method=ALL, updates=2)
    poison_once(trainer)
    metrics = trainer.step().metrics
    taken = {name: value for name, value in rows[1].items() if rows[0][name] is None}
    assert {"loss", "entropy", "grad_norm"} <= taken.keys() and taken == {name: metrics[name] for name in taken}
    assert metrics["skipped"] == 0.5 and metrics["logp_gap_mean"] == rows[0]["log_ratio_abs_mean"]


def test_trajectories_without_an_exact_likelihood_are_refused_before_anything_is_decoded(folder):
    """Stale caches unless they are accepted; a canvas or another attention in any case."""

    def check(schedules, accepts=False, **config):
        policies = [DecodePolicy(Threshold(0.9), schedule=schedule) for schedule in schedules]
        check_scorable(tiny_config(**config).attention, policies, accepts)

    check([FusedCommit(), SeparateCommit(), Recompute()])
    with pytest.raises(ConfigError, match=r"stale keys and values.*accept_inexact_caches"):
        check([FusedCommit(), Stale()])
    check([FusedCommit(), Stale()], accepts=True)
    for accepts in (False, True):
        with pytest.raises(ConfigError, match=r"trajectories are scored in the states that the model saw"):
            check([FullSequence(4)], accepts)
        with pytest.raises(ConfigError, match="with full attention"):
            check([FusedCommit()], accepts, attention="full")
    setup = tiny_setup(folder)
    with pytest.raises(ConfigError, match=r"trajectories are scored in the states that the model saw"):
        make_trainer(dataclasses.replace(setup, policy=dataclasses.replace(setup.policy, schedule=FullSequence(4))))


@pytest.mark.parametrize(
    ("algorithm", "method", "forwards"),
    [
        ("lightningrl", {}, 1 + 3),
        ("lightningrl", {"shrink": 2}, 2 + 3),
        ("published_code", {}, 2 + 3),
        ("lightningrl", {"value": {}}, 1 + 3 + 4),
        ("tracerl", {"filter_accuracy": (0.0, 1.0), "shrink": 2}, 1 + 3 + 4),
        ("lightningrl", {"kl_to": "rollout"}, 3),
    ],
)
def test_compute_is_what_the_models_really_computed(trainer_of, monkeypatch, algorithm, method, forwards):
    """A rollout position counts once, a trained one once a forward and twice a backward, for each model; validation
    does not count. Counted here at the packed forward itself."""
    computed, original = [], packing.scored_hidden

    def counting(model, packed):
        computed.append(packed.ids_1Q.shape[1] * (3 if torch.is_grad_enabled() else 1))
        return original(model, packed)

    monkeypatch.setattr(packing, "scored_hidden", counting)
    monkeypatch.setattr(value_module, "scored_hidden", counting)
    bound = 28 if "shrink" in method else None  # most trajectories in two to five parts
    trainer = trainer_of(algorithm=algorithm, method=method, validate_every=1, microbatch_positions=bound)
    monkeypatch.setattr(trainer, "_logp_gap", lambda trajectories: (0.0, 0.0))  # a check, not part of the method
    total = 0
    for _ in range(2):
        computed.clear()
        metrics = trainer.step().metrics
        assert sum(computed) == forwards * metrics["trained_positions"]
        total += metrics["rollout_positions"] + sum(computed)
        assert metrics["token_forwards"] == total and metrics["rollout_positions"] > 0
    assert trainer.setup.decoder.ledger.positions == 0


def test_what_is_trained_are_the_states_that_happened(trainer_of):
    """The positions of a step's updates are those of its trajectories' own states: full masking has fewer."""
    trainer = trainer_of(method=ALL)
    kept = trainer._draw(1).kept.trajectories
    happened, masked = (
        sum(trajectory_row(t, 0, states).num_tokens for t in kept) for states in (AS_DECODED, StateGrouping(1, True))
    )
    assert trainer_of(method=ALL).step().metrics["trained_positions"] == happened > masked
    assert trainer.algorithm.states == AS_DECODED


def test_overlong_answers_are_wrong_in_the_reported_accuracy_too(trainer_of):
    """Every response has at least one token: with a margin of all of them none is right, in rewards and report."""
    metrics = trainer_of(algorithm="published_code", method=ALL | {"overlong_margin": 13}).step().metrics
    assert metrics["accuracy_pct"] == 0 and metrics["reward_accuracy_mean"] == -1
    assert trainer_of(method=ALL).step().metrics["accuracy_pct"] > 0


@pytest.mark.parametrize(
    ("algorithm", "method", "is_base"),
    [
        ("lightningrl", ALL, True), ("lightningrl", ALL | {"kl_to": "rollout"}, False),
        ("tracerl", {"filter_accuracy": (0.0, 1.0)}, False),
        ("tracerl", {"filter_accuracy": (0.0, 1.0), "kl_to": "base"}, True),
    ],
)  # fmt: skip
def test_the_kl_term_holds_to_the_base_or_to_the_rollouts_policy(trainer_of, algorithm, method, is_base):
    trainer = trainer_of(algorithm=algorithm, method=method)
    with torch.no_grad():
        for parameter in trainer.setup.reference.parameters():
            parameter.mul_(0.9)
    for micro in (micro for batch in batches_of(trainer) for micro in batch.micro):
        of_base = score_tokens(trainer.setup.reference, micro.trajectories).logp_n.detach()
        assert torch.equal(micro.actions.ref_logp_n, of_base) == is_base
        assert torch.equal(micro.actions.ref_logp_n, micro.actions.old_logp_n) != is_base


def test_each_process_scores_its_share_and_no_more(trainer_of, monkeypatch):
    """Of seven micro-batches two processes score four and three, the second one a repeat that counts for nothing."""
    trainer, scored, shares = trainer_of(method=ALL), [], []
    algorithm, trajectories = trainer.algorithm, trainer._draw(1).kept.trajectories[:7]
    score = algorithm.score
    monkeypatch.setattr(algorithm, "score", lambda model, rows, *rest: scored.extend(rows) or score(model, rows, *rest))
    for rank in range(2):
        scored.clear()
        data = trajectories, np.zeros(7), np.zeros(7, bool), trainer.model, trainer.setup.reference
        batch = Batch.build(algorithm, *data, 1, world=World(rank, 2))
        shares.append([id(t) for t in scored])
        assert [micro.weight for micro in batch.micro] == [1.0, 1.0, 1.0, 1.0 - rank]
    assert len(shares[0]) == len(shares[1]) == 4
    assert set(shares[0]) | set(shares[1]) == {id(t) for t in trajectories}


def test_updates_that_can_never_be_taken_end_the_run(trainer_of):
    """Every loss is not finite: counted, logged, and after five steps an error that says what to do."""
    trainer = trainer_of(method=ALL, steps=30, prompts=1, updates=1)
    with torch.no_grad():
        trainer.setup.reference.model.norm.weight[0] = float("nan")
    for _ in range(4):
        assert trainer.step().metrics["skipped"] == 1
    with pytest.raises(TrainingError, match=r"no update could be taken in 5 steps running.*lower learning rate"):
        trainer.step()


def test_what_is_validated_when_due_and_shipped_is_the_average_and_rollouts_have_the_weights(trainer_of, monkeypatch):
    """Three steps at a large rate: the average follows by 1 - 0.6 a step, from the base on."""
    trainer = trainer_of(method=ALL, steps=3, validate_every=2, learning_rate=0.05, warmup_updates=0, averaging=0.6)
    average, seen, validate = weights(trainer.model), [], TrainSetup.validate
    monkeypatch.setattr(TrainSetup, "validate", lambda s: seen.append(weights(s.decoder.model)) or validate(s))
    while not trainer.done:
        result = trainer.step()
        assert ("validation_tpf" in result.metrics) == (trainer.steps_done in (2, 3))
        own = weights(trainer.model)
        average = {name: 0.6 * average[name] + 0.4 * own[name] for name in own}
        assert any(not torch.allclose(own[name], average[name]) for name in own)
        if trainer.steps_done > 1:
            torch.testing.assert_close(seen[-1], average)
    assert len(seen) == 3, "the base and two of the steps"
    assert [candidate["step"] for candidate in trainer.selection.candidates] == [2, 3]
    assert all(are_equal(seen[trainer.selection.chosen["step"] - 1], trainer.selection.weights))
    assert trainer.setup.validate() == trainer.setup.validate()


@pytest.mark.parametrize("keys", [{"prompts": 6, "method": ALL}, {"prompts": 3, "max_rounds": 3, "method": NONE}])
def test_every_response_of_a_step_has_draws_of_its_own(trainer_of, keys):
    """A prompt that comes back, in one round (three prompts, six wanted) or in a later one, must get other samples.

    The same happens at the seam of two passes, whatever the size: a round may end one pass and begin the next.
    """
    drawn = trainer_of(train=3, **keys)._draw(1)
    found = [(a.trajectory.uid, a.trajectory.sample) for group in drawn.sampled.answers for a in group]
    assert len(found) == len(set(found)) == (24 if drawn.rounds == 1 else 36)


def test_rollouts_differ_by_step_and_carry_it_as_policy_version(trainer_of):
    trainer = trainer_of(train=3, prompts=3, method=ALL)
    one, two = (trainer._draw(step).sampled.trajectories for step in (1, 2))
    texts = [{t.uid: t.token_ids.tolist() for t in trajectories} for trajectories in (one, two)]
    assert texts[0].keys() == texts[1].keys() and texts[0] != texts[1]
    assert {t.policy_version for t in two} == {2}


def test_rollouts_over_a_mixture_of_thresholds_give_each_prompt_one_of_them(folder):
    """Keyed by step and prompt: a group is one policy's, both come up, another step may draw the other."""
    policies = {"low": DecodePolicy(Threshold(0.02)), "high": DecodePolicy(Threshold(0.6))}
    setup = tiny_setup(folder, prompts=7, responses=2, method=ALL)
    setup, found = dataclasses.replace(setup, mixture=list(policies.values())), {}
    for step in (1, 2):
        for group in make_trainer(setup)._draw(step).sampled.answers:
            asked = [(group[0].example, a.trajectory.sample) for a in group]
            for name, policy in policies.items():
                draws = dataclasses.replace(policy, temperature=1.0, seed=setup.seed, step=step)
                alone = answer(setup.decoder, setup.tokenizer, setup.task, asked, draws)
                pairs = zip(alone, group, strict=True)
                if all(np.array_equal(a.trajectory.reveal_step, b.trajectory.reveal_step) for a, b in pairs):
                    found.setdefault((step, group[0].example.uid), set()).add(name)
    assert len(found) == 14
    drawn = [{uid: names for (at, uid), names in found.items() if at == step} for step in (1, 2)]
    assert drawn[0] != drawn[1] and all({"low"} in each.values() and {"high"} in each.values() for each in drawn)
