"""Rewards as a user writes them, for trainings that are to be stopped: constants, after a while.

The file `stalls/<run>` says which steps take how long, `<step> <seconds>` a line; a line is taken away before its time
is waited, so that the next start of the training does not meet it again.
"""

import time
from pathlib import Path

import numpy as np


def _constant(run, groups):
    path = Path("stalls") / run
    lines = path.read_text().splitlines() if path.exists() else []
    [timing] = Path("results/nano/train").glob(f"{run}-????????/state/timing.jsonl")
    step = timing.read_text().count('"step":') + 1
    if lines and int(lines[0].split()[0]) <= step:
        path.write_text("".join(f"{line}\n" for line in lines[1:]))
        time.sleep(float(lines[0].split()[1]))
    return np.zeros(groups.correct_NG.shape)


def cancelled(groups):
    return _constant("cancelled", groups)


def ended(groups):
    return _constant("ended", groups)


def saved(groups):
    return _constant("saved", groups)


def broken(groups):
    return np.zeros(3)
