"""Rewards as a user writes them, for trainings that are to be stopped: constants, and a gate in one step.

The gate is there where the folder `stalls` is. The first start of a training that comes to it leaves the file
`stalls/<run>`, so that the test sees it at work and the next start passes.
"""

import sys
import time
from pathlib import Path

import numpy as np


def _is_at_its_gate(run, step):
    """In the first start that comes to this step, once."""
    gate = Path("stalls") / run
    [timing] = Path("results/nano/train").glob(f"{run}-????????/state/timing.jsonl")
    if not gate.parent.is_dir() or gate.exists() or timing.read_text().count('"step":') + 1 < step:
        return False
    gate.touch()
    return True


def _constant(groups):
    return np.zeros(groups.correct_NG.shape)


def cancelled(groups):
    if _is_at_its_gate("cancelled", step=3):
        _wait_for_the_kill()
    return _constant(groups)


def ended(groups):
    if _is_at_its_gate("ended", step=3):
        _wait_for_the_kill()
    return _constant(groups)


def saved(groups):
    """Its second step takes most of the job's time budget: by the clock, which it puts forward."""
    if _is_at_its_gate("saved", step=2):
        budget_s = 60 * float(sys.argv[sys.argv.index("--max-minutes") + 1])
        clock = time.monotonic
        time.monotonic = lambda: clock() + 0.6 * budget_s
    return _constant(groups)


def broken(groups):
    return np.zeros(3)


def _wait_for_the_kill():
    while True:
        time.sleep(1)
