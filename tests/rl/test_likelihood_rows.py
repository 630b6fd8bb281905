"""Which states and actions a trajectory gives: those that happened, merged ones, fully masked ones."""

import numpy as np
import pytest
import torch
from fixtures.naive import Masked, dense_block_mask
from fixtures.tiny import MASK_ID, trajectory_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.rl.algorithm import AS_DECODED, StateGrouping
from lightningrl.rl.likelihood import index_actions, score_tokens, trajectory_row

FULL = StateGrouping(full_mask=True)


def actions(prompt_len, reveal, response_len=None, states=AS_DECODED):
    """Of each state: the scored positions of the response, and the masked ones."""
    row = trajectory_row(trajectory_of(prompt_len, reveal, response_len=response_len), MASK_ID, states)
    found = []
    for block, ids_K, scored_K in zip(row.copy_block, row.copy_ids, row.scored, strict=True):
        position_K = block * 4 + np.arange(4) - prompt_len
        found.append((position_K[scored_K].tolist(), position_K[ids_K == MASK_ID].tolist()))
    return found


@pytest.mark.parametrize(
    ("prompt_len", "reveal", "expected"),
    [
        (4, [1, 1, 2, 3, 4, 4, 4, 5],
         [([0, 1], [0, 1, 2, 3]), ([2], [2, 3]), ([3], [3]), ([4, 5, 6], [4, 5, 6, 7]), ([7], [7])]),
        (4, [3, 1, 2, 1], [([1, 3], [0, 1, 2, 3]), ([2], [0, 2]), ([0], [0])]),
        (4, [1, 1, 1, 1, 2, 2, 2, 2], [([0, 1, 2, 3], [0, 1, 2, 3]), ([4, 5, 6, 7], [4, 5, 6, 7])]),
        (2, [2, 1], [([1], [0, 1]), ([0], [0])]),  # shorter than a block
    ],
)  # fmt: skip
def test_rows_of_worked_examples(prompt_len, reveal, expected):
    assert actions(prompt_len, reveal) == expected


def test_tokens_after_the_stop_token_are_masked_until_revealed_and_never_scored():
    """Slot 7 is the tail after the stop token: revealed at step 6 it is masked in both states of its block, at step 4
    only in the first. A forward that revealed nothing but the tail has no state, however the others are merged."""
    late, early = ([1, 2, 1, 3, 4, 4, 5, step] for step in (6, 4))
    assert actions(4, late, 7)[3:] == [([4, 5], [4, 5, 6, 7]), ([6], [6, 7])]
    assert actions(4, early, 7)[3:] == [([4, 5], [4, 5, 6, 7]), ([6], [6])]
    assert actions(4, [1, 1, 2, 3], 2) == [([0, 1], [0, 1, 2, 3])]
    assert actions(4, [1, 3, 2, 4], 2, StateGrouping(2)) == [([0, 1], [0, 1, 2, 3])]
    assert actions(4, [2, 3, 1, 4], 2, StateGrouping(2)) == [([0, 1], [0, 1, 3])], "the tail's first was there"
    index = index_actions([trajectory_of(2, [1, 2, 3, 3, 4, 4], response_len=4)])
    assert [index.row_n.tolist(), index.state_n.tolist()] == [[0] * 4, [0, 1, 2, 2]], "the tail has no step of its own"
    assert index.position_n.tolist() == [0, 1, 2, 3]


def test_prompt_tokens_of_the_mixed_block_are_never_masked_or_scored():
    row = trajectory_row(trajectory_of(6, [1, 2, 3, 3, 4, 3]), MASK_ID)
    assert row.copy_block.tolist() == [1, 1, 2, 2]
    assert row.copy_ids[:2].tolist() == [[4, 5, MASK_ID, MASK_ID], [4, 5, 1, MASK_ID]]
    assert row.scored[:2].tolist() == [[False, False, True, False], [False, False, False, True]]
    assert row.clean_ids.tolist() == [0, 1, 2, 3, 4, 5, 1, 2]


@pytest.mark.parametrize(
    ("reveal", "shrink", "merged"),
    [
        ([1, 1, 2, 3], 2, [2, 2, 2, 3]),
        ([1, 2, 3, 4], 4, [4, 4, 4, 4]),
        ([2, 3, 1, 4], 2, [2, 4, 2, 4]),
        ([1, 2, 3, 4], 3, [3, 3, 3, 4]),
        ([1, 1, 1, 1], 3, [1, 1, 1, 1]),
        ([1, 2, 3, 3, 4, 5, 6, 7], 2, [2, 2, 3, 3, 5, 5, 7, 7]),  # counted in each block anew
    ],
)
def test_shrink_is_tracerls_collapse(reveal, shrink, merged):
    """Distinct steps in runs of `shrink`, each replaced by its run's largest, as if that had been revealed: the state
    of step m scores == m and masks what its block has >= m."""
    expected = []
    for step in sorted(set(merged)):
        block = merged.index(step) // 4 * 4
        own = range(block, block + 4)
        expected.append(([p for p in own if merged[p] == step], [p for p in own if merged[p] >= step]))
    assert actions(4, reveal, states=StateGrouping(shrink)) == expected


