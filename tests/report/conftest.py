"""Synthetic evaluations and training curves with the shape of the paper's: a base, a trained policy, a rival."""

import numpy as np
import pytest
from fixtures.synthetic import make_evaluation

from lightningrl.report.frontier import collect, groups


@pytest.fixture(scope="session")
def evaluations():
    made = []
    for benchmark, n, shift, boost in (("gsm-mini", 120, 0.0, 1.0), ("math-mini", 80, -0.25, 1.2)):
        made += [
            make_evaluation("SDAR", "before", "threshold", benchmark, n, 4.6 * boost,
                            lambda t, s=shift: 0.88 + s - 0.55 * (1 - t) ** 1.3, 1),
            make_evaluation("LightningRL", "after", "lightningrl", benchmark, n, 7.2 * boost,
                            lambda t, s=shift: 0.89 + s - 0.12 * (1 - t) ** 1.1, 2),
            make_evaluation("TraceRL", "rival", "tracerl", benchmark, n, 5.8 * boost,
                            lambda t, s=shift: 0.82 + s - 0.30 * (1 - t) ** 1.2, 3),
        ]  # fmt: skip
    return made


@pytest.fixture(scope="session")
def collected(evaluations):
    return collect(groups(evaluations, n_bootstrap=200), "toy")


@pytest.fixture(scope="session")
def metrics_rows():
    rng = np.random.default_rng(7)
    rows = []
    for run, speed, rise in (("LightningRL", 3.0, 0.9), ("GRPO (traj)", 1.8, 0.6), ("TraceRL", 1.0, 0.4)):
        for step in range(1, 81):
            accuracy = 0.45 + 0.4 * rise * (1 - np.exp(-step / 25)) + rng.normal(0, 0.05)
            tpf = 2.8 + speed * (1 - np.exp(-step / 35)) + rng.normal(0, 0.12)
            row = {
                "run": run, "step": step, "reward_total_mean": accuracy + tpf, "reward_accuracy_mean": accuracy,
                "reward_speed_mean": tpf, "tpf": tpf, "kl": 0.001 * step, "seconds_note": "fast",
                "collapse_ratio_0.1": (0.12 if run == "LightningRL" else 0.3) + 0.001 * step + rng.normal(0, 0.02),
            }  # fmt: skip
            if run == "LightningRL":
                row["collapse_ratio_0.1_sum"] = 0.28 + 0.0015 * step + rng.normal(0, 0.02)
            rows.append(row)
    return rows
