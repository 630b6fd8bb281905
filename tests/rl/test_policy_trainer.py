"""The trainer around the update: learning rates, batches, compute, rollouts."""

import dataclasses

import numpy as np
import pytest
import torch
from fixtures.tiny import CoinJudge, make_trainer, tiny_setup
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.answering import answer
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.schedules.block import FusedCommit, SeparateCommit
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import CheckpointError, TrainingError
from lightningrl.judges.boxed_answer import BoxedJudge
from lightningrl.models import packing
from lightningrl.rl import trainer as trainer_module
from lightningrl.rl import value as value_module
from lightningrl.rl.likelihood import index_actions, score_tokens, trajectory_row
from lightningrl.rl.registry import ALGORITHMS
from lightningrl.rl.setup import TrainSetup
from lightningrl.rl.states import AS_DECODED, StateGrouping
from lightningrl.rl.update import Batch
from lightningrl.training.world import World
from lightningrl.types import Verdict

ALL = {"filter_all_wrong": False, "filter_tpf_range": 0.0}
ANY = {"filter_all_wrong": False}
NONE = {"filter_tpf_range": 1e6}


def test_trainer_runs_with_the_products_own_judge(tmp_path):
    trainer = make_trainer(tiny_setup(tmp_path, judge=BoxedJudge(), method=ANY))
    metrics = trainer.step().metrics
    assert metrics["accuracy_pct"] == 0.0 and metrics["statuses"] == {"unparsable": metrics["groups_sampled"] * 4}


def advantage_of(micro):
    """(B,) of a micro-batch: that of each trajectory's actions, which is one."""
    row_n = index_actions(micro.trajectories).row_n
    found = [micro.advantage_n[row_n == row] for row in range(len(micro.trajectories))]
    assert all((values == values[0]).all() for values in found)
    return torch.stack([values[0] for values in found])


def rates(tmp_path, **run):
    trainer = make_trainer(tiny_setup(tmp_path, **run))
    found, original = [], trainer_module.update

    def spy(algorithm, model, optimiser, *rest):
        found.append(optimiser.param_groups[0]["lr"])
        return original(algorithm, model, optimiser, *rest)

    trainer_module.update = spy
    try:
        while not trainer.done:
            trainer.step()
    finally:
        trainer_module.update = original
    return found


def test_learning_rate_warms_up_once_a_run_then_stays(tmp_path):
    """Four warm-up updates of 1e-3: 1/4, 2/4, 3/4, 1, and 1 from there on, over 3 steps of 2 updates."""
    found = rates(tmp_path, steps=3, learning_rate=1e-3, warmup_updates=4)
    assert found == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])


def test_learning_rate_decays_linearly_by_step_when_asked(tmp_path):
    """Step n of 4 has the factor 1 - (n - 1) / 4, no warm-up."""
    found = rates(tmp_path, steps=4, learning_rate=1e-3, warmup_updates=0, decay=True)
    assert found == pytest.approx([1e-3, 1e-3, 0.75e-3, 0.75e-3, 0.5e-3, 0.5e-3, 0.25e-3, 0.25e-3])


def test_kept_groups_are_divided_among_the_updates_each_with_its_own_advantages(tmp_path):
    setup = tiny_setup(tmp_path, prompts=5, updates=2, method=ALL)
    trainer = make_trainer(setup)
    drawn, _ = trainer._draw(1)
    batches, advantage_NG = trainer._batches(drawn.kept, 1)
    sizes = [sum(len(m.trajectories) for m in batch.micro) for batch in batches]
    assert sizes == [3 * 4, 2 * 4]
    for batch in batches:
        advantage = torch.cat([advantage_of(m) for m in batch.micro])
        assert float(advantage.mean()) == pytest.approx(0, abs=1e-6) and float(advantage.std()) == pytest.approx(
            1, abs=1e-5
        )
        correct = {id(a.trajectory): a.verdict.correct for group in drawn.kept.answers for a in group}
        flags = {id(t): bool(f) for m in batch.micro for t, f in zip(m.trajectories, m.in_nll_B, strict=True)}
        assert flags == {key: correct[key] for key in flags}
    by_id = {
        id(t): float(a) for b in batches for m in b.micro for t, a in zip(m.trajectories, advantage_of(m), strict=True)
    }
    in_order = [by_id[id(a.trajectory)] for group in drawn.kept.answers for a in group]
    assert in_order == pytest.approx(advantage_NG.ravel().tolist(), abs=1e-6), "returned in the order of the groups"
    identities = [id(t) for batch in batches for m in batch.micro for t in m.trajectories]
    assert sorted(identities) == sorted(id(a.trajectory) for group in drawn.kept.answers for a in group)


