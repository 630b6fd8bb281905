"""A trajectory too long for one forward goes through several: the same values, gradients, weights and metrics."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from fixtures.tiny import MASK_ID, make_trainer, requests_of, tiny_model, tiny_setup, trajectory_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.models import packing
from lightningrl.models.packing import ALL
from lightningrl.rl import value as value_module
from lightningrl.rl.likelihood import index_actions, score_tokens, trajectory_row
from lightningrl.rl.microbatches import cut, forwards_of
from lightningrl.rl.states import AS_DECODED, StateGrouping
from lightningrl.rl.value import score_values, value_model

BOUND = 28
"""Rows of the tiny set-up have 36 to 64 positions, 20 or 24 of them clean; copies have 4."""
FREE = {"trained_positions", "token_forwards"}
"""What is computed: the clean part once a forward."""
KEPT = {"filter_all_wrong": False, "filter_tpf_range": 0.0}
VALUE = {"learning_rate": 1e-2, "gamma": 0.9, "lam": 0.8}
VARIANTS = {
    "lightningrl": ("lightningrl", KEPT),
    "tracerl": ("tracerl", {"filter_accuracy": (0.0, 1.0), "value": VALUE}),
    "shrink": ("lightningrl", KEPT | {"shrink": 2}),
    "full mask": ("published_code", {"filter_all_wrong": False}),
    "shrink, value": ("lightningrl", KEPT | {"shrink": 2, "value": VALUE}),
}
STATES = [AS_DECODED, StateGrouping(2), StateGrouping(full_mask=True)]


@pytest.fixture(scope="module")
def rollout():
    model = tiny_model(4, torch.float64)
    return model, BlockDecoder(model, (3, 7)).decode(
        requests_of([1, 4, 6, 12, 21], 17), DecodePolicy(Threshold(0.3), 1.0)
    )


def trainer_of(folder, name, positions, **run):
    algorithm, method = VARIANTS[name]
    run |= {"algorithm": algorithm, "method": method, "steps": 3, "microbatch_positions": positions}
    setup = tiny_setup(folder, dtype=torch.float64, **run)
    with torch.no_grad():  # another base than the policy, so that the KL term has a gradient
        for parameter in setup.reference.parameters():
            parameter.mul_(0.97)
    return make_trainer(setup)


def weights_of(trainer):
    critic = trainer.algorithm.critic
    models = {"policy": trainer.setup.model} | ({"value": critic.model} if critic else {})
    return {f"{kind} {name}": p.detach().clone() for kind, m in models.items() for name, p in m.named_parameters()}


@pytest.mark.parametrize("name", VARIANTS)
def test_three_steps_give_the_same_weights_and_metrics_as_unsplit(tmp_path, name):
    """Six updates of both models in float64, most trajectories in two to five parts."""
    whole, split = trainer_of(tmp_path, name, None), trainer_of(tmp_path, name, BOUND)
    start = weights_of(split)
    for _ in range(3):
        one, two = whole.step().metrics, split.step().metrics
        assert one["updates"] == 2 and one.keys() == two.keys() and two["trained_positions"] > one["trained_positions"]
        for key in one.keys() - FREE:
            close = 1e-7 if key.endswith("clip_fraction") else 1e-10  # counted in float32
            assert two[key] == (pytest.approx(one[key], abs=close, rel=0) if isinstance(one[key], float) else one[key])
    found = weights_of(split)
    for key, tensor in weights_of(whole).items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-10)
        assert not torch.equal(start[key], tensor)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_forward_is_longer_than_the_bound_and_what_is_computed_is_reported(tmp_path, monkeypatch, name):
    """Those of the base, old log-probabilities, values, updates, and of the check of the first update."""
    computed, original = [], packing.scored_hidden

    def counting(model, packed):
        computed.append(packed.ids_1Q.shape[1] * (3 if torch.is_grad_enabled() else 1))
        assert packed.ids_1Q.shape[1] <= BOUND
        return original(model, packed)

    monkeypatch.setattr(packing, "scored_hidden", counting)
    monkeypatch.setattr(value_module, "scored_hidden", counting)
    trainer = trainer_of(tmp_path, name, BOUND)
    trainer.step()
    computed.clear()
    monkeypatch.setattr(trainer, "_logp_gap", lambda trajectories: (0.0, 0.0))  # a check, not part of the method
    metrics = trainer.step().metrics
    assert sum(computed) == trainer.forwards_a_position * metrics["trained_positions"]


@pytest.mark.parametrize("states", STATES, ids=str)
@pytest.mark.parametrize("score", ["tokens", "values"])
def test_parts_have_the_values_and_the_gradient_of_the_whole(rollout, states, score):
    """One trajectory at a time, in parts of every size: one behind the other they are the whole."""
    policy, trajectories = rollout
    model = value_model(policy)
    with torch.no_grad():
        model.lm_head.weight.copy_(policy.lm_head.weight[:1])
    model = policy if score == "tokens" else model

    def scored(trajectory, copies):
        if score == "values":
            return score_values(model, [trajectory], states, copies)
        return score_tokens(model, [trajectory], states, copies).logp_n

    parts_seen = set()
    for trajectory in trajectories:
        row = trajectory_row(trajectory, MASK_ID, states)
        whole_n = scored(trajectory, ALL)
        weight_n = torch.arange(1, len(whole_n) + 1, dtype=torch.float64)
        gradient = torch.autograd.grad((whole_n * weight_n).sum(), list(model.parameters()))
        for positions in range(4, row.num_tokens, 8):
            found, start = [torch.zeros_like(g) for g in gradient], 0
            for copies in row.split(positions):
                part_n = scored(trajectory, copies)
                mine = slice(start, start + len(part_n))
                torch.testing.assert_close(part_n, whole_n[mine], rtol=0, atol=1e-10)
                parts = torch.autograd.grad((part_n * weight_n[mine]).sum(), list(model.parameters()))
                found, start = [f + g for f, g in zip(found, parts, strict=True)], mine.stop
            assert start == len(whole_n)
            for f, g in zip(found, gradient, strict=True):
                torch.testing.assert_close(f, g, rtol=0, atol=1e-10)
            parts_seen.add(len(row.split(positions)))
    assert {2, 3, 4} <= parts_seen


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    prompt_len=st.integers(1, 9),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=5),
    positions=st.integers(1, 60),
    states=st.sampled_from(STATES),
)
def test_parts_hold_every_copy_once_with_the_clean_blocks_it_sees(prompt_len, seeds, positions, states):
    """Consecutive, none longer than the bound unless of one copy, and none could take the next part's first copy."""
    reveal, done = [], 0
    for number, seed in enumerate(seeds):
        width = 4 - prompt_len % 4 if number == 0 else 4
        ranks = np.unique(np.random.default_rng(seed).integers(0, 4, width), return_inverse=True)[1]
        reveal, done = [*reveal, *(done + 1 + ranks)], done + 1 + ranks.max()
    trajectory = trajectory_of(prompt_len, reveal)
    row = trajectory_row(trajectory, MASK_ID, states)
    parts = row.split(positions)
    assert parts == [ALL] if row.num_tokens <= positions or len(row.copy_block) == 1 else len(parts) > 1
    held = [np.arange(len(row.copy_block))[part] for part in parts]
    assert np.concatenate(held).tolist() == list(range(len(row.copy_block)))
    for part, copies in zip(parts, held, strict=True):
        piece = row.part(part)
        assert piece.clean_ids.tolist() == row.clean_ids[: row.copy_block[copies].max() * 4].tolist()
        assert piece.num_tokens <= positions or len(copies) == 1
        for name in ("copy_block", "copy_ids", "target_ids", "scored"):
            assert (getattr(piece, name) == getattr(row, name)[copies]).all()
    for one, two in itertools.pairwise(held):
        assert row.part(slice(one[0], two[0] + 1)).num_tokens > positions
    indices = [index_actions([trajectory], states, part) for part in parts]
    whole = index_actions([trajectory], states)
    for name in ("row_n", "state_n", "position_n"):
        assert torch.equal(torch.cat([getattr(index, name) for index in indices]), getattr(whole, name))


