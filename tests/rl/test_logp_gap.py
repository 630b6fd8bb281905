"""The decoder's log-probabilities against the trainer's: what stops a run at its first update, what is noted later."""

from __future__ import annotations

import logging

import pytest

from lightningrl.config.train import Run
from lightningrl.errors import CheckpointError
from lightningrl.rl import trainer as trainer_module
from lightningrl.rl.logp_gap import allowed_nats, check_gap

ALL = {"filter_all_wrong": False, "filter_tpf_range": 0.0}
RUN = {"name": "t", "role": "after", "algorithm": "lightningrl", "benchmark": "t", "steps": 4}


@pytest.mark.parametrize(
    ("told", "allowed"),
    [
        ({}, 0.05),
        ({"precision": "bfloat16"}, 0.5),
        ({"max_logp_gap": 0.2}, 0.2),
        ({"precision": "bfloat16", "max_logp_gap": 0.2}, 0.2),
    ],
)
def test_the_bound_is_that_of_the_precision_unless_the_run_says_another(told, allowed, caplog):
    run = Run(**RUN, **told)
    assert allowed_nats(run) == allowed
    for mean in (None, 0.0, allowed):
        assert check_gap(mean, run, step=1, is_first=True) == {}
    with pytest.raises(CheckpointError, match=rf"nats per token \(allowed: {allowed}\).*runs\.max_logp_gap"):
        check_gap(1.01 * allowed, run, step=1, is_first=True)
    assert not caplog.records
    assert check_gap(1.01 * allowed, run, step=7, is_first=False) == {"logp_gap_allowed": allowed}
    assert [record.levelno for record in caplog.records] == [logging.WARNING] and "step 7" in caplog.text


def test_a_gap_that_opens_later_is_noted_and_stops_nothing(trainer_of, monkeypatch):
    trainer, gap, original = trainer_of(method=ALL), {}, trainer_module.update
    monkeypatch.setattr(trainer_module, "update", lambda *arguments: original(*arguments) | gap)
    assert "logp_gap_allowed" not in trainer.step().metrics, "so the metrics of a sound run are as they were"
    gap |= {"log_ratio_abs_mean": 0.7}
    result = trainer.step()
    assert (result.metrics["logp_gap_mean"], result.metrics["logp_gap_allowed"]) == (0.7, 0.05)
    assert "logp gap 0.700 nats" in trainer.describe(result)
    again = trainer_of(method=ALL, max_logp_gap=1.0)
    assert "logp_gap_allowed" not in again.step().metrics


def test_the_first_update_of_a_run_is_its_first_whatever_step_it_is_in(trainer_of, monkeypatch):
    """A step that keeps no group updates nothing; a run that goes on from a state has updated before."""
    original = trainer_module.update
    gap = {"log_ratio_abs_mean": 0.7}
    monkeypatch.setattr(trainer_module, "update", lambda *arguments: original(*arguments) | gap)
    trainer = trainer_of(method=ALL)
    drawn, trainer._batches = trainer._batches, lambda kept, step: ([], None)
    trainer.algorithm.metrics = lambda *rest: {}
    assert trainer.step().metrics["updates"] == 0
    trainer._batches = drawn
    with pytest.raises(CheckpointError, match=r"disagree by 0\.700 nats"):
        trainer.step()
    resumed = trainer_of(method=ALL)
    resumed.updates_done = 2
    assert resumed.step().metrics["logp_gap_allowed"] == 0.05