def test_full_mask_is_one_state_a_block_with_every_decoded_position_masked():
    """The published code's rows; prompt tokens of the mixed block stay. It is what happened iff that was one step."""
    assert actions(6, [1, 2, 3, 3, 4, 5], 4, FULL) == [([0, 1], [0, 1]), ([2, 3], [2, 3, 4, 5])]
    assert actions(4, [1, 1, 1, 1, 2, 2, 2, 2], states=FULL) == actions(4, [1, 1, 1, 1, 2, 2, 2, 2])
    assert actions(4, [1, 2, 2, 2], states=FULL) != actions(4, [1, 2, 2, 2])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_token_of_the_response_is_scored_once_in_a_state_that_masks_it(data):
    size = data.draw(st.integers(1, 5))
    prompt_len, blocks = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    total = (prompt_len // size + blocks) * size - prompt_len
    reveal, done = [], 0
    for end in range((prompt_len // size + 1) * size, prompt_len + total + 1, size):
        width = end - max(end - size, prompt_len)
        ranks = data.draw(st.lists(st.integers(1, width), min_size=width, max_size=width))
        dense = {rank: i + 1 for i, rank in enumerate(sorted(set(ranks)))}
        reveal += [done + dense[rank] for rank in ranks]
        done += len(dense)
    last = prompt_len + total - size
    response_len = data.draw(st.integers(max(1, last - prompt_len + 1), total))
    trajectory = trajectory_of(prompt_len, reveal, block_size=size, response_len=response_len)
    everything = np.concatenate([trajectory.prompt_ids, trajectory.token_ids])
    for states in (AS_DECODED, StateGrouping(data.draw(st.integers(1, 5))), FULL):
        row = trajectory_row(trajectory, MASK_ID, states)
        masked, at = row.copy_ids == MASK_ID, row.copy_block[:, None] * size + np.arange(size)
        assert not (row.scored & ~masked).any(), "an action is masked in its state"
        assert sorted(at[row.scored].tolist()) == list(range(prompt_len, prompt_len + response_len))
        assert (row.target_ids == everything[at]).all()
        assert (row.copy_ids == np.where(masked, MASK_ID, row.target_ids)).all()
        assert len(row.clean_ids) == row.copy_block.max() * size
        assert row.num_tokens == len(row.clean_ids) + row.copy_ids.size
    row = trajectory_row(trajectory, MASK_ID)
    for copy, positions in enumerate(row.copy_block[:, None] * size + np.arange(size)):
        [step] = {reveal[p - prompt_len] for p in positions[row.scored[copy]]}  # one forward a copy
        expected = [p >= prompt_len and reveal[p - prompt_len] >= step for p in positions]
        assert (row.copy_ids[copy] == MASK_ID).tolist() == expected


def test_likelihood_of_merged_states_is_a_plain_forward_over_each(rollout):
    """float64, 1e-10: one block-causal forward a state, the block's masks as the definition has them."""
    model, _, trajectories, *_ = rollout
    trajectories = trajectories[:5]
    for states in (StateGrouping(2), StateGrouping(3), FULL):
        scores, found = score_tokens(model, trajectories, states), {}
        for number, trajectory in enumerate(trajectories):
            row = trajectory_row(trajectory, MASK_ID, states)
            ids = np.concatenate([trajectory.prompt_ids, trajectory.token_ids])
            for block, copy_K, target_K, scored_K in zip(
                row.copy_block, row.copy_ids, row.target_ids, row.scored, strict=True
            ):
                state = torch.from_numpy(np.concatenate([ids[: block * 4], copy_K]))[None]
                attend = Masked(dense_block_mask(state.shape[1], 4)[None, None])
                hidden = model.hidden(state, torch.arange(state.shape[1])[None], attend)
                logp_KV = model.log_probs(hidden[0, -4:])
                for column in np.flatnonzero(scored_K).tolist():
                    place = number, int(block * 4 + column - len(trajectory.prompt_ids))
                    found[place] = logp_KV[column, target_K[column]].item()
        places = zip(scores.row_n.tolist(), scores.position_n.tolist(), strict=True)
        assert dict(zip(places, scores.logp_n.tolist(), strict=True)) == pytest.approx(found, abs=1e-10)


@pytest.mark.parametrize(("algorithm", "method"), [("lightningrl", {"shrink": 2}), ("published_code", {})])
def test_old_log_probs_of_other_states_are_the_policys_in_those_states(trainer_of, algorithm, method):
    """So the first update's ratio is 1, which the decoder's own would not give: they are far from the 1e-6 nats by
    which decoder and trainer agree."""
    trainer = trainer_of(algorithm=algorithm, method=method, updates=1, threshold=0.3)
    model, trajectories = trainer.model, trainer._draw(1).sampled.trajectories
    means = [score_tokens(model, trajectories, s).logp_n.mean() for s in (AS_DECODED, trainer.algorithm.states)]
    assert abs((means[0] - means[1]).item()) > 1e-3
    metrics = trainer_of(algorithm=algorithm, method=method, updates=1).step().metrics
    assert metrics["first_ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["logp_gap_mean"] < 1e-4, "which is measured in the states that happened"