def test_more_updates_than_groups_gives_an_update_a_group(tmp_path):
    trainer = make_trainer(tiny_setup(tmp_path, prompts=2, updates=5, method=ALL))
    assert trainer.step().metrics["updates"] == 2


def test_a_step_without_any_kept_group_updates_nothing_and_goes_on(tmp_path):
    setup = tiny_setup(tmp_path, method=NONE, max_rounds=2)
    before = {name: tensor.clone() for name, tensor in setup.model.state_dict().items()}
    trainer = make_trainer(setup)
    metrics = trainer.step().metrics
    assert (metrics["updates"], metrics["groups_kept"], metrics["groups_missing"], metrics["rounds"]) == (0, 0, 3, 2)
    assert all(torch.equal(before[name], tensor) for name, tensor in setup.model.state_dict().items())
    assert trainer.describe(trainer.step())


def test_the_reference_stays_and_the_policy_moves(tmp_path):
    setup = tiny_setup(tmp_path)
    before = {name: tensor.clone() for name, tensor in setup.reference.state_dict().items()}
    trainer = make_trainer(setup)
    trainer.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in setup.reference.state_dict().items())
    assert not any(torch.equal(before[name], tensor) for name, tensor in setup.model.state_dict().items())


def test_decoder_and_trainer_that_disagree_are_an_error(tmp_path):
    """Training stops past a mean gap of 0.05 nats."""
    setup = tiny_setup(tmp_path)
    stale = tiny_setup(tmp_path, seed=4)
    trainer = make_trainer(dataclasses.replace(setup, decoder=stale.decoder))
    with pytest.raises(
        CheckpointError, match=r"decoder and trainer disagree by \d+\.\d+ nats a token \(allowed: 0\.05\)"
    ):
        trainer.step()


@pytest.mark.parametrize(
    ("algorithm", "method", "forwards"),
    [
        ("lightningrl", {}, 1 + 3),
        ("lightningrl", {"shrink": 2}, 2 + 3),
        ("published_code", {}, 2 + 3),
        ("lightningrl", {"value": {}}, 1 + 3 + 4),
        ("tracerl", {"filter_accuracy": (0.0, 1.0)}, 3 + 4),
        ("tracerl", {"filter_accuracy": (0.0, 1.0), "shrink": 2}, 1 + 3 + 4),
    ],
)
def test_compute_is_what_the_models_really_computed(tmp_path, monkeypatch, algorithm, method, forwards):
    """A rollout position counts once, a trained one once a forward and twice a backward, for each model; validation
    does not count. Counted here at the packed forward itself."""
    computed, original = [], packing.scored_hidden

    def counting(model, packed):
        computed.append(packed.ids_1Q.shape[1] * (3 if torch.is_grad_enabled() else 1))
        return original(model, packed)

    monkeypatch.setattr(packing, "scored_hidden", counting)
    monkeypatch.setattr(value_module, "scored_hidden", counting)
    trainer = make_trainer(tiny_setup(tmp_path, algorithm=algorithm, method=method, validate_every=1))
    monkeypatch.setattr(trainer, "_logp_gap", lambda trajectories: (0.0, 0.0))  # a check, not part of the method
    total = 0
    for _ in range(2):
        computed.clear()
        metrics = trainer.step().metrics
        assert sum(computed) == forwards * metrics["trained_positions"]
        total += metrics["rollout_positions"] + sum(computed)
        assert metrics["token_forwards"] == total and metrics["rollout_positions"] > 0
    assert trainer.setup.decoder.ledger.positions == 0


