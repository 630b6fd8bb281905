"""Which states a trajectory is trained in: those that happened, merged ones, fully masked ones."""

import numpy as np
import pytest
import torch
from fixtures.naive import Masked, dense_block_mask
from fixtures.tiny import MASK_ID, make_trainer, requests_of, tiny_model, tiny_setup, trajectory_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.rl.likelihood import score_tokens, trajectory_row
from lightningrl.rl.states import AS_DECODED, StateGrouping


def actions(reveal, states, prompt_len=4, **more):
    """Of each state: the scored positions of the response, and the masked ones."""
    row = trajectory_row(trajectory_of(prompt_len, reveal, **more), MASK_ID, states)
    found = []
    for block, ids_K, scored_K in zip(row.copy_block, row.copy_ids, row.scored, strict=True):
        position_K = block * 4 + np.arange(4) - prompt_len
        found.append((position_K[scored_K].tolist(), position_K[ids_K == MASK_ID].tolist()))
    return found


@pytest.mark.parametrize(
    ("reveal", "shrink", "merged"),
    [
        ([1, 1, 2, 3], 2, [2, 2, 2, 3]),
        ([1, 2, 3, 4], 4, [4, 4, 4, 4]),
        ([2, 3, 1, 4], 2, [2, 4, 2, 4]),
        ([1, 2, 3, 4], 3, [3, 3, 3, 4]),
        ([1, 1, 1, 1], 3, [1, 1, 1, 1]),
    ],
)
def test_shrink_is_tracerls_collapse(reveal, shrink, merged):
    """Distinct steps in runs of `shrink`, each replaced by its run's largest: as if that had been revealed."""
    assert actions(reveal, StateGrouping(shrink)) == actions_of_steps(merged)


def actions_of_steps(merged):
    """By definition (METHOD's rounds): the state of step m scores == m and masks >= m."""
    steps = sorted(set(merged))
    return [([p for p, s in enumerate(merged) if s == m], [p for p, s in enumerate(merged) if s >= m]) for m in steps]


def test_shrink_counts_in_each_block_anew():
    """Blocks [1, 2, 3, 3] and [4, 5, 6, 7]: runs of two are {1, 2} {3} and {4, 5} {6, 7}."""
    found = actions([1, 2, 3, 3, 4, 5, 6, 7], StateGrouping(2))
    assert [scored for scored, _ in found] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_full_mask_is_one_state_a_block_with_every_decoded_position_masked():
    """The published code's rows; prompt tokens of the mixed block stay."""
    found = actions([1, 2, 3, 3, 4, 5], StateGrouping(full_mask=True), prompt_len=6, response_len=4)
    assert found == [([0, 1], [0, 1]), ([2, 3], [2, 3, 4, 5])]


def test_full_mask_equals_what_happened_iff_every_block_took_one_step():
    one = [1, 1, 1, 1, 2, 2, 2, 2]
    assert actions(one, StateGrouping(full_mask=True)) == actions(one, AS_DECODED)
    assert actions([1, 2, 2, 2], StateGrouping(full_mask=True)) != actions([1, 2, 2, 2], AS_DECODED)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 4), min_size=4, max_size=4), st.integers(1, 5), st.integers(1, 4))
def test_every_token_is_scored_once_whatever_the_states(steps, shrink, response_len):
    """And what is scored is masked."""
    reveal = np.unique(steps, return_inverse=True)[1] + 1
    for states in (AS_DECODED, StateGrouping(shrink), StateGrouping(full_mask=True)):
        found = actions(reveal, states, response_len=response_len)
        assert sorted(p for scored, _ in found for p in scored) == list(range(response_len))
        assert all(set(scored) <= set(masked) for scored, masked in found)


def test_a_tail_token_is_masked_in_a_merged_state_only_if_it_was_not_there_yet():
    """Response steps 1, 3 (positions 0, 1), tail steps 2 and 4: merged state of {1, 3} begins before all of them."""
    assert actions([1, 3, 2, 4], StateGrouping(2), response_len=2) == [([0, 1], [0, 1, 2, 3])]
    assert actions([2, 3, 1, 4], StateGrouping(2), response_len=2) == [([0, 1], [0, 1, 3])], (
        "the tail's first was there"
    )


def test_likelihood_of_merged_states_is_a_plain_forward_over_each():
    """float64, 1e-10: one block-causal forward a state, the block's masks as the definition has them."""
    model = tiny_model(5, torch.float64)
    trajectories = BlockDecoder(model, (3, 7)).decode(requests_of([3, 5, 8], 11), DecodePolicy(Threshold(0.3), 1.0))
    for states in (StateGrouping(2), StateGrouping(3), StateGrouping(full_mask=True)):
        scores = score_tokens(model, trajectories, states)
        for number, trajectory in enumerate(trajectories):
            mine = (scores.row_n == number).nonzero().squeeze(-1)
            row = trajectory_row(trajectory, MASK_ID, states)
            ids = np.concatenate([trajectory.prompt_ids, trajectory.token_ids])
            found = {}
            for block, copy_K, target_K, scored_K in zip(
                row.copy_block, row.copy_ids, row.target_ids, row.scored, strict=True
            ):
                state = torch.from_numpy(np.concatenate([ids[: block * 4], copy_K]))[None]
                attend = Masked(dense_block_mask(state.shape[1], 4)[None, None])
                hidden = model.hidden(state, torch.arange(state.shape[1])[None], attend)
                logp_KV = model.log_probs(hidden[0, -4:])
                for column in np.flatnonzero(scored_K):
                    position = block * 4 + column - len(trajectory.prompt_ids)
                    found[int(position)] = logp_KV[column, target_K[column]].item()
            for index in mine.tolist():
                assert scores.logp_n[index].item() == pytest.approx(found[int(scores.position_n[index])], abs=1e-10)


@pytest.mark.parametrize(("algorithm", "method"), [("lightningrl", {"shrink": 2}), ("published_code", {})])
def test_old_log_probs_of_other_states_are_the_policys_in_those_states(tmp_path, algorithm, method):
    """So the first update's ratio is 1, which the decoder's own would not give."""
    trainer = make_trainer(tiny_setup(tmp_path, algorithm=algorithm, method=method, updates=1))
    metrics = trainer.step().metrics
    assert metrics["first_ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["logp_gap_mean"] < 1e-4, "which is measured in the states that happened"


def test_published_rows_are_not_the_trajectorys_likelihood(tmp_path):
    """What full masking is off by, nats a token: far from the 1e-6 by which decoder and trainer agree."""
    setup = tiny_setup(tmp_path, algorithm="published_code", threshold=0.3)
    trainer = make_trainer(setup)
    trajectories = trainer._draw(1)[0].sampled.trajectories
    gap = (score_tokens(setup.model, trajectories).logp_n.mean()
           - score_tokens(setup.model, trajectories, trainer.algorithm.states).logp_n.mean()).abs()  # fmt: skip
    assert float(gap) > 1e-3
