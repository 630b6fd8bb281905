"""The choice of a checkpoint: the fastest that validation shows to be about as accurate as the base."""

import numpy as np
import pytest
import torch
from fixtures.tiny import tiny_model

from lightningrl.evaluation.intervals import bootstrap_weights, percentile_interval
from lightningrl.rl.selection import Validation, fastest, lower_bound_of_difference

PROBLEMS = 1000


def validation(right, tpf=2.0, wrong_first=True):
    """So many of the problems right; the wrong ones are the first, or the last."""
    correct = [False] * (PROBLEMS - right) + [True] * right
    return Validation(
        {"validation_accuracy_pct": 100 * right / PROBLEMS, "validation_tpf": tpf},
        correct if wrong_first else correct[::-1],
    )


def selection_of(*candidates, base=800, tolerance=1.0):
    """A base with so many problems right, then candidates of steps 1, 2, ... with (right, TPF)."""
    selection, models = fastest(tolerance), {}
    selection.start(validation(base))
    for step, figures in enumerate(candidates, 1):
        models[step] = tiny_model(step)
        selection.offer(step, validation(*figures), models[step])
    for name, tensor in models[selection.chosen["step"]].state_dict().items():
        assert torch.equal(selection.weights[name], tensor)
    return selection


@pytest.mark.parametrize(
    ("figures", "chosen"),
    [
        # 798 and 796 of the base's 800: bounds of -0.63 and -0.93 points; 794: -1.23
        ([(800, 2.0), (796, 3.0), (850, 2.5)], 2),  # the fastest within a point of the base
        ([(800, 2.0), (798, 3.0), (794, 9.0)], 2),  # 0.6 points below is not shown to be within one point
        ([(700, 9.0), (780, 3.0), (770, 4.0)], 2),  # none within: the highest bound
        ([(780, 9.0), (798, 1.0)], 2),  # one within beats any outside
        ([(800, 3.0), (900, 3.0), (800, 3.0)], 3),  # the later of equals
        ([(600, 5.0), (600, 2.0)], 2),
    ],
)
def test_selection_rule(figures, chosen):
    assert selection_of(*figures).chosen["step"] == chosen


def test_equal_accuracy_on_other_problems_is_not_shown_to_be_equal():
    """Both have 980 of 1,000 right; of the second's, 20 are ones that the base has wrong, so its interval is wide."""
    selection = selection_of((980, 2.0), (980, 3.0, False), base=980)
    same, other = (candidate["validation_difference_low_pct"] for candidate in selection.candidates)
    assert same == pytest.approx(-0.1956, abs=1e-3) and other == pytest.approx(-1.2523, abs=1e-3)
    assert selection.chosen["step"] == 1


def test_the_bound_is_the_bootstraps():
    """4,000 problems, of which so many are answered by one model only: within a tenth of the interval's half-width."""
    weights = bootstrap_weights(4000, 4000, 0)
    for gained, lost in ((0, 12), (30, 5), (40, 60), (15, 15)):
        correct, base = (np.arange(4000) < count for count in (2000 + gained, 2000))
        correct[:lost] = False
        difference = correct.astype(float) - base
        low = percentile_interval(100 * weights @ difference / 4000).low
        close = pytest.approx(low, abs=0.1 * (100 * difference.mean() - low))
        assert lower_bound_of_difference(correct.tolist(), base.tolist()) == close, (gained, lost)


def test_selected_weights_are_a_copy_that_later_training_does_not_move():
    selection, model = fastest(1.0), tiny_model()
    selection.start(validation(800))
    selection.offer(1, validation(800, 3.0), model)
    kept = model.lm_head.weight.detach().clone()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert torch.equal(selection.weights["lm_head.weight"], kept)


def test_selection_goes_on_from_its_saved_state_and_reports_every_candidate_and_the_base():
    whole, first = selection_of((800, 2.0), (799, 3.0), (800, 2.5)), selection_of((800, 2.0), (799, 3.0))
    resumed, report = fastest(1.0), whole.report()
    assert "weights" not in first.state_dict() and first.chosen_weights.step == 2, "they have a file of their own"
    resumed.load_state_dict(first.state_dict())
    resumed.take_chosen(first.chosen_weights.weights)
    resumed.offer(3, validation(800, 2.5), tiny_model(3))
    assert resumed.report() == report
    assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in whole.weights.items())
    assert [c["step"] for c in report["candidates"]] == [1, 2, 3] and report["chosen"]["step"] == 2
    assert report["base"]["validation_accuracy_pct"] == 80.0 and "at most 1 points" in report["rule"]
    assert all(c["validation_difference_low_pct"] < 0 for c in report["candidates"])