def test_what_is_trained_are_the_states_that_happened(tmp_path):
    """The positions of a step's updates are those of its trajectories' own states: full masking has fewer."""
    trainer = make_trainer(tiny_setup(tmp_path, method=ALL))
    kept = trainer._draw(1)[0].kept.trajectories
    mask_id = trainer.setup.model.config.mask_token_id
    expected = sum(trajectory_row(t, mask_id).num_tokens for t in kept)
    assert expected > sum(trajectory_row(t, mask_id, StateGrouping(full_mask=True)).num_tokens for t in kept)
    trainer = make_trainer(tiny_setup(tmp_path, method=ALL))
    assert trainer.step().metrics["trained_positions"] == expected
    batches, _ = trainer._batches(trainer._draw(2)[0].kept, 2)
    assert trainer.algorithm.states == AS_DECODED and sum(len(batch.first) for batch in batches)


def test_one_optimiser_lives_for_the_whole_run(tmp_path):
    """Its own count of steps is the run's updates: moments are not begun anew at each RL step."""
    trainer = make_trainer(tiny_setup(tmp_path, method=ALL, steps=3))
    updates = sum(trainer.step().metrics["updates"] for _ in range(3))
    counts = {int(state["step"]) for state in trainer.optimiser.state.values()}
    assert counts == {updates} and updates == trainer.updates_done == 6


def test_overlong_answers_are_wrong_in_the_reported_accuracy_too(tmp_path):
    """Every response has at least one token: with a margin of all of them none is right, in rewards and report."""
    method = ALL | {"overlong_margin": 13}
    metrics = make_trainer(tiny_setup(tmp_path, algorithm="published_code", method=method)).step().metrics
    assert metrics["accuracy_pct"] == 0 and metrics["reward_accuracy_mean"] == -1
    assert make_trainer(tiny_setup(tmp_path, method=ALL)).step().metrics["accuracy_pct"] > 0


def test_the_yardstick_is_the_base_before_any_training(tmp_path):
    before = tiny_setup(tmp_path).validate()
    trainer = make_trainer(tiny_setup(tmp_path, method=ALL, learning_rate=0.05, warmup_updates=0))
    trainer.step()
    assert trainer.selection.base == before.figures and trainer.selection.base_correct == before.correct
    assert before.figures != trainer.setup.validate().figures


@pytest.mark.parametrize(
    ("algorithm", "method", "is_base"),
    [("lightningrl", ALL, True), ("tracerl", {"filter_accuracy": (0.0, 1.0)}, False)],
)
def test_the_kl_term_holds_to_the_base_or_to_the_rollouts_policy(tmp_path, algorithm, method, is_base):
    setup = tiny_setup(tmp_path, algorithm=algorithm, method=method)
    with torch.no_grad():
        for parameter in setup.reference.parameters():
            parameter.mul_(0.9)
    trainer = make_trainer(setup)
    batches, _ = trainer._batches(trainer._draw(1)[0].kept, 1)
    for batch in batches:
        for micro in batch.micro:
            of_base = score_tokens(setup.reference, micro.trajectories).logp_n.detach()
            assert torch.equal(micro.ref_logp_n, of_base) == is_base
            assert torch.equal(micro.ref_logp_n, micro.old_logp_n) != is_base


def test_each_process_scores_its_share_and_no_more(tmp_path, monkeypatch):
    """Of seven micro-batches two processes score four and three, the second one a repeat that counts for nothing."""
    setup = tiny_setup(tmp_path, method=ALL)
    trainer, scored = make_trainer(setup), []
    algorithm, trajectories = trainer.algorithm, trainer._draw(1)[0].kept.trajectories[:7]
    score = algorithm.score
    monkeypatch.setattr(algorithm, "score", lambda model, rows, *rest: scored.extend(rows) or score(model, rows, *rest))
    shares = []
    for rank in range(2):
        scored.clear()
        given = np.zeros(7), np.zeros(7, bool)
        batch = Batch.build(algorithm, trajectories, *given, setup.model, setup.reference, 1, world=World(rank, 2))
        shares.append([id(t) for t in scored])
        assert [micro.weight for micro in batch.micro] == [1.0, 1.0, 1.0, 1.0 - rank]
    assert len(shares[0]) == len(shares[1]) == 4
    assert set(shares[0]) | set(shares[1]) == {id(t) for t in trajectories}


