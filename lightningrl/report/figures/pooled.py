"""The frontier figure of series of runs: accuracy against TPF, each the mean over its seeds.

`draw` shows the methods without ablations, `ablations` the method beside its ablations. Bars are 95 % intervals over
seeds and problems. Both read the `pooled` table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lightningrl.report.figures.frontier import FrontierOptions, draw_as
from lightningrl.report.figures.style import require_columns


def draw(table: pd.DataFrame, out_dir: Path, options: Mapping[str, Any] | None = None) -> list[Path]:
    """Writes study.pdf, .png and .csv; returns their paths."""
    return _draw("study", table[table["role"] != "ablation"], out_dir)


def ablations(table: pd.DataFrame, out_dir: Path, options: Mapping[str, Any] | None = None) -> list[Path]:
    """Writes ablations.pdf, .png and .csv; returns their paths.

    It shows the benchmarks that have ablations, and only the first series of the method.
    """
    changed = table[table["role"] == "ablation"]
    shown = []
    for benchmark, rows in table.groupby("benchmark", sort=False):
        if benchmark in set(changed["benchmark"]):
            first = rows.loc[rows["role"] == "after", "series"].iloc[:1]
            shown.append(rows[rows["role"].isin(["before", "ablation"]) | rows["series"].isin(first)])
    return _draw("ablations", pd.concat(shown) if shown else changed, out_dir)


def _draw(name: str, table: pd.DataFrame, out_dir: Path) -> list[Path]:
    require_columns(table, ("series", "benchmark", "accuracy_pct", "tpf"), name)
    return draw_as(name, table.rename(columns={"series": "policy"}), out_dir, FrontierOptions(panel_height_in=3.2))
