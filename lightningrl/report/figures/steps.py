"""Tokens revealed at each decoding step, before and after training (paper's Figure 7).

The upper panel shows the mean over the samples still running, with a band of one standard deviation for up to three
policies (more bands hide each other; the CSV has them all). The lower panel shows how many samples are still running
(the paper's right axis, kept apart so that the two scales are not read against each other). Where fewer than
`MIN_RUNNING` samples are left the mean is noise and is not drawn. The figure reads the `steps` table, and shows the
first three benchmarks.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lightningrl.report.figures import style

MOST_BANDS = 3
"""The largest number of policies for which bands are drawn."""
MIN_RUNNING = 5


@style.drawing("steps")
def steps(table: pd.DataFrame, *, policies: tuple[str, ...] = ()) -> style.Drawn:
    """Draws the policies of the roles `before` and `after`. policies: all of the experiment, for their colours."""
    columns = ("policy", "role", "benchmark", "decoding_step", "tokens_mean", "samples_running")
    style.require_columns(table, columns, "steps")
    benchmarks = list(dict.fromkeys(table["benchmark"]))[:3]
    plotted = table[table["role"].isin(("before", "after")) & table["benchmark"].isin(benchmarks)]
    style.require_columns(plotted, (), "steps")
    colours = style.policy_colours(table["policy"], policies or tuple(dict.fromkeys(table["policy"])))
    width = style.SMALL_WIDTH_IN if len(benchmarks) == 1 else style.PAGE_WIDTH_IN
    band = plotted["policy"].nunique() <= MOST_BANDS
    figure = style.new_figure(width, 3.3)
    panels = figure.subplots(2, len(benchmarks), sharex="col", squeeze=False, height_ratios=(2, 1))
    for above, below, benchmark in zip(panels[0], panels[1], benchmarks, strict=True):
        above.set_title(benchmark)
        for policy, rows in plotted[plotted["benchmark"] == benchmark].groupby("policy", sort=False):
            policy_lines(above, below, rows, str(policy), colours[policy], band)
        above.set_ylim(bottom=0.0)
        below.set_ylim(bottom=0.0)
        style.count_axis(below)
        below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    panels[0, 0].set_ylabel("Tokens revealed\n(mean ± 1 std)" if band else "Tokens revealed\n(mean)")
    panels[1, 0].set_ylabel("Samples\nrunning")
    figure.supxlabel("Decoding step (denoise forward)", fontsize=8.5)
    figure.align_ylabels(panels[:, 0])
    style.legend(figure, panels[0])
    return figure, plotted


def policy_lines(
    above: Axes, below: Axes, rows: pd.DataFrame, policy: str, colour: str, band: bool = True, dash: str = "-"
) -> None:
    """Draws one policy's mean tokens by decoding step in `above`, its running samples as `dash` lines in `below`."""
    rows = rows.sort_values("decoding_step")
    running = rows["samples_running"]
    shown = rows.where(running >= min(MIN_RUNNING, running.max()))
    step, mean, std = rows["decoding_step"], shown["tokens_mean"].astype(float), shown["tokens_std"].astype(float)
    if band:
        above.fill_between(step, (mean - std).clip(lower=0), mean + std, color=colour, alpha=0.16, linewidth=0)
    above.plot(step, mean, color=colour, label=policy)
    below.step(step, running, where="mid", color=colour, linewidth=1.3, linestyle=dash)
