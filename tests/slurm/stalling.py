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


def cancelled(groups, run="cancelled"):
    is_held = _is_at_its_gate(run, step=3)
    while is_held:  # until the kill
        time.sleep(1)
    return _constant(groups)


def ended(groups):
    return cancelled(groups, "ended")


def saved(groups):
    """Its second step takes most of the job's time budget: by the clock, which it puts forward."""
    if _is_at_its_gate("saved", step=2):
        budget_s = 60 * float(sys.argv[sys.argv.index("--max-minutes") + 1])
        clock = time.monotonic
        time.monotonic = lambda: clock() + 0.6 * budget_s
    return _constant(groups)


def broken(groups):
    return np.zeros(3)
