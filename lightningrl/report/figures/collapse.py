"""The collapse ratio by training step, with and without the second (decoupled) normalisation (paper's Figure 3a).

It is the share of a group's rollout pairs whose advantages differ by less than eps: solid for the run's final
advantage, dashed (if the run logs `..._sum`) for the advantage that the plain sum of rewards would have given the same
rollouts. The figure reads the `curves` table. A run trained without the normalisation is simply another run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.ticker import MaxNLocator

from lightningrl.report.figures import style


@dataclass(frozen=True, slots=True)
class CollapseOptions:
    """Options of the collapse figure."""

    policies: tuple[str, ...] = ()
    """All policies of the experiment, the base first: a policy's place decides its colour in all figures."""
    runs: tuple[str, ...] = ()
    """The runs to draw, in this order; all if empty."""
    eps: float = 0.1
    """Advantages closer than this count as collapsed; a column `collapse_ratio_<eps>` must exist."""
    window: int = 9
    """Steps of the running mean."""
    sum_label: str = "summed rewards,\nsame rollouts"
    """The name of the dashed line."""
    height_in: float = 2.4
    """Height of the figure, inches."""


def draw(table: pd.DataFrame, out_dir: Path, options: CollapseOptions | Mapping[str, Any] | None = None) -> list[Path]:
    """Writes collapse.pdf, .png and .csv (raw and smoothed ratios); returns their paths."""
    chosen = style.read_options(CollapseOptions, options)
    column = f"collapse_ratio_{chosen.eps:g}"
    style.require_columns(table, ("run", "step", column), "collapse")
    runs = list(chosen.runs) or list(dict.fromkeys(table["run"]))
    plotted, ends = [], []
    colours = style.policy_colours(runs, chosen.policies)
    with style.styled():
        figure = style.new_figure(5.0, chosen.height_in)
        axes = figure.subplots()
        for run in runs:
            rows = table[table["run"] == run].sort_values("step")
            style.require_columns(rows, (), f"collapse (run {run})")
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
                smoothed = style.running_line(axes, data["step"], data["ratio"], chosen.window, colour, linestyle=dash)
                data["ratio_smoothed"] = smoothed
                ends.append((float(data["ratio_smoothed"].dropna().iloc[-1]), label, colour))
                plotted.append(data)
        axes.set_xlabel("RL step")
        axes.set_ylabel(f"Collapse ratio (ε = {chosen.eps:g})")
        axes.set_ylim(bottom=0.0)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        style.label_line_ends(axes, ends)
        return style.save(figure, pd.concat(plotted, ignore_index=True), out_dir, "collapse")
