"""Prints what seeds of the quantised study say together: `python workflow/quantization_table.py TABLE`.

TABLE is what `workflow/seeds.py config/quantization.yaml SEED TABLE 2 quantized` wrote. Each setting has a row a
policy, at the primary threshold: the mean over seeds of each paired difference, with the 95 % interval of Student's t
over the seeds, and the values of the seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

COLUMNS = {
    "accuracy_difference": ("Δ points", 1), "tpf_ratio": ("TPF x float", 3),
    "response_tokens_difference": ("Δ tokens", 1), "aup_difference": ("Δ AUP", 0),
    "accuracy_difference_beyond": ("Δ beyond base", 1), "tpf_ratio_beyond": ("x beyond base", 3),
    "kl": ("KL", 3),
}  # fmt: skip
"""Column -> its title and its digits."""


def tables(path: Path) -> Iterator[str]:
    """Yields the lines, in Markdown."""
    rows = pd.read_csv(path)
    primary = rows[rows["is_primary"].astype(bool) & (rows["setting"] != "float")]
    yield "| policy | setting | " + " | ".join(title for title, _ in COLUMNS.values()) + " |"
    yield "|---" * (len(COLUMNS) + 2) + "|"
    for (policy, setting), found in primary.groupby(["weights", "setting"], sort=False):
        cells = [told(found[column], digits) for column, (_, digits) in COLUMNS.items()]
        yield f"| {policy} | {setting} | " + " | ".join(cells) + " |"


def told(values: pd.Series, digits: int) -> str:
    """Returns the mean, its interval over seeds, and the seeds' values; a dash where there are none.

    >>> told(pd.Series([1.0, 2.0, 3.0]), 1)
    '2.0 [−0.5, 4.5] (1.0, 2.0, 3.0)'
    """
    low, high = interval(values)
    if np.isnan(values.mean()):
        return "–"
    text = f"{values.mean():.{digits}f}"
    text += "" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{text} ({', '.join(f'{value:.{digits}f}' for value in values)})".replace("-", "−")


def interval(values: pd.Series) -> tuple[float, float]:
    """Returns the 95 % interval of the mean by Student's t; NaN for a single value."""
    if len(values) < 2:
        return float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in tables(Path(sys.argv[1])))