def test_updates_that_can_never_be_taken_end_the_run(tmp_path):
    """Every loss is not finite: counted, logged, and after five steps an error that says what to do."""
    setup = tiny_setup(tmp_path, method=ALL, steps=30, prompts=1, updates=1)
    with torch.no_grad():
        setup.reference.model.norm.weight[0] = float("nan")
    trainer = make_trainer(setup)
    for _ in range(4):
        assert trainer.step().metrics["skipped"] == 1
    with pytest.raises(TrainingError, match=r"no update could be taken in 5 steps running.*lower learning rate"):
        trainer.step()


def test_validation_is_greedy_at_the_runs_threshold_and_happens_when_due(tmp_path):
    trainer = make_trainer(tiny_setup(tmp_path, steps=3, validate_every=2))
    due = ["validation_tpf" in trainer.step().metrics for _ in range(3)]
    assert due == [False, True, True] and trainer.done
    assert [c["step"] for c in trainer.selection.candidates] == [2, 3]
    assert trainer.setup.validate() == trainer.setup.validate()


def test_what_is_validated_and_shipped_is_the_average_of_the_weights_and_rollouts_have_the_weights(
    tmp_path, monkeypatch
):
    """Three steps at a large rate: the average follows by 1 - 0.6 a step, from the base on."""

    def weights(model):
        return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    trainer = make_trainer(
        tiny_setup(tmp_path, method=ALL, steps=3, validate_every=1, learning_rate=0.05, warmup_updates=0, averaging=0.6)
    )
    average, seen, validate = weights(trainer.setup.model), [], TrainSetup.validate
    monkeypatch.setattr(TrainSetup, "validate", lambda s: seen.append(weights(s.decoder.model)) or validate(s))
    while not trainer.done:
        trainer.step()
        own = weights(trainer.setup.model)
        average = {name: 0.6 * average[name] + 0.4 * own[name] for name in own}
        for name, tensor in seen[-1].items():
            torch.testing.assert_close(tensor, average[name])
        assert any(not torch.allclose(own[name], average[name]) for name in own)
    assert len(seen) == 4, "the base and three steps"
    chosen = seen[trainer.selection.chosen["step"]]
    assert all(torch.equal(trainer.selection.weights[name], chosen[name]) for name in chosen)


def test_every_response_of_a_step_has_draws_of_its_own(tmp_path):
    """Three prompts, six wanted: one round meets each prompt twice, and the second time it must get other samples.

    The same happens at the seam of two passes, whatever the size: a round may end one pass and begin the next.
    """
    trainer = make_trainer(tiny_setup(tmp_path, train=3, prompts=6, method=ALL))
    drawn, _ = trainer._draw(1)
    keys = [(a.trajectory.uid, a.trajectory.sample) for group in drawn.sampled.answers for a in group]
    assert len(keys) == 24
    assert len(set(keys)) == 24, "a repeated (uid, sample) is the same response twice"


def test_a_prompt_that_comes_back_in_a_later_round_gets_other_samples(tmp_path):
    trainer = make_trainer(tiny_setup(tmp_path, train=3, prompts=3, max_rounds=3, method=NONE))
    drawn, _ = trainer._draw(1)
    keys = [(a.trajectory.uid, a.trajectory.sample) for group in drawn.sampled.answers for a in group]
    assert drawn.rounds == 3 and len(set(keys)) == len(keys) == 36


def test_rollouts_differ_by_step_and_carry_it_as_policy_version(tmp_path):
    trainer = make_trainer(tiny_setup(tmp_path, train=3, prompts=3, method=ALL))
    one, two = trainer._draw(1)[0], trainer._draw(2)[0]
    texts = [
        {a.trajectory.uid: a.trajectory.token_ids.tolist() for g in d.sampled.answers for a in g} for d in (one, two)
    ]
    assert texts[0].keys() == texts[1].keys() and texts[0] != texts[1]
    assert {a.trajectory.policy_version for g in two.sampled.answers for a in g} == {2}


