"""Our AUP is the published one: Table 2 recomputed from the leaderboard's points, and the cells that cannot be."""

import pytest

from lightningrl.evaluation.aup import aup
from lightningrl.report.published.leaderboard import METHODS, leaderboard, table_2

CELLS = {(cell.model, cell.benchmark): cell for cell in table_2()}
TASKS = ("GSM8K", "MATH500", "MBPP", "HumanEval")
NO_POINTS = {(model, task) for model in ("SDAR-8B-b32", "LightningRL-8B-b32") for task in TASKS}
"""Neither model is on the leaderboard: (acc, TPF, AUP) are the paper's own, its sweep's points are not published."""
OTHER_POINTS = {
    # cell: (what Table 2 prints, what the leaderboard has) as (TPF, accuracy)
    ("LLaDA", "MBPP"): ((1.0, 47.1), (1.0, 41.72)),
    ("D2F-LLaDA", "GSM8K"): ((2.88, 73.2), (2.88, 74.39)),
    ("D2F-LLaDA", "MATH500"): ((2.38, 28.7), (2.66, 28.94)),
    ("D2F-LLaDA", "MBPP"): ((1.94, 38.0), (2.13, 39.0)),
    ("Fast-dLLM-v2", "GSM8K"): ((2.21, 77.5), (2.21, 81.48)),
    ("Fast-dLLM-v2", "MBPP"): ((2.04, 50.1), (2.04, 59.12)),
}
"""Presumably copied from an older version of the leaderboard (LLaDA on MBPP: from where, we do not know)."""


def test_table_2_has_56_cells():
    assert len(CELLS) == 56 and {benchmark for _, benchmark in CELLS} == set(TASKS)
    assert set(METHODS) == {model for model, _ in CELLS} - {"SDAR-8B-b32", "LightningRL-8B-b32"}


def test_42_of_56_published_aups_are_reproduced_and_the_14_others_are_known():
    assert {cell for cell, found in CELLS.items() if not found.reproduced} == NO_POINTS | set(OTHER_POINTS)
    assert sum(found.reproduced for found in CELLS.values()) == 42


@pytest.mark.parametrize("cell", sorted(OTHER_POINTS), ids="/".join)
def test_a_cell_that_differs_prints_another_point_than_the_leaderboard(cell):
    found = CELLS[cell]
    printed, listed = OTHER_POINTS[cell]
    assert ((found.tpf, found.accuracy_pct), found.points[-1]) == (printed, listed)
    assert found.prints_other_point


def test_cells_whose_printed_point_is_not_the_leaderboards_are_these():
    """The two more than OTHER_POINTS have the leaderboard's AUP beside an accuracy that is not its own."""
    differ = {cell for cell, found in CELLS.items() if found.points and found.prints_other_point}
    assert differ == set(OTHER_POINTS) | {("D2F-LLaDA", "HumanEval"), ("Qwen-2.5-7B-Instruct", "MATH500")}


@pytest.mark.parametrize("cell", sorted(NO_POINTS), ids="/".join)
def test_sdar_and_lightningrl_have_no_points(cell):
    assert CELLS[cell].points == () and CELLS[cell].recomputed is None and not CELLS[cell].reproduced


def test_lightningrls_math500_is_more_than_a_flat_curve_at_its_printed_accuracy():
    """With W <= 1 a curve that never exceeds 63.0 % has at most TPF x accuracy = 6.28 x 63.0 = 395.64 < 407.5."""
    found = CELLS["LightningRL-8B-b32", "MATH500"]
    ceiling = aup([(1.0, found.accuracy_pct), (found.tpf, found.accuracy_pct)], y_max=found.accuracy_pct)
    assert ceiling == pytest.approx(395.64) and found.aup == 407.5 > ceiling


def test_a_cell_by_hand():
    """d3LLM-LLaDA, GSM8K: y_max 74.98 (D2F at TPF 1), f(74.02) = 71.23, f(73.09) = 67.77 (W = e^(-3(1 - y/y_max))):
    74.02 + (9.11 - 1) (71.23 + 67.77) / 2 = 637.65, printed 637.7."""
    found = CELLS["d3LLM-LLaDA", "GSM8K"]
    assert found.y_max == 74.98 and found.aup == 637.7
    assert found.recomputed == pytest.approx(637.65, abs=0.01)


def test_one_column_of_table_2_has_two_y_max_and_neither_holds_lightningrl():
    of_gsm8k = {found.y_max for (_, benchmark), found in CELLS.items() if benchmark == "GSM8K" and found.points}
    assert of_gsm8k == {74.98, 83.94}
    assert CELLS["LightningRL-8B-b32", "GSM8K"].accuracy_pct == 90.3


def test_no_point_is_lost():
    assert sum(len(points) for methods in leaderboard().values() for points in methods.values()) == 126
