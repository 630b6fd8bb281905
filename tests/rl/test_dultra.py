"""dUltra's training against the official one (fixtures/dultra_tiny): step log-probabilities, ratios, losses, gradients,
rewards; and the replay: both terms of the trainer's likelihood are the decoder's."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.planning import planned_setup
from fixtures.tiny import answer_of, make_trainer, requests_of, tiny_model
from safetensors.torch import load_file

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.rankings import Planned
from lightningrl.decoding.schedules.full_sequence import FullSequence, WholeSequence
from lightningrl.decoding.selectors.bernoulli import Bernoulli
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.selectors.top_sum import TopSum
from lightningrl.decoding.stops import FinishBlock, InsideBlock, WholeCanvas
from lightningrl.errors import ConfigError
from lightningrl.models.checkpoint import load_model
from lightningrl.models.config_file import family_named
from lightningrl.rl.algorithm import StateGrouping
from lightningrl.rl.algorithms.dultra import DUltra
from lightningrl.rl.groups import Groups
from lightningrl.rl.likelihood import TokenScores, behaviour_of, index_actions, score_tokens
from lightningrl.rl.losses import Actions
from lightningrl.rl.reveals import RevealRule, behaviour_of_reveals, reveal_loss, score_reveals
from lightningrl.rl.text_rewards import (
    apps_of,
    code_fence_of,
    math_format_of,
    math_string_of,
    steps,
    think_format_of,
)
from lightningrl.types import DecodeStats, Trajectory, Verdict

FOLDER = Path(__file__).parents[1] / "fixtures" / "dultra_tiny"
GOLDEN, TENSORS = json.loads((FOLDER / "golden_loss.json").read_text()), load_file(FOLDER / "golden_loss.safetensors")
REWARDS = json.loads((FOLDER / "rewards.json").read_text())
ALL = StateGrouping(after_stop=True)
PUBLISHED = RevealRule(forced_as_drawn=True)


def golden_rollout():
    """The official rollout as trajectories, and the official step of each row's own forwards."""
    found, steps_of = [], []
    for row, commits in enumerate(GOLDEN["traj"]):
        prompt, ids = TENSORS["prompt_ids"][row].numpy(), TENSORS["completion_ids"][row].numpy()
        mine = [step for step, commit in enumerate(commits) if commit]
        reveal = np.zeros(len(ids), dtype=np.int64)
        for forward, step in enumerate(mine, 1):
            reveal[np.array(commits[step]) - len(prompt)] = forward
        stats = DecodeStats(len(ids), len(ids), len(mine), 0, 0)
        found.append(
            Trajectory(
                "t/train/0", row, prompt, ids, len(ids), reveal, np.zeros(len(ids), np.float32),
                GOLDEN["block_length"], GOLDEN["temperature_of_rollout"], "length", 0, stats, origin=len(prompt),
            )
        )  # fmt: skip
        steps_of.append(mine)
    return found, steps_of


def golden_actions(scores, case, trajectories, steps_of):
    """The case's old log-probabilities, each forward's divided evenly over its actions, and its advantages."""
    old_RS = TENSORS[case["old_logp"]].double().sum(-1)
    advantage_R = np.array(case["advantages"])
    advantage_R = np.where(advantage_R < case["advantage_min_clip"], 0.0, advantage_R)
    old, advantage = [], []
    for row, step in zip(scores.row_n.tolist(), scores.step_n.tolist(), strict=True):
        old.append(old_RS[row, steps_of[row][step - 1]] / int((trajectories[row].reveal_step == step).sum()))
        advantage.append(advantage_R[row])
    old_n, advantage_n = (torch.tensor(each, dtype=torch.float64) for each in (old, advantage))
    ones = torch.ones_like(old_n)
    return Actions(old_n, old_n, advantage_n, ones, ones.bool()), advantage_R


def part_of(scores, actions, here):
    """The scores and actions at some places."""
    columns = {name: getattr(scores, name)[here] for name in ("logp_n", "entropy_n", "row_n", "position_n", "step_n")}
    kept = {
        name: getattr(actions, name)[here]
        for name in ("old_logp_n", "ref_logp_n", "advantage_n", "length_n", "in_nll_n")
    }
    return TokenScores(**columns), Actions(**kept)


@pytest.fixture(scope="module")
def published():
    """The model in float64, the official rollout and its scores by the published likelihood."""
    model = load_model(FOLDER, dtype=torch.float64)
    trajectories, steps_of = golden_rollout()
    return model, trajectories, steps_of, score_reveals(model, trajectories, ALL, slice(None), PUBLISHED, 1.0)


