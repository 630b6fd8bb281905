"""Which states and actions a trajectory gives: worked examples, with one copy a denoise forward."""

import numpy as np
import pytest
from fixtures.tiny import MASK_ID, trajectory_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.rl.likelihood import trajectory_row

BASE = 4
"""Prompt tokens before the response: one full block."""


def rounds(trajectory):
    """Rows [(p, mask)], p scored, in response indices: the r-th copy of every block together."""
    row, size = trajectory_row(trajectory, MASK_ID), trajectory.block_size
    rank, table = {}, {}
    for copy, block in enumerate(row.copy_block.tolist()):
        number = rank[block] = rank.get(block, 0) + 1
        p, mask = table.setdefault(number, (set(), set()))
        first = block * size - len(trajectory.prompt_ids)
        p |= {first + i for i in np.flatnonzero(row.scored[copy]).tolist()}
        mask |= {first + i for i in np.flatnonzero(row.copy_ids[copy] == MASK_ID).tolist()}
    return [table[number] for number in sorted(table)]


@pytest.mark.parametrize(
    ("reveal", "expected"),
    [
        ([1, 1, 2, 3, 4, 4, 4, 5], [({0, 1, 4, 5, 6}, set(range(8))), ({2, 7}, {2, 3, 7}), ({3}, {3})]),
        ([3, 1, 2, 1], [({1, 3}, {0, 1, 2, 3}), ({2}, {0, 2}), ({0}, {0})]),
        ([1, 1, 1, 1, 2, 2, 2, 2], [(set(range(8)), set(range(8)))]),
    ],
)
def test_rows_of_worked_examples(reveal, expected):
    assert rounds(trajectory_of(BASE, reveal)) == expected


def test_tokens_after_the_stop_token_are_masked_until_revealed_and_never_scored():
    """[1,2,1,3,4,4,5] and a tail: slot 7 is the tail after the stop token.

    Slot 7 is never in p; the masks have it as long as it was masked in the decoder (revealed at step 6).
    """
    trajectory = trajectory_of(BASE, [1, 2, 1, 3, 4, 4, 5, 6], response_len=7)
    expected = [({0, 2, 4, 5}, {0, 1, 2, 3, 4, 5, 6, 7}), ({1, 6}, {1, 3, 6, 7}), ({3}, {3})]
    assert rounds(trajectory) == expected
    early = trajectory_of(BASE, [1, 2, 1, 3, 4, 4, 5, 4], response_len=7)
    assert rounds(early)[1] == ({1, 6}, {1, 3, 6})


def test_a_forward_that_revealed_only_the_tail_has_no_copy():
    trajectory = trajectory_of(BASE, [1, 1, 2, 3], response_len=2)
    row = trajectory_row(trajectory, MASK_ID)
    assert row.copy_ids.tolist() == [[MASK_ID] * 4] and row.scored.tolist() == [[True, True, False, False]]


def test_prompt_tokens_of_the_mixed_block_are_never_masked_or_scored():
    row = trajectory_row(trajectory_of(6, [1, 2, 3, 3, 4, 3]), MASK_ID)
    assert row.copy_block.tolist() == [1, 1, 2, 2]
    assert row.copy_ids[:2].tolist() == [[4, 5, MASK_ID, MASK_ID], [4, 5, 1, MASK_ID]]
    assert row.scored[:2].tolist() == [[False, False, True, False], [False, False, False, True]]
    assert row.clean_ids.tolist() == [0, 1, 2, 3, 4, 5, 1, 2]


def test_a_prompt_shorter_than_a_block_needs_no_clean_past():
    row = trajectory_row(trajectory_of(2, [2, 1]), MASK_ID)
    assert len(row.clean_ids) == 0 and row.copy_ids.tolist() == [[0, 1, MASK_ID, MASK_ID], [0, 1, MASK_ID, 2]]


@settings(max_examples=150, deadline=None, derandomize=True)
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
    row = trajectory_row(trajectory, MASK_ID)
    everything = np.concatenate([trajectory.prompt_ids, trajectory.token_ids])
    masked, scored = row.copy_ids == MASK_ID, row.scored
    assert not (scored & ~masked).any(), "an action is masked in its state"
    at = row.copy_block[:, None] * size + np.arange(size)
    assert sorted(at[scored].tolist()) == list(range(prompt_len, prompt_len + response_len))
    assert (row.target_ids == everything[at]).all()
    assert (row.copy_ids == np.where(masked, MASK_ID, row.target_ids)).all()
    for copy, positions in enumerate(at):
        step = {reveal[p - prompt_len] for p in positions[scored[copy]]}
        assert len(step) == 1, "one forward a copy"
        expected = [p >= prompt_len and reveal[p - prompt_len] >= min(step) for p in positions]
        assert masked[copy].tolist() == expected
    assert len(row.clean_ids) == row.copy_block.max() * size
    assert row.num_tokens == len(row.clean_ids) + row.copy_ids.size
