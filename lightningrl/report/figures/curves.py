"""Training curves, with a line for each run: `rewards` and `collapse`, both of the `curves` table.

`rewards` shows total, accuracy and speed reward by step (paper's Figures 3b, 4, 5, 6 and 8a-c). The total is what the
run's algorithm optimised, so totals of different algorithms need not share a scale; accuracy reward is the raw one.

`collapse` shows the share of a group's rollout pairs whose advantages differ by less than eps, with and without the
second (decoupled) normalisation (paper's Figure 3a): solid for the run's final advantage, dashed (if the run logs
`..._sum`) for the advantage that the plain sum of rewards would have given the same rollouts. A run trained without the
normalisation is simply another run.

`smooth_steps` is the window of the running mean. `policies` are all of the experiment, the base first: a policy's place
decides its colour in all figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lightningrl.report.figures import style

REWARDS = {
    "reward_total_mean": "Total reward",
    "reward_accuracy_mean": "Accuracy reward",
    "reward_speed_mean": "Speed reward (TPF)",
}
COLLAPSE = "collapse_ratio_0.1"
FAINT: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.3}
"""How single steps are drawn, behind their running mean."""


class Curve(NamedTuple):
    """A column of one run's rows of the `curves` table, and how it is drawn."""

    name: str
    colour: str
    rows: pd.DataFrame
    column: str
    dash: Any = "-"


@style.drawing("rewards")
def rewards(table: pd.DataFrame, *, smooth_steps: int = 9, policies: Sequence[str] = ()) -> style.Drawn:
    """Draws a panel for each reward."""
    style.require_columns(table, ("run", "step", *REWARDS), "rewards")
    colours = style.policy_colours(table["run"], policies)
    figure = style.new_figure(style.PAGE_WIDTH_IN, 2.3)
    panels, drawn = figure.subplots(1, 3), []
    for axes, (column, title) in zip(panels, REWARDS.items(), strict=True):
        runs = [Curve(run, colours[run], rows, column) for run, rows in table.groupby("run", sort=False)]
        drawn.append(draw_panel(axes, title, runs, smooth_steps))
    panels[0].set_ylabel("Mean over rollouts")
    several = table["run"].nunique() > 1  # else its name is the figure's
    style.legend(figure, panels if several else [], _faint_lines(smooth_steps, bold=not several))
    return figure, pd.concat(drawn, ignore_index=True)


@style.drawing("collapse")
def collapse(table: pd.DataFrame, *, smooth_steps: int = 9, policies: Sequence[str] = ()) -> style.Drawn:
    """Draws the ratio of every run."""
    style.require_columns(table, ("run", "step", COLLAPSE), "collapse")
    colours, summed, lines = style.policy_colours(table["run"], policies), f"{COLLAPSE}_sum", list[Curve]()
    for run, rows in table.groupby("run", sort=False):
        lines.append(Curve(run, colours[run], rows, COLLAPSE))
        other = rows.get(summed)
        if other is not None and not other.isna().all() and (other != rows[COLLAPSE]).any():
            lines.append(Curve(f"{run}, summed rewards", colours[run], rows, summed, (0, (4, 1.5))))
    figure = style.new_figure(style.PAGE_WIDTH_IN, 2.8)
    axes = figure.subplots()
    drawn = draw_panel(axes, "", lines, smooth_steps)
    axes.set_ylabel(f"Collapse ratio (ε = {COLLAPSE.rpartition('_')[2]})")
    axes.set_ylim(bottom=0.0)
    style.legend(figure, [axes], _faint_lines(smooth_steps))
    return figure, drawn


def _faint_lines(window: int, bold: bool = False) -> dict[str, Line2D]:
    """Returns the legend's entry for the faint lines; bold: and that of the running means, which else name the runs."""
    mean = {f"mean of {window} steps": Line2D([], [], color=style.GREY)} if bold else {}
    return mean | {"single steps": Line2D([], [], color=style.GREY, **FAINT)}


def draw_panel(axes: Axes, title: str, curves: Iterable[Curve], window: int, band: bool = False) -> pd.DataFrame:
    """Draws raw values faint and their centred running mean (narrower at both ends, NaN skipped) on top.

    band: whether to shade one standard deviation of the values in the window. Returns what was drawn; `std` is half the
    band's width.
    """
    drawn = []
    for name, colour, rows, column, dash in curves:
        rows = rows.sort_values("step")
        x, values = rows["step"], rows[column].astype(float)
        running = values.rolling(max(1, window), center=True, min_periods=1)
        smoothed, std = running.mean(), running.std(ddof=0) if band else np.nan
        axes.plot(x, values, color=colour, zorder=2, **FAINT)
        axes.plot(x, smoothed, color=colour, linestyle=dash, label=name, zorder=3)
        if band:
            axes.fill_between(x, smoothed - std, smoothed + std, color=colour, alpha=0.16, linewidth=0)
        data = {"panel": title, "name": name, "x": x, "value": values, "smoothed": smoothed, "std": std}
        drawn.append(pd.DataFrame(data))
    axes.set_title(title)
    style.count_axis(axes, "RL step")
    return pd.concat(drawn, ignore_index=True)
