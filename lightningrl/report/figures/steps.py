"""Tokens revealed at each decoding step, before and after training (paper's Figure 7).

The upper panel shows the mean over the samples still running, with a band of one standard deviation for up to three
policies (more bands hide each other; the CSV has them all). The lower panel shows how many samples are still running
(the paper's right axis, kept apart so that the two scales are not read against each other). Where fewer than
`min_running` samples are left the mean is noise and is not drawn. The figure reads the `steps` table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lightningrl.report.figures import style

MOST_BANDS = 3
"""The largest number of policies for which bands are drawn."""


@dataclass(frozen=True, slots=True)
class StepsOptions:
    """Options of the decoding-steps figure."""

    roles: tuple[str, ...] = ("before", "after")
    """Roles of the policies to draw."""
    benchmarks: tuple[str, ...] = ()
    """The benchmarks to draw, with a column of panels for each; the first three if empty."""
    policies: tuple[str, ...] = ()
    """All policies of the experiment, the base first: a policy's place decides its colour in all figures."""
    min_running: int = 5
    """The least number of running samples for which the mean is drawn."""
    height_in: float = 3.3
    """Height of the figure, inches."""


def draw(table: pd.DataFrame, out_dir: Path, options: StepsOptions | Mapping[str, Any] | None = None) -> list[Path]:
    """Writes steps.pdf, .png and .csv; returns their paths."""
    chosen = style.read_options(StepsOptions, options)
    style.require_columns(
        table, ("policy", "role", "benchmark", "decoding_step", "tokens_mean", "samples_running"), "steps"
    )
    benchmarks = list(chosen.benchmarks) or list(dict.fromkeys(table["benchmark"]))[:3]
    plotted = table[table["role"].isin(chosen.roles) & table["benchmark"].isin(benchmarks)]
    style.require_columns(plotted, (), "steps")
    colours = style.policy_colours(table["policy"], chosen.policies or tuple(dict.fromkeys(table["policy"])))
    width = 4.6 if len(benchmarks) == 1 else style.PAGE_WIDTH_IN
    band = plotted["policy"].nunique() <= MOST_BANDS
    with style.styled():
        figure = style.new_figure(width, chosen.height_in)
        panels = figure.subplots(2, len(benchmarks), sharex="col", squeeze=False, height_ratios=(2, 1))
        for above, below, benchmark in zip(panels[0], panels[1], benchmarks, strict=True):
            above.set_title(benchmark)
            for policy, rows in plotted[plotted["benchmark"] == benchmark].groupby("policy", sort=False):
                policy_lines(
                    above, below, rows.sort_values("decoding_step"), str(policy), colours, chosen.min_running, band
                )
            above.set_ylim(bottom=0.0)
            below.set_ylim(bottom=0.0)
            below.margins(x=0.01)
            below.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        panels[0, 0].set_ylabel("Tokens revealed\n(mean ± 1 std)" if band else "Tokens revealed\n(mean)")
        panels[1, 0].set_ylabel("Samples\nrunning")
        figure.supxlabel("Decoding step (denoise forward)", fontsize=8.5)
        figure.align_ylabels(panels[:, 0])
        style.legend(figure, panels[0])
        return style.save(figure, plotted, out_dir, "steps")


def policy_lines(
    above: Axes,
    below: Axes,
    rows: pd.DataFrame,
    policy: str,
    colours: Mapping[str, str],
    min_running: int,
    band: bool,
    dash: str = "-",
) -> None:
    """Draws one policy's mean tokens by decoding step in `above`, and its running samples as `dash` lines in
    `below`.
    """
    step, mean, std = (rows[name].to_numpy(float) for name in ("decoding_step", "tokens_mean", "tokens_std"))
    running = rows["samples_running"].to_numpy()
    enough = running >= min(min_running, running.max())
    mean, std = np.where(enough, mean, np.nan), np.where(enough, std, np.nan)
    colour = colours[policy]
    if band:
        above.fill_between(step, np.clip(mean - std, 0, None), mean + std, color=colour, alpha=0.16, linewidth=0)
    above.plot(step, mean, color=colour, label=policy)
    below.step(step, running, where="mid", color=colour, linewidth=1.3, linestyle=dash)