def test_step_log_probabilities_of_the_official_rollout(published):
    _, trajectories, steps_of, scores = published
    official_RS = TENSORS["rollout_logp"].double().sum(-1)
    for row, mine in enumerate(steps_of):
        here = scores.row_n == row
        found_F = torch.zeros(len(mine) + 1, dtype=torch.float64).index_add(0, scores.step_n[here], scores.logp_n[here])
        torch.testing.assert_close(found_F[1:].detach(), official_RS[row, mine], rtol=0, atol=2e-3)
    assert len(scores.logp_n) == sum(len(t.token_ids) for t in trajectories)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_losses_ratios_and_gradients_of_the_official_trainer(published, case):
    """Chunk by chunk and step by step. A row that reveals nothing where its chunk does has ratio 1 there: it adds a
    constant to the official number, and nothing to the gradient. Gradients are those of the sum of all."""
    model, trajectories, steps_of, scores = published
    actions, advantage_R = golden_actions(scores, case, trajectories, steps_of)
    chunk, longest, accumulated = GOLDEN["chunk"], GOLDEN["gen_length"], case["gradient_accumulation_steps"]
    options = {
        "clip": (case["epsilon_low"], case["epsilon_high"]), "delta": case["delta"], "actions_total": len(scores.logp_n)
    }  # fmt: skip
    official = iter(zip(case["losses_chunk_step"], case["ratios_chunk_step_row"], strict=True))
    for first in range(0, GOLDEN["batch"], chunk):
        for step in range(GOLDEN["steps"]):
            loss, ratios = next(official)
            rows = range(first, first + chunk)
            revealing = [row for row in rows if step in steps_of[row]]
            found = 0.0
            for row in rows:
                if row in revealing:
                    here = (scores.row_n == row) & (scores.step_n == steps_of[row].index(step) + 1)
                    one = part_of(scores, actions, here)
                    found += float(reveal_loss(*one, normaliser=chunk * longest, **options)[0].detach())
                    ratio = (one[0].logp_n - one[1].old_logp_n).sum().exp()
                    assert float(ratio) == pytest.approx(ratios[row - first], rel=2e-4)
                elif revealing:
                    found -= advantage_R[row] / (chunk * longest)
            assert found / accumulated == pytest.approx(loss, abs=1e-5)
    model.zero_grad(set_to_none=True)
    total, logged = reveal_loss(scores, actions, normaliser=GOLDEN["batch"] * longest / 2, **options)
    total.backward(retain_graph=True)
    family = family_named("llada")
    norms = {
        family.stored_name(name): float(weight.grad.norm()) / accumulated**2
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    assert norms.keys() == case["grad_norm"].keys()
    for name, norm in case["grad_norm"].items():
        assert norms[name] == pytest.approx(norm, rel=1e-3, abs=1e-6), name
    assert 0 <= float(logged["clip_fraction"]) <= 1


def test_ours_leaves_out_the_coin_of_a_forced_pick_and_scores_tokens_as_they_were_drawn(published):
    model, trajectories, _, theirs = published
    with torch.no_grad():
        ours = score_reveals(model, trajectories, ALL, slice(None), RevealRule(), 1.0)
        drawn = score_reveals(model, trajectories, ALL, slice(None), RevealRule())
        tokens = {
            t: score_tokens(model, [dataclasses.replace(x, temperature=t) for x in trajectories], ALL).logp_n
            for t in (0.8, 1.0)
        }
    alone_n = torch.tensor([
        (trajectories[row].reveal_step == step).sum() == 1
        for row, step in zip(ours.row_n.tolist(), ours.step_n.tolist(), strict=True)
    ])  # fmt: skip
    gap_n = ours.logp_n - theirs.logp_n.detach()
    assert (gap_n[~alone_n] == 0).all() and (gap_n >= 0).all() and (gap_n > 0).any()
    torch.testing.assert_close(drawn.logp_n - ours.logp_n, tokens[0.8] - tokens[1.0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("stop", [WholeCanvas(), FinishBlock(), InsideBlock()], ids=lambda stop: type(stop).__name__)
@pytest.mark.parametrize("factor", [1.0, 0.6])
def test_the_trainers_likelihood_is_the_decoders_in_both_terms(stop, factor):
    """Canvases of several lengths, later masks in sight, a temperature of tokens and one of the planner."""
    model = tiny_model(4, attention="full", has_planner=True)
    policy = DecodePolicy(
        Bernoulli(factor), 0.7, schedule=FullSequence(4), stop=stop, ranking=Planned(1.7), seed=2, step=1
    )  # fmt: skip
    trajectories = BlockDecoder(model, (3, 7, 11, 15), rows=3).decode(requests_of([1, 4, 6, 9, 6, 13], 16), policy)
    with torch.no_grad():
        scores = score_reveals(model, trajectories, ALL, slice(None), RevealRule(factor, 1.7))
        tokens = score_tokens(model, trajectories, ALL)
    index = index_actions(trajectories, ALL)
    for name in ("row_n", "position_n"):
        assert torch.equal(getattr(scores, name), getattr(index, name))
    both = scores.logp_n - behaviour_of_reveals(trajectories, index)
    assert float(both.abs().max()) < 1e-5
    assert float((tokens.logp_n - behaviour_of(trajectories, tokens)).abs().max()) < 1e-5
    decided = torch.zeros(99 * len(trajectories), dtype=torch.float64).index_add(
        0, scores.row_n * 99 + scores.step_n, (scores.logp_n - tokens.logp_n).double()
    )  # fmt: skip
    for row, trajectory in enumerate(trajectories):
        mine = decided[row * 99 + 1 : row * 99 + 1 + trajectory.stats.denoise_forwards]
        np.testing.assert_allclose(mine, trajectory.decision_logp, atol=1e-5)
    assert {t.stop for t in trajectories} == {"eos", "length"}
    assert any(t.later_masks for t in trajectories) != isinstance(stop, WholeCanvas)
    part = slice(1, 3)
    with torch.no_grad():
        some = score_reveals(model, trajectories[:1], ALL, part, RevealRule(factor, 1.7))
    kept = index_actions(trajectories[:1], ALL, part)
    np.testing.assert_allclose(some.logp_n, behaviour_of_reveals(trajectories[:1], kept), atol=1e-5)


@pytest.mark.parametrize("logit_shift", [False, True])
@pytest.mark.parametrize("schedule", [FullSequence(4), WholeSequence()], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("stop", [WholeCanvas(), FinishBlock()], ids=lambda stop: type(stop).__name__)
def test_every_algorithms_likelihood_of_tokens_on_a_canvas_is_the_decoders(logit_shift, schedule, stop):
    model = tiny_model(4, attention="full", logit_shift=logit_shift)
    policy = DecodePolicy(Threshold(0.2), 0.7, schedule=schedule, stop=stop, seed=2)
    trajectories = BlockDecoder(model, (3, 7, 11, 15), rows=3).decode(requests_of([1, 4, 6, 9, 6], 12), policy)
    with torch.no_grad():
        scores = score_tokens(model, trajectories)
    assert len(scores.logp_n) == sum(t.response_len for t in trajectories)
    assert float((scores.logp_n - behaviour_of(trajectories, scores)).abs().max()) < 1e-5


@pytest.mark.parametrize(
    "method", [{}, {"compat": True, "advantage_min_clip": None, "delta": 2.0}], ids=["ours", "compat"]
)
def test_a_run_trains_the_model_and_its_planner_and_begins_at_ratio_one(tmp_path, method):
    setup = planned_setup(tmp_path, method=method, prompts=4, temperature=0.8)
    trainer = make_trainer(setup)
    before = {name: weight.detach().clone() for name, weight in setup.model.named_parameters()}
    row = trainer.step().metrics
    assert row["updates"] == 2 and row["first_ratio"] == pytest.approx(1.0, abs=1e-4) and row["skipped"] == 0
    assert row["logp_gap_mean"] < 1e-5 and row["first_clip_fraction"] == 0 and row["grad_norm"] > 0
    moved = {name for name, weight in setup.model.named_parameters() if not torch.equal(weight, before[name])}
    assert {"planner.mask_linear.weight", "lm_head.weight", "planner.layer.mlp.up_proj.weight"} <= moved
    assert row["reward_steps_mean"] < 0 and row["token_forwards"] > 0


def test_by_default_a_run_scores_reveals_as_they_were_drawn_and_its_loss_is_the_mean_over_responses(tmp_path):
    """With the rollouts' weights every ratio is 1, so the loss is minus the forwards' advantages, summed, over the
    responses and the longest one's positions. With `compat` it is twice that, by another likelihood."""
    found = {}
    for compat, keys in ((False, {}), (True, {"compat": True})):
        setup = planned_setup(tmp_path, method={"advantage_min_clip": None} | keys, prompts=4, temperature=0.8)
        setup.policy = dataclasses.replace(setup.policy, selector=Bernoulli(0.6), ranking=Planned(1.7))
        trainer = make_trainer(setup)
        algorithm, kept = trainer.algorithm, trainer._draw(1).kept
        batch = trainer._batches(kept, 1)[0][0]
        gaps, loss, expected = [], 0.0, 0.0
        for micro in batch.micro:
            with torch.no_grad():
                scores = algorithm.score(setup.model, micro.trajectories, micro.plan.copies)
                loss += float(algorithm.loss(scores, micro.actions, batch.sums)[0])
            index = index_actions(micro.trajectories, algorithm.states, micro.plan.copies)
            gaps.append((scores.logp_n - algorithm.behaviour(micro.trajectories, index)).abs().max())
            for number, advantage in zip(micro.plan.index_B, batch.advantage_B[micro.plan.index_B], strict=True):
                expected -= advantage * batch.trajectories[number].stats.denoise_forwards
        found[compat] = loss, float(max(gaps)), expected / (len(batch.trajectories) * 12)
    assert found[False][2] != 0 and found[False][0] == pytest.approx(found[False][2], rel=1e-4, abs=1e-6)
    assert found[False][1] < 1e-4, "the decoder's own likelihood"
    assert found[True][0] == pytest.approx(2 * found[True][2], rel=1e-4, abs=1e-6) and found[True][1] > 1e-3


def test_micro_batches_and_parts_of_trajectories_are_exact(tmp_path):
    weights = []
    for cut in ({"microbatch": 12}, {"microbatch": 2}, {"microbatch": 12, "microbatch_positions": 60}):
        setup = planned_setup(tmp_path, dtype=torch.float64, prompts=4, **cut)
        make_trainer(setup).step()
        weights.append(torch.cat([weight.detach().flatten() for weight in setup.model.parameters()]))
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": DecodePolicy(TopSum(1.0), ranking=Planned(), schedule=FullSequence(4))}, "by no draw"),
        ({"policy": DecodePolicy(Bernoulli(1.0), schedule=FullSequence(4))}, "by no draw"),
        ({"mixture": [DecodePolicy(Bernoulli(0.5), ranking=Planned(), schedule=FullSequence(4))]}, "one factor"),
        ({"model": None}, "this sdar model has none"),
    ],
)  # fmt: skip
def test_runs_that_have_no_likelihood_are_refused(tmp_path, change, message):
    setup = planned_setup(tmp_path)
    change = {name: value or tiny_model(1, attention="full") for name, value in change.items()}
    with pytest.raises(ConfigError, match=message):
        make_trainer(dataclasses.replace(setup, **change))


def test_advantages_are_centred_and_those_below_the_least_are_left_out():
    """Rewards (2.6, 2.1, .3, -.4): A = (1.45, .95, -.85, -1.55); a least of 0 keeps the first two."""

    class Told(DUltra):
        def total_reward(self, groups):
            return np.array([[2.6, 2.1, 0.3, -0.4]])

    groups = Groups([[answer_of(4, 2)] * 4])
    for least, expected in ((0.0, [1.45, 0.95, 0, 0]), (0.1, [1.45, 0.95, 0, 0]), (None, [1.45, 0.95, -0.85, -1.55])):
        found = Told(Told.Config(advantage_min_clip=least)).advantages(groups)
        np.testing.assert_allclose(found, [expected], atol=1e-12)


def test_surrogates_of_the_worked_examples():
    """A = 1 / -1: ln rho = .1 -> -1.105171 / 1.105171; -.3 -> -.740818 / .8; .8 -> -2 / 2.225541."""
    for log_ratio, losses in ((0.1, (-1.105171, 1.105171)), (-0.3, (-0.740818, 0.8)), (0.8, (-2.0, 2.225541))):
        for sign, expected in zip((1.0, -1.0), losses, strict=True):
            one, zero = torch.tensor([log_ratio / 2] * 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
            scores = TokenScores(one, zero, torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([1, 1]))
            actions = Actions(zero, zero, zero + sign, zero + 1, zero > 0)
            loss, _ = reveal_loss(scores, actions, clip=(0.2, 1.0), delta=None, normaliser=1, actions_total=2)
            assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_rewards_are_the_official_functions_on_their_texts():
    for name, reward in (("format", math_format_of), ("soft_format", think_format_of), ("code_fence", code_fence_of)):
        for case in REWARDS[name]:
            assert reward(case["text"]) == pytest.approx(case["value"]), (name, case)
    for case in REWARDS["math"]:
        assert math_string_of(case["answer"], case["response"]) == case["value"], case
    for case in REWARDS["steps"]:
        forwards = sum(bool(commit) for commit in case["traj"])
        if forwards:
            assert steps(Groups([[answer_of(4, forwards)]]))[0, 0] == pytest.approx(case["value"])


def test_programs_that_fail_cost_a_little_and_those_that_are_none_cost_nothing():
    def of(status, detail="", correct=False):
        return apps_of(dataclasses.replace(answer_of(4, 2), verdict=Verdict(correct, 0.5, status, detail=detail)))

    assert (of("ok", correct=True), of("wrong"), of("crashed"), of("timeout")) == (1.0, 0.0, -0.05, -0.05)
    assert of("crashed", "SyntaxError: invalid syntax") == of("crashed", "IndentationError") == of("unparsable") == 0.0
