"""Rewards as a user writes them, for trainings that are to be stopped: constants, after a while.

How many seconds each call takes is said in the file `stalls/<reward>`, a number a line; a call takes its line away
first, so that the next start of the training does not meet it again.
"""

import time
from pathlib import Path

import numpy as np


def _constant(name, groups):
    path = Path("stalls") / name
    lines = path.read_text().splitlines() if path.exists() else []
    if lines:
        path.write_text("".join(f"{line}\n" for line in lines[1:]))
        time.sleep(float(lines[0]))
    return np.zeros(groups.correct_NG.shape)


def cancelled(groups):
    return _constant("cancelled", groups)


def ended(groups):
    return _constant("ended", groups)


def saved(groups):
    return _constant("saved", groups)


def broken(groups):
    return np.zeros(3)
