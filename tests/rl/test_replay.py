"""The replay test: the trainer's likelihood of a trajectory is the decoder's, state by state.

The decoder runs over a cache, many rows a forward; the trainer runs packed copies without a cache. Here they meet:
log-probabilities to 1e-5 in float32, states and actions exactly, and every ratio of the first update 1.
"""

import numpy as np
import pytest
import torch
from fixtures.naive import naive_action_log_probs
from fixtures.tiny import MASK_ID, requests_of, tiny_model, twin

from lightningrl.decoding import scheduler
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.schedules.block import FusedCommit, SeparateCommit
from lightningrl.decoding.selectors.cumulative_entropy import CumulativeEntropy
from lightningrl.decoding.selectors.factor import Factor
from lightningrl.decoding.selectors.quota import Quota
from lightningrl.decoding.selectors.scripted import Scripted
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.stops import FinishBlock, InsideBlock
from lightningrl.errors import DecodeError
from lightningrl.models.packed_attention import PackedBlocks
from lightningrl.models.packing import pack, token_scores
from lightningrl.rl.algorithms.lightningrl import LightningRL
from lightningrl.rl.likelihood import behaviour_of, score_tokens, trajectory_row
from lightningrl.rl.update import Batch, update

STOPS = (3, 7)
CACHES = {"fused": FusedCommit, "separate": SeparateCommit}
PROMPTS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 16, 17, 3, 8, 13]
"""Shorter than a block, ending on the grid of 4, and neither."""
TAU = 0.3
ALGORITHM = LightningRL(LightningRL.Config())


def decode(model, temperature=1.0, commit="fused", rows=16, lengths=PROMPTS, new=18):
    policy = DecodePolicy(Threshold(TAU), temperature, schedule=CACHES[commit](), seed=2, step=1)
    return BlockDecoder(model, STOPS, rows=rows).decode(requests_of(lengths, new), policy)


def largest_gap(model, trajectories):
    """Between the trainer's log-probabilities and the decoder's, nats; the trainer's scores."""
    with torch.no_grad():
        scores = score_tokens(model, trajectories)
    assert len(scores.logp_n) == sum(t.response_len for t in trajectories)
    return float((scores.logp_n - behaviour_of(trajectories, scores)).abs().max()), scores


@pytest.mark.parametrize(
    ("temperature", "commit", "rows"),
    [(1.0, "fused", 16), (1.0, "separate", 1), (0.7, "separate", 16), (0.7, "fused", 1), (0.0, "fused", 16)],
)
def test_trainers_log_probs_are_the_decoders(temperature, commit, rows):
    model = tiny_model(4)
    trajectories = decode(model, temperature, commit, rows)
    assert any(len(np.unique(t.reveal_step)) < len(t.token_ids) for t in trajectories)
    batches = [[t] for t in trajectories] if rows == 1 else [trajectories]
    assert 0 <= max(largest_gap(model, batch)[0] for batch in batches) < 1e-5
    assert max(-float(t.behaviour_logp.min()) for t in trajectories) > 0.5, "the likelihood must be of some size"


def test_the_replayed_trajectories_have_every_shape_that_matters_and_other_weights_are_noticed():
    """Some have a token after the stop token that a later forward revealed. The comparison can fail: a small change of
    the weights moves the log-probabilities by far more than 1e-5."""
    model = tiny_model(4)
    trajectories = decode(model)
    assert {t.stop for t in trajectories} == {"eos", "length"}
    assert any((t.reveal_step[t.response_len :] > t.reveal_step[t.response_len - 1]).any() for t in trajectories)
    assert any(t.stop == "eos" and t.response_len < len(t.token_ids) for t in trajectories)
    remainders = {len(t.prompt_ids) % 4 for t in trajectories}
    assert remainders == {0, 1, 2, 3} and min(len(t.prompt_ids) for t in trajectories) < 4
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.01)
    assert largest_gap(model, trajectories)[0] > 1e-3


