"""Collapse ratio by training step, with and without the second (decoupled) normalisation (paper's Figure 3a).

The share of a group's rollout pairs whose advantages differ by less than eps. Solid: the run's final advantage;
dashed, where the run logs it (`..._sum`): the advantage that the plain sum of rewards would have given the same
rollouts. Reads the `curves` table. A run trained without the normalisation is simply another run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.ticker import MaxNLocator

from lightningrl.report.figures.lines import running_line
from lightningrl.report.figures.style import (
    label_line_ends,
    new_figure,
    policy_colours,
    read_options,
    require_columns,
    save,
    styled,
)


@dataclass(frozen=True, slots=True)
class CollapseOptions:
    """Options of the collapse figure.

    >>> CollapseOptions(eps=0.05).eps
    0.05
    """

    policies: tuple[str, ...] = ()
    """Every policy of the experiment, what was trained from first: its place is its colour in all figures."""
    runs: tuple[str, ...] = ()
    """Runs to draw, in this order; none given: all."""
    eps: float = 0.1
    """Advantages closer than this count as collapsed; a column `collapse_ratio_<eps>` must exist."""
    window: int = 9
    """Steps in the running mean."""
    sum_label: str = "summed rewards,\nsame rollouts"
    """What the dashed line is called."""
    height_in: float = 2.4
    """Height of the figure, inches."""


def draw(table: pd.DataFrame, out_dir: Path, options: CollapseOptions | Mapping[str, Any] | None = None) -> list[Path]:
    """Write collapse.pdf, .png and .csv (raw and smoothed ratios); returns their paths."""
    chosen = read_options(CollapseOptions, options)
    column = f"collapse_ratio_{chosen.eps:g}"
    require_columns(table, ("run", "step", column), "collapse")
    runs = list(chosen.runs) or list(dict.fromkeys(table["run"]))
    plotted, ends = [], []
    colours = policy_colours(runs, chosen.policies)
    with styled():
        figure = new_figure(5.0, chosen.height_in)
        axes = figure.subplots()
        for run in runs:
            rows = table[table["run"] == run].sort_values("step")
            require_columns(rows, (), f"collapse (run {run})")
            colour = colours[run]
            for name, dash, label in (
                (column, "-", run),
                (f"{column}_sum", (0, (4, 1.5)), f"{run}: {chosen.sum_label}"),
            ):
                if name not in rows or rows[name].isna().all():
                    continue
                if name != column and rows[name].equals(rows[column].rename(name)):
                    continue  # the run sums its rewards itself
                data = rows[["run", "step"]].assign(series=name, ratio=rows[name])
                smoothed = running_line(axes, data["step"], data["ratio"], chosen.window, colour, linestyle=dash)
                data["ratio_smoothed"] = smoothed
                ends.append((float(data["ratio_smoothed"].dropna().iloc[-1]), label, colour))
                plotted.append(data)
        axes.set_xlabel("RL step")
        axes.set_ylabel(f"Collapse ratio (ε = {chosen.eps:g})")
        axes.set_ylim(bottom=0.0)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        label_line_ends(axes, ends)
        return save(figure, pd.concat(plotted, ignore_index=True), out_dir, "collapse")
