"""The threshold selector: worked examples and laws."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.decoding.proposals import Proposals
from lightningrl.decoding.selectors.threshold import Threshold


def select(selector, confidence, masked):
    """One choice by confidence, at the first step of the block."""
    score = confidence.masked_fill(~masked, -torch.inf)
    entropy, step = torch.zeros_like(confidence), torch.zeros(len(masked), dtype=torch.int64)
    return selector.select(Proposals(masked, confidence, entropy, score, step))


def reveal_steps(confidences_by_step, tau):
    """Run one block to its end; the last row of confidences is repeated as needed."""
    size = len(confidences_by_step[0])
    masked, steps, number = torch.ones(1, size, dtype=torch.bool), [0] * size, 0
    while masked.any():
        row = confidences_by_step[min(number, len(confidences_by_step) - 1)]
        number += 1
        chosen = select(Threshold(tau), torch.tensor([row], dtype=torch.float64), masked)
        for position in chosen[0].nonzero().flatten().tolist():
            steps[position] = number
        masked &= ~chosen
    return steps


def test_strict_comparison_oracle():
    """phi 0.9, confidences [.95,.90,.40,.91], then [.,.92,.30,.], then [.,.,.20,.]: `>` gives [1,2,3,1]."""
    rows = [[0.95, 0.90, 0.40, 0.91], [0.0, 0.92, 0.30, 0.0], [0.0, 0.0, 0.20, 0.0]]
    assert reveal_steps(rows, 0.9) == [1, 2, 3, 1]


def test_argmax_fallback_oracle():
    """All below phi, constant [.5,.6,.3,.2]: the most confident first, not the left-most: [2,1,3,4]."""
    assert reveal_steps([[0.5, 0.6, 0.3, 0.2]], 0.9) == [2, 1, 3, 4]


def test_a_revealed_position_is_not_chosen_again_however_confident():
    masked = torch.tensor([[False, True, True, False]])
    chosen = select(Threshold(0.5), torch.tensor([[0.99, 0.1, 0.2, 0.99]]), masked)
    assert chosen.tolist() == [[False, False, True, False]]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_selection_is_what_exceeds_tau_or_one_position_and_grows_as_tau_falls(data):
    rows, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
    unit, flag = st.floats(0, 1, width=32), st.booleans()
    table = lambda of: data.draw(st.lists(st.lists(of, min_size=size, max_size=size), min_size=rows, max_size=rows))  # noqa: E731
    confidence, masked = torch.tensor(table(unit)), torch.tensor(table(flag))
    low, high = sorted((data.draw(unit), data.draw(unit)))
    chosen_low, chosen_high = (select(Threshold(tau), confidence, masked) for tau in (low, high))
    assert not (chosen_high & ~chosen_low).any(), "a lower threshold reveals no less"
    for row in range(rows):
        over = [masked[row, i] and confidence[row, i] > torch.tensor(high) for i in range(size)]
        expected = [bool(v) for v in over]
        if not any(over) and masked[row].any():
            best = max(confidence[row, i].item() for i in range(size) if masked[row, i])
            assert chosen_high[row].sum() == 1 and masked[row][chosen_high[row]].all()
            assert confidence[row][chosen_high[row]].item() == best
        else:
            assert chosen_high[row].tolist() == expected