def test_a_clean_part_over_the_bound_goes_with_one_copy_a_forward():
    """Two full blocks of prompt: every part has 8 clean positions and 4, at any bound below 16."""
    row = trajectory_row(trajectory_of(8, [1, 2, 3, 4]), MASK_ID)
    for positions in (1, 12, 15):
        assert row.split(positions) == [slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4)]
    assert row.split(16) == [slice(0, 2), slice(2, 4)] and row.split(24) == [ALL]


def test_only_what_is_too_long_is_split_and_the_rest_shares_forwards():
    """Costs 8, 8, 24 at a bound of 16: the first two together, the third in its two parts."""
    trajectories = [trajectory_of(8, [1, 2, 3, 4]), trajectory_of(4, [1, 1, 1, 1]), trajectory_of(4, [1, 1, 1, 1])]
    found = forwards_of(trajectories, AS_DECODED, 4, 16, by_cost=True)
    assert [(f.index_B.tolist(), f.copies, f.positions) for f in found] == [
        ([1, 2], ALL, 16), ([0], slice(0, 2), 16), ([0], slice(2, 4), 16)
    ]  # fmt: skip
    found = forwards_of(trajectories, AS_DECODED, 4, None, by_cost=False)
    assert [(f.index_B.tolist(), f.copies, f.positions) for f in found] == [([0, 1, 2], ALL, 40)]


def test_the_tiny_rows_are_split_into_two_to_five_parts(tmp_path):
    """So that the tests here say something: at most one a batch is whole, or in six."""
    for name, states in (
        ("lightningrl", AS_DECODED),
        ("shrink", StateGrouping(2)),
        ("full mask", StateGrouping(full_mask=True)),
    ):
        kept = trainer_of(tmp_path, name, BOUND)._draw(1)[0].sampled.trajectories
        parts = Counter(int(f.index_B[0]) for f in forwards_of(kept, states, 5, BOUND, by_cost=True))
        counts = sorted(parts.values())
        assert len(counts) == len(kept) and counts[1] >= 2 and counts[-2] <= 5


def test_a_bound_that_splits_nothing_changes_no_bit(tmp_path):
    rows = [trainer_of(tmp_path, "tracerl", positions).step().metrics for positions in (None, 10_000)]
    assert rows[0] == rows[1]


def test_micro_batches_are_cut_by_positions_too():
    """Costs 3, 3, 4, 9 in order: at most two trajectories, at most seven positions; a longer one goes alone."""
    order, costs = np.array([1, 0, 3, 2]), [3, 3, 9, 4]
    assert [p.tolist() for p in cut(order, costs, 2, 7)] == [[1, 0], [3], [2]]
    assert [p.tolist() for p in cut(order, costs, 3, None)] == [[1, 0, 3], [2]]
    assert [p.tolist() for p in cut(order, costs, 9, 10)] == [[1, 0, 3], [2]]
    assert [p.tolist() for p in cut(order, costs, 9, 1)] == [[1], [0], [3], [2]]