@pytest.mark.parametrize("stop", [FinishBlock(), InsideBlock()], ids=["finish_block", "inside_block"])
@pytest.mark.parametrize(
    "selector", [Quota(3), Factor(1.0), Factor(1.5, compat=True), CumulativeEntropy(4.0), Scripted(2.5), Threshold(TAU)]
)
def test_trainers_log_probs_are_the_decoders_for_every_selector_and_stop_rule(selector, stop):
    """A tail that was never revealed holds the mask token; it is no action, and a mask in the states it stands in."""
    model = tiny_model(4)
    policy = DecodePolicy(selector, 1.0, stop=stop, seed=2, step=1)
    trajectories = BlockDecoder(model, STOPS).decode(requests_of(PROMPTS, 18), policy)
    cut = [t for t in trajectories if (t.reveal_step == 0).any()]
    assert bool(cut) == isinstance(stop, InsideBlock)
    gap, scores = largest_gap(model, trajectories)
    assert gap < 1e-5
    keys = dict(zip(zip(scores.row_n.tolist(), scores.position_n.tolist(), strict=True), scores.logp_n, strict=True))
    for trajectory in cut[:3]:
        row = next(i for i, t in enumerate(trajectories) if t is trajectory)
        unseen = trajectory.reveal_step == 0
        assert (trajectory.token_ids[unseen] == MASK_ID).all() and not unseen[: trajectory.response_len].any()
        assert not (trajectory.behaviour_logp[unseen].any() or trajectory.entropy[unseen].any())
        with torch.no_grad():
            naive = naive_action_log_probs(model, trajectory)
        for position, value in naive.items():
            assert float(keys[row, position]) == pytest.approx(float(value), abs=1e-5)


def test_trajectories_of_another_block_size_are_refused():
    model, other = tiny_model(4), tiny_model(4, block_size=8)
    [trajectory] = BlockDecoder(model, (3, 7)).decode(requests_of([5], 6), DecodePolicy(Threshold(0.3), 1.0))
    with pytest.raises(DecodeError, match=r"block sizes \[4\]: expected .* the model's block size 8"):
        score_tokens(other, [trajectory])


