"""A trajectory too long for one forward goes through several: the same values, gradients, weights and metrics."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from fixtures.tiny import MASK_ID, make_trainer, tiny_setup, trajectory_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.models import packing
from lightningrl.models.packing import ALL
from lightningrl.rl import value as value_module
from lightningrl.rl.algorithm import AS_DECODED, StateGrouping
from lightningrl.rl.likelihood import index_actions, score_tokens, trajectory_row
from lightningrl.rl.update import cut, forwards_of
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
    "full mask": ("published_code", {"filter_all_wrong": False}),
    "shrink, value": ("lightningrl", KEPT | {"shrink": 2, "value": VALUE}),
}
STATES = [AS_DECODED, StateGrouping(2), StateGrouping(full_mask=True)]


@pytest.fixture
def variant(folder):
    def make(name, positions, **run):
        algorithm, method = VARIANTS[name]
        run |= {"algorithm": algorithm, "method": method, "steps": 2, "microbatch_positions": positions}
        setup = tiny_setup(folder, dtype=torch.float64, **run)
        with torch.no_grad():  # another base than the policy, so that the KL term has a gradient
            for parameter in setup.reference.parameters():
                parameter.mul_(0.97)
        return make_trainer(setup)

    return make


def weights_of(trainer):
    critic = trainer.algorithm.critic
    models = {"policy": trainer.model} | ({"value": critic.model} if critic else {})
    return {f"{kind} {name}": p.detach().clone() for kind, m in models.items() for name, p in m.named_parameters()}


@pytest.mark.parametrize("name", VARIANTS)
def test_steps_give_the_same_weights_and_metrics_as_unsplit(variant, monkeypatch, name):
    """Four updates of both models in float64, most trajectories in two to five parts; and no forward is longer than the
    bound: those of the base, old log-probabilities, values, updates, and of the check of the first update."""
    whole, split = variant(name, None), variant(name, BOUND)
    start, original = weights_of(split), packing.scored_hidden
    rows = [whole.step().metrics for _ in range(2)]

    def bounded(model, packed):
        assert packed.ids_1Q.shape[1] <= BOUND
        return original(model, packed)

    monkeypatch.setattr(packing, "scored_hidden", bounded)
    monkeypatch.setattr(value_module, "scored_hidden", bounded)
    for one in rows:
        two = split.step().metrics
        assert one["updates"] == 2 and one.keys() == two.keys() and two["trained_positions"] > one["trained_positions"]
        for key in one.keys() - FREE:
            close = 1e-7 if key.endswith("clip_fraction") else 1e-10  # counted in float32
            assert two[key] == (pytest.approx(one[key], abs=close, rel=0) if isinstance(one[key], float) else one[key])
    found = weights_of(split)
    for key, tensor in weights_of(whole).items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-10)
        assert not torch.equal(start[key], tensor)


@pytest.mark.parametrize("states", STATES, ids=str)
@pytest.mark.parametrize("score", ["tokens", "values"])
def test_parts_have_the_values_and_the_gradient_of_the_whole(rollout, states, score):
    """One trajectory at a time, in parts of every size: one behind the other they are the whole."""
    policy, _, trajectories, *_ = rollout
    model = value_model(policy) if score == "values" else policy
    if score == "values":
        with torch.no_grad():
            model.lm_head.weight.copy_(policy.lm_head.weight[:1])

    def scored(trajectory, copies):
        if score == "values":
            return score_values(model, [trajectory], states, copies)
        return score_tokens(model, [trajectory], states, copies).logp_n

    parts_seen = set()
    for trajectory in [trajectories[number] for number in (0, 3, 5, 10)]:
        row = trajectory_row(trajectory, MASK_ID, states)
        whole_n = scored(trajectory, ALL)
        weight_n = torch.arange(1, len(whole_n) + 1, dtype=torch.float64)
        gradient = torch.autograd.grad((whole_n * weight_n).sum(), list(model.parameters()))
        for positions in range(4, row.num_tokens, 12):
            parts = row.split(positions)
            found_n = torch.cat([scored(trajectory, copies) for copies in parts])
            torch.testing.assert_close(found_n, whole_n, rtol=0, atol=1e-10)
            of_parts = torch.autograd.grad((found_n * weight_n).sum(), list(model.parameters()))
            torch.testing.assert_close(of_parts, gradient, rtol=0, atol=1e-10)
            parts_seen.add(len(parts))
    assert len(parts_seen - {1}) > 1


@settings(max_examples=60, deadline=None, derandomize=True)
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


def test_only_what_is_too_long_is_split_and_the_rest_shares_forwards():
    """Costs 8, 8, 24 at a bound of 16: the first two together, the third in its two parts. A clean part over the bound
    goes with one copy a forward: two full blocks of prompt are 8 positions, and a copy 4."""
    trajectories = [trajectory_of(8, [1, 2, 3, 4]), trajectory_of(4, [1, 1, 1, 1]), trajectory_of(4, [1, 1, 1, 1])]
    found = forwards_of(trajectories, AS_DECODED, 4, 16, by_cost=True)
    assert [(f.index_B.tolist(), f.copies, f.positions) for f in found] == [
        ([1, 2], ALL, 16), ([0], slice(0, 2), 16), ([0], slice(2, 4), 16)
    ]  # fmt: skip
    found = forwards_of(trajectories, AS_DECODED, 4, None, by_cost=False)
    assert [(f.index_B.tolist(), f.copies, f.positions) for f in found] == [([0, 1, 2], ALL, 40)]
    row = trajectory_row(trajectories[0], MASK_ID)
    for positions in (1, 12, 15):
        assert row.split(positions) == [slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4)]
    assert row.split(24) == [ALL]


def test_the_tiny_rows_are_split_into_two_to_five_parts(variant):
    """So that the tests here say something: at most one a batch is whole, or in six."""
    for name, states in (("lightningrl", AS_DECODED), ("shrink, value", STATES[1]), ("full mask", STATES[2])):
        kept = variant(name, BOUND)._draw(1).sampled.trajectories
        parts = Counter(int(f.index_B[0]) for f in forwards_of(kept, states, 5, BOUND, by_cost=True))
        counts = sorted(parts.values())
        assert len(counts) == len(kept) and counts[1] >= 2 and counts[-2] <= 5


def test_a_bound_that_splits_nothing_changes_no_bit(variant):
    rows = [variant("tracerl", positions).step().metrics for positions in (None, 10_000)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("size", "positions", "pieces"),
    [(2, 7, [[1, 0], [3], [2]]), (3, 99, [[1, 0, 3], [2]]), (9, 10, [[1, 0, 3], [2]]), (9, 1, [[1], [0], [3], [2]])],
)
def test_micro_batches_are_cut_by_trajectories_and_by_positions(size, positions, pieces):
    """Costs 3, 3, 4, 9 in order; a longer one than the bound goes alone."""
    assert [p.tolist() for p in cut(np.array([1, 0, 3, 2]), [3, 3, 9, 4], size, positions)] == pieces