class GradedJudge(CoinJudge):
    """A code-like judge: values in thirds, correct only at 1."""

    graded = True

    def judge(self, examples, responses):
        values = [(len(r) % 4) / 3 for r in responses]
        return [Verdict(value == 1, value, "ok" if value == 1 else "wrong") for value in values]


@pytest.mark.parametrize("algorithm", ["lightningrl", "grpo_traj"])
def test_graded_judges_reward_the_fraction_that_passed(tmp_path, algorithm):
    trainer = make_trainer(tiny_setup(tmp_path, algorithm=algorithm, judge=GradedJudge(), method=ALL))
    drawn, _ = trainer._draw(1)
    values = [a.verdict.value for group in drawn.sampled.answers for a in group]
    trainer = make_trainer(tiny_setup(tmp_path, algorithm=algorithm, judge=GradedJudge(), method=ALL))
    metrics = trainer.step().metrics
    assert metrics["reward_accuracy_mean"] == pytest.approx(np.mean(values)) and 0 < np.mean(values) < 1
    assert metrics["reward_total_mean"] == pytest.approx(np.mean(values) + metrics["reward_speed_mean"])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.none(), st.floats(-5, 5)), min_size=1, max_size=5))
def test_means_over_updates_leave_skipped_ones_out(values):
    known = [v for v in values if v is not None]
    expected = pytest.approx(sum(known) / len(known)) if known else None
    assert trainer_module._mean(values) == expected


def test_rollouts_over_a_mixture_of_thresholds_give_each_prompt_one_of_them(tmp_path):
    """Keyed by step and prompt: a group is one policy's, both come up, another step may draw the other."""
    low, high = DecodePolicy(Threshold(0.02)), DecodePolicy(Threshold(0.6))
    setup = dataclasses.replace(tiny_setup(tmp_path, train=12, prompts=12, method=ALL), mixture=[low, high])
    found = {}
    for step in (1, 2):
        for group in make_trainer(setup)._draw(step)[0].sampled.answers:
            asked = [(group[0].example, a.trajectory.sample) for a in group]
            for name, policy in (("low", low), ("high", high)):
                draws = dataclasses.replace(policy, temperature=1.0, seed=setup.seed, step=step)
                alone = answer(setup.decoder, setup.tokenizer, setup.task, asked, draws)
                pairs = zip(alone, group, strict=True)
                if all(np.array_equal(a.trajectory.reveal_step, b.trajectory.reveal_step) for a, b in pairs):
                    found.setdefault((step, group[0].example.uid), set()).add(name)
    assert len(found) == 24 and all(found.values())
    for step in (1, 2):
        names = {name for (at, _), names in found.items() for name in names if at == step and len(names) == 1}
        assert names == {"low", "high"}
    drawn = [{uid: names for (at, uid), names in found.items() if at == step} for step in (1, 2)]
    assert drawn[0] != drawn[1]


def test_true_tpf_as_the_reward_counts_separate_commits(tmp_path):
    """Trained with and reported: under separate commits it is below TPF, under fused ones equal to it."""
    method = {"rewards": [{"name": "accuracy"}, {"name": "tpf_true", "scale": "z_score"}]}
    for cache, is_less in ((SeparateCommit(), True), (FusedCommit(), False)):
        setup = tiny_setup(tmp_path, method=method)
        setup.policy = dataclasses.replace(setup.policy, schedule=cache)
        metrics = make_trainer(setup).step().metrics
        assert (metrics["reward_tpf_true_mean"] < metrics["reward_speed_mean"]) == is_less
        assert (metrics["tpf_true"] < metrics["tpf"]) == is_less


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_algorithm_takes_steps_with_finite_losses(tmp_path, name):
    method = {} if name == "supervised" else {"filter_accuracy": (0.0, 1.0)}
    setup = tiny_setup(tmp_path, algorithm=name, steps=2, method=method)
    trainer = make_trainer(setup)
    for _ in range(2):
        metrics = trainer.step().metrics
        assert np.isfinite(metrics.get("loss", 0.0)), metrics
    assert metrics["step"] == 2