def record_denoise_states(model, decoder, requests, policy, monkeypatch):
    """{row: [(block, ids of the active block)]} as `model.hidden` was really called in denoise forwards.

    With a slot for each request, slot i decodes request i.
    """
    calls, hidden, forward = [], model.hidden, scheduler.Scheduler._forward
    states, size = {row: [] for row in range(len(requests))}, model.config.block_size

    def recorded(ids, positions, attend):
        calls.append((ids[0].tolist(), positions[0].tolist()))
        return hidden(ids, positions, attend)

    def with_rows(scheduler, slots_B, first_B, queries_B, span_B):
        result = forward(scheduler, slots_B, first_B, queries_B, span_B)
        ids, positions = calls[-1]
        assert len(ids) == queries_B.sum()
        for slot, end in zip(slots_B.tolist(), np.cumsum(queries_B).tolist(), strict=True):
            start = positions[end - size]
            assert start % size == 0
            if start == scheduler.rows.start[slot]:  # else it ends before the active block: prefill or commit
                states[slot].append((start // size, ids[end - size : end]))
        return result

    monkeypatch.setattr(model, "hidden", recorded)
    monkeypatch.setattr(scheduler.Scheduler, "_forward", with_rows)
    trajectories = decoder.decode(requests, policy)
    monkeypatch.undo()
    return trajectories, states


@pytest.mark.parametrize(("rows", "commit"), [(1, "fused"), (16, "fused"), (16, "separate")])
def test_training_states_are_the_decoders_inputs_forward_by_forward(rows, commit, monkeypatch):
    model = tiny_model(4)
    decoder = BlockDecoder(model, STOPS, rows=rows)
    policy = DecodePolicy(Threshold(TAU), 1.0, schedule=CACHES[commit](), seed=2, step=1)
    requests = requests_of(PROMPTS, 18)
    for group in [[r] for r in requests] if rows == 1 else [requests]:
        trajectories, states = record_denoise_states(model, decoder, group, policy, monkeypatch)
        for row, trajectory in enumerate(trajectories):
            trained = trajectory_row(trajectory, MASK_ID)
            assert len(states[row]) == trajectory.stats.denoise_forwards
            steps = np.unique(trajectory.reveal_step[: trajectory.response_len])
            expected = [states[row][step - 1] for step in steps]
            assert list(zip(trained.copy_block.tolist(), trained.copy_ids.tolist(), strict=True)) == expected
            # Forwards without a trained copy revealed only what follows the stop token.
            left_out = set(range(1, len(states[row]) + 1)) - set(steps.tolist())
            assert all((trajectory.reveal_step[: trajectory.response_len] != step).all() for step in left_out)
            everything = np.concatenate([trajectory.prompt_ids, trajectory.token_ids]).tolist()
            assert trained.clean_ids.tolist() == everything[: len(trained.clean_ids)]


def one_row_a_step(model, trajectory):
    """{response position: log-prob}: each state in a packed row of its own."""
    row, found = trajectory_row(trajectory, MASK_ID), {}
    for copy in range(len(row.copy_block)):
        packed = pack([row.part(slice(copy, copy + 1))])
        logp, _ = token_scores(model, packed, trajectory.temperature)
        for value, position in zip(logp, packed.position_n.tolist(), strict=True):
            found[position - len(trajectory.prompt_ids)] = value
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packed_likelihood_equals_a_row_a_step_and_the_naive_forwards_in_values_and_gradients(temperature):
    model = tiny_model(4, torch.float64)
    trajectories = decode(model, temperature, lengths=[1, 4, 6, 9, 8], new=14)
    weight = torch.linspace(-1, 1, sum(t.response_len for t in trajectories), dtype=torch.float64)
    order = [(row, i) for row, t in enumerate(trajectories) for i in range(t.response_len)]

    def packed():
        scores = score_tokens(model, trajectories)
        keys = list(zip(scores.row_n.tolist(), scores.position_n.tolist(), strict=True))
        assert sorted(keys) == order
        table = dict(zip(keys, scores.logp_n, strict=True))
        return torch.stack([table[key] for key in order])

    def by_row(scorer):
        tables = [scorer(model, trajectory) for trajectory in trajectories]
        return torch.stack([tables[row][i] for row, i in order])

    results = []
    for values in (packed, lambda: by_row(one_row_a_step), lambda: by_row(naive_action_log_probs)):
        model.zero_grad(set_to_none=True)
        logp = values()
        (weight * logp).sum().backward()
        results.append((logp.detach(), [p.grad.clone() for p in model.parameters()]))
    for logp, gradients in results[1:]:
        torch.testing.assert_close(logp, results[0][0], rtol=0, atol=1e-10)
        for one, other in zip(gradients, results[0][1], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    assert all(g.abs().max() > 1e-3 for g in results[0][1])
    expected = np.concatenate([t.behaviour_logp[: t.response_len] for t in trajectories])
    np.testing.assert_allclose(results[0][0].numpy(), expected, atol=1e-6)


def test_scores_do_not_depend_on_the_micro_batch():
    model = tiny_model(4, torch.float64)
    trajectories = decode(model)
    together = score_tokens(model, trajectories)
    for row in range(len(trajectories)):
        alone, mine = score_tokens(model, [trajectories[row]]), together.row_n == row
        torch.testing.assert_close(alone.logp_n, together.logp_n[mine], rtol=0, atol=1e-12)
        torch.testing.assert_close(alone.entropy_n, together.entropy_n[mine], rtol=0, atol=1e-12)
        assert torch.equal(alone.position_n, together.position_n[mine])


def test_entropy_is_that_of_the_whole_distribution():
    model = tiny_model(4, torch.float64)
    trajectories = decode(model, lengths=[5], new=6)
    row = pack([trajectory_row(trajectories[0], MASK_ID)])
    hidden = model.hidden(row.ids_1Q, row.positions_1Q, PackedBlocks(row.layout))
    table = model.log_probs(hidden[0, row.at_n]).detach().exp()
    expected = [-sum(p * np.log(p) for p in line if p > 0) for line in table.tolist()]
    scores = score_tokens(model, trajectories)
    assert scores.entropy_n.tolist() == pytest.approx(expected, abs=1e-12)
    assert not scores.entropy_n.requires_grad and scores.logp_n.requires_grad


def test_first_update_has_every_ratio_1_and_nothing_clipped():
    model = tiny_model(4)
    trajectories = decode(model, commit="separate")
    advantage = np.random.default_rng(0).normal(size=len(trajectories))
    in_nll = np.arange(len(trajectories)) % 2 == 0
    batch = Batch.build(ALGORITHM, trajectories, advantage, in_nll, model, twin(model), 5)
    for micro in batch.micro:
        ratio = (score_tokens(model, micro.trajectories).logp_n - micro.actions.old_logp_n).exp()
        torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-5)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    first = update(ALGORITHM, model, optimiser, batch, 1.0)
    assert first["ratio"] == pytest.approx(1, abs=1e-6)
    assert first["clip_fraction"] == 0 and first["skipped"] == 0
    assert first["kl"] == pytest.approx(0, abs=1e-9), "policy and base are the same"
    second = update(ALGORITHM, model, optimiser, batch, 1.0)
    assert abs(second["ratio"] - 1) > 1e-4 and second["clip_fraction"] > 0 and second["kl"] > 1e-6


def test_policy_trainer_reports_the_replay_of_every_step(trainer_of):
    trainer = trainer_of(steps=2)
    for _ in range(2):
        metrics = trainer.step().metrics
        assert metrics["updates"] == 2
        assert metrics["first_ratio"] == pytest.approx(1, abs=1e-6)
        assert metrics["first_clip_fraction"] == 0
        assert 0 < metrics["logp_gap_mean"] <= metrics["logp_gap_max"] < 1e-5
        assert abs(metrics["ratio"] - 1) > 1e-6, "the second update of a step is off-policy"
