"""Prints the tables of a file that `workflow/seeds.py` wrote: `python workflow/seeds_table.py TABLE`.

For each benchmark there is a row for each seed and, below, what the seeds say together: the mean, with the 95 %
interval of Student's t over the seeds, and how many single intervals are on which side. Seeds have problems of their
own, so what a seed's problems add to the scatter is part of the scatter between seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

METHODS = ("lightningrl", "grpo_traj", "lightningrl_plus", "supervised")


def tables(path: Path) -> Iterator[str]:
    """Yields the lines, in Markdown."""
    rows = pd.read_csv(path)
    bases = {name: own.set_index("seed") for name, own in rows[rows.role == "before"].groupby("benchmark")}
    for benchmark, found in rows[rows.role != "before"].groupby("benchmark", sort=False):
        base = bases[benchmark]
        found = found.assign(ratio=found.tpf / base.tpf.reindex(found.seed).to_numpy())
        yield from _by_seed(str(benchmark), found, base)
        yield from filter(None, (_together(method, found[found.algorithm == method]) for method in METHODS))


def _by_seed(benchmark: str, found: pd.DataFrame, base: pd.DataFrame) -> Iterator[str]:
    yield f"\n| {benchmark}, seed | base: accuracy % / TPF | " + " | ".join(METHODS) + " |"
    yield "|---" * (len(METHODS) + 2) + "|"
    for seed, own in found.groupby("seed"):
        cells = [f"{base.accuracy_pct[seed]:.1f} / {base.tpf[seed]:.2f}"]
        for method in METHODS:
            row = own[own.algorithm == method]
            cells.append(_cell(row.iloc[0]) if len(row) else "–")
        yield f"| {seed} | " + " | ".join(cells) + " |"
    yield ""


def _cell(row: pd.Series) -> str:
    low, high = row.accuracy_difference_low, row.accuracy_difference_high
    step = "" if pd.isna(row.chosen_step) else f", step {row.chosen_step:.0f}"
    return f"{row.accuracy_difference:+.1f} [{low:+.1f}, {high:+.1f}], {row.ratio:.2f} x{step}".replace("-", "−")


def _together(method: str, found: pd.DataFrame) -> str | None:
    if len(found) < 2:
        return None
    low, high = found.accuracy_difference_low, found.accuracy_difference_high
    return (
        f"- {method}, {len(found)} seeds: Δ accuracy {_interval(found.accuracy_difference)} points; TPF ratio "
        f"{_interval(found.ratio)}; intervals that contain 0: {int(((low <= 0) & (high >= 0)).sum())}, below 0: "
        f"{int((high < 0).sum())}, above 0: {int((low > 0).sum())}, with a lower end above −2 points: "
        f"{int((low > -2).sum())}; TPF at least 1.9 times the base's: {int((found.ratio >= 1.9).sum())}"
    )


def _interval(values: pd.Series) -> str:
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    mean = values.mean()
    return f"{mean:.2f} [{mean - half:.2f}, {mean + half:.2f}]".replace("-", "−")


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in tables(Path(sys.argv[1])))
