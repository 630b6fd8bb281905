"""Synthetic policies that stand for rows of the paper's tables, with both judges' verdicts and both counts."""

import numpy as np

from lightningrl.report.frontier import Evaluation
from lightningrl.types import EvalRecord

THRESHOLDS = (0.5, 0.7, 0.9, 0.98)


def records(policy, benchmark, n_problems, accuracy, speed, seed, compat=True, thresholds=THRESHOLDS):
    """`compat`: whether the second verdict is there; it calls every eleventh answer wrong that ours calls right."""
    rng = np.random.default_rng(seed)
    made = []
    for threshold in thresholds:
        for problem in range(n_problems):
            correct = bool(rng.random() < accuracy - 0.1 * (1 - threshold))
            per_step = max(1, round(speed * (1.5 - threshold)))
            steps = [per_step] * int(rng.integers(8, 20))
            tokens = sum(steps) - 2
            made.append(
                EvalRecord(
                    policy, f"{benchmark}/test/{problem:05d}", 0, threshold, "00", "4", "4", correct, float(correct),
                    "ok" if correct else "wrong", "", tokens, tokens + 2, len(steps), 2, 1, "eos", steps,
                    compat=(correct and problem % 11 != 0) if compat else None, visible_tokens=tokens + 1,
                )
            )  # fmt: skip
    return made


def policy(name, role, published, benchmark="gsm8k", accuracy=0.85, speed=4.0, seed=0, base="base", **more):
    made = records(name, benchmark, 60, accuracy, speed, seed, **more)
    return Evaluation(name, role, "x", benchmark, made, base=base, published=published)


def table_2_runs():
    """SDAR and LightningRL on two benchmarks, a released checkpoint on one; nothing on the other two."""
    return [
        policy("base", "before", "SDAR-8B-b32", accuracy=0.9, speed=3, seed=1),
        policy("lightningrl-gsm8k", "after", "LightningRL-8B-b32", accuracy=0.92, speed=6, seed=2),
        policy("authors-gsm8k", "released", "LightningRL-8B-b32", accuracy=0.88, speed=7, seed=3),
        policy("base", "before", "SDAR-8B-b32", "mbpp", accuracy=0.5, speed=3, seed=4, compat=False),
        policy("lightningrl-code", "after", "LightningRL-8B-b32", "mbpp", accuracy=0.55, speed=8, seed=5),
    ]
