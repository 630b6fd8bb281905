"""Total, accuracy and speed reward by training step, with a line for each run (paper's Figures 3b, 4, 5, 6 and 8a-c).

Thick lines are a centred running mean, faint ones the raw values. The figure reads the `curves` table. The total is
what the run's algorithm optimised, so totals of different algorithms need not share a scale; accuracy reward is the raw
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.ticker import MaxNLocator

from lightningrl.report.figures import style

PANELS = (
    ("reward_total_mean", "Total reward"),
    ("reward_accuracy_mean", "Accuracy reward"),
    ("reward_speed_mean", "Speed reward (TPF)"),
)


@dataclass(frozen=True, slots=True)
class RewardsOptions:
    """Options of the rewards figure."""

    policies: tuple[str, ...] = ()
    """All policies of the experiment, the base first: a policy's place decides its colour in all figures."""
    runs: tuple[str, ...] = ()
    """The runs to draw, in this order; all if empty."""
    window: int = 9
    """Steps of the running mean."""
    height_in: float = 2.3
    """Height of the figure, inches."""


def draw(table: pd.DataFrame, out_dir: Path, options: RewardsOptions | Mapping[str, Any] | None = None) -> list[Path]:
    """Writes rewards.pdf, .png and .csv (raw and smoothed values); returns their paths."""
    chosen = style.read_options(RewardsOptions, options)
    names = [name for name, _ in PANELS]
    style.require_columns(table, ("run", "step", *names), "rewards")
    runs = list(chosen.runs) or list(dict.fromkeys(table["run"]))
    plotted = []
    colours = style.policy_colours(runs, chosen.policies)
    with style.styled():
        figure = style.new_figure(style.PAGE_WIDTH_IN, chosen.height_in)
        panels = figure.subplots(1, 3)
        for run in runs:
            rows = table[table["run"] == run].sort_values("step")
            style.require_columns(rows, (), f"rewards (run {run})")
            data = rows[["run", "step", *names]].copy()
            for axes, name in zip(panels, names, strict=True):
                smoothed = style.running_line(axes, data["step"], data[name], chosen.window, colours[run], label=run)
                data[f"{name}_smoothed"] = smoothed
            plotted.append(data)
        for axes, (_, title) in zip(panels, PANELS, strict=True):
            axes.set_title(title)
            axes.set_xlabel("RL step")
            axes.margins(x=0.02)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panels[0].set_ylabel("Mean over rollouts")
        if len(runs) > 1:
            style.legend(figure, panels)
        return style.save(figure, pd.concat(plotted, ignore_index=True), out_dir, "rewards")
