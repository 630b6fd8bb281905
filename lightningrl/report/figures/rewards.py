"""Total, accuracy and speed reward by training step, one line a run (paper's Figures 3b, 4, 5, 6 and 8a-c).

Thick lines are a centred running mean, faint ones the raw values. Reads the `curves` table. The total is whatever the
run's algorithm optimised, so totals of different presets need not share a scale; accuracy reward is the raw one.
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
    PAGE_WIDTH_IN,
    legend_columns,
    new_figure,
    policy_colours,
    read_options,
    require_columns,
    save,
    styled,
)

PANELS = (
    ("reward_total_mean", "Total reward"),
    ("reward_accuracy_mean", "Accuracy reward"),
    ("reward_speed_mean", "Speed reward (TPF)"),
)


@dataclass(frozen=True, slots=True)
class RewardsOptions:
    """Options of the rewards figure.

    >>> RewardsOptions(window=5).runs
    ()
    """

    policies: tuple[str, ...] = ()
    """Every policy of the experiment, what was trained from first: its place is its colour in all figures."""
    runs: tuple[str, ...] = ()
    """Runs to draw, in this order; none given: all."""
    window: int = 9
    """Steps in the running mean."""
    height_in: float = 2.3
    """Height of the figure, inches."""


def draw(table: pd.DataFrame, out_dir: Path, options: RewardsOptions | Mapping[str, Any] | None = None) -> list[Path]:
    """Write rewards.pdf, .png and .csv (raw and smoothed values); returns their paths."""
    chosen = read_options(RewardsOptions, options)
    names = [name for name, _ in PANELS]
    require_columns(table, ("run", "step", *names), "rewards")
    runs = list(chosen.runs) or list(dict.fromkeys(table["run"]))
    plotted = []
    colours = policy_colours(runs, chosen.policies)
    with styled():
        figure = new_figure(PAGE_WIDTH_IN, chosen.height_in)
        panels = figure.subplots(1, 3)
        for run in runs:
            rows = table[table["run"] == run].sort_values("step")
            require_columns(rows, (), f"rewards (run {run})")
            data = rows[["run", "step", *names]].copy()
            for axes, name in zip(panels, names, strict=True):
                smoothed = running_line(axes, data["step"], data[name], chosen.window, colours[run], label=run)
                data[f"{name}_smoothed"] = smoothed
            plotted.append(data)
        for axes, (_, title) in zip(panels, PANELS, strict=True):
            axes.set_title(title)
            axes.set_xlabel("RL step")
            axes.margins(x=0.02)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panels[0].set_ylabel("Mean over rollouts")
        if len(runs) > 1:
            handles, labels = panels[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper center", ncols=legend_columns(labels, PAGE_WIDTH_IN))
        return save(figure, pd.concat(plotted, ignore_index=True), out_dir, "rewards")
