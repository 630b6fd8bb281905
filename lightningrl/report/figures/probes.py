"""The figures of the probes: `reliability` of confidence, and `together`, which tokens are revealed with others.

Both read the `probes` table, and the order of series from `pooled`: a run has its series' colour in the `study` figure.

Reliability shows the open positions of a decode that reveals one token per forward: how often the likeliest token is
the one that the position ends with, by its probability. On the diagonal confidence is honest; below it, revealing all
sure positions at once costs accuracy. The size of a point grows with the number of its positions.
"""

from __future__ import annotations

from itertools import cycle
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightningrl.report.figures import style

RUNS = ("-", (0, (3, 1.2)), (0, (1, 1)))
"""Line styles of the first, second and third run of a series."""


class Look(NamedTuple):
    """How a probed policy is drawn: its series has a colour and a marker."""

    colour: str
    marker: str
    nth: int
    """How many runs of its series come before it."""


@style.drawing("reliability")
def reliability(table: pd.DataFrame, pooled: pd.DataFrame) -> style.Drawn:
    """Draws how often the likeliest token was right, by its probability."""
    table = table[table["measure"].isin(["confidence", "agreement"])]
    style.require_columns(table, ("policy", "benchmark", "label", "count", "value"), "reliability")
    keys = ["benchmark", "policy", "label", "count"]
    wide = table.pivot_table(index=keys, columns="measure", values="value", sort=False).reset_index()
    wide.columns.name = None
    figure, panels = _panels(wide)
    for benchmark, axes in panels.items():
        axes.plot([0, 1], [0, 1], color=style.GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
        for policy, look in looks(table, pooled).items():
            rows = wide[(wide["benchmark"] == benchmark) & (wide["policy"] == policy)].sort_values("confidence")
            if len(rows):
                points, dash = (rows["confidence"], rows["agreement"]), RUNS[look.nth % len(RUNS)]
                mark = {"color": look.colour, "marker": look.marker}
                axes.plot(*points, markersize=0.01, linestyle=dash, label=policy, zorder=2, **mark)
                sizes = 8 + 90 * np.sqrt(rows["count"] / rows["count"].sum())
                axes.scatter(*points, s=sizes, edgecolor="white", linewidth=0.5, zorder=3, **mark)
        axes.set(title=benchmark, xlim=(0, 1.03), ylim=(0, 1.03))
    figure.supxlabel("Probability of the likeliest token", fontsize=8.5)
    figure.supylabel("Share that ended there", fontsize=8.5)
    style.legend(figure, figure.axes)
    return figure, wide


@style.drawing("together")
def together(table: pd.DataFrame, pooled: pd.DataFrame) -> style.Drawn:
    """Draws for each class of tokens how many positions its forwards revealed."""
    table = table[table["measure"] == "class_together"]
    style.require_columns(table, ("policy", "benchmark", "label", "count", "value"), "together")
    shown, (figure, panels) = looks(table, pooled), _panels(table)
    height = 0.8 / len(shown)
    for benchmark, axes in panels.items():
        here = table[table["benchmark"] == benchmark]
        classes = {label: place for place, label in enumerate(dict.fromkeys(here["label"]))}
        for number, (policy, look) in enumerate(shown.items()):
            rows = here[here["policy"] == policy]
            at, shade = rows["label"].map(classes) + number * height, 0.6**look.nth
            axes.barh(at, rows["value"], height=0.9 * height, color=look.colour, alpha=shade, label=policy)
        axes.set_yticks([place + 0.4 - height / 2 for place in classes.values()], list(classes))
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_title(benchmark)
    figure.supxlabel("Positions revealed by the token's forward (mean, itself included)", fontsize=8.5)
    style.legend(figure, figure.axes)
    return figure, table


def looks(table: pd.DataFrame, pooled: pd.DataFrame) -> dict[str, Look]:
    """Returns the look of each probed policy, the base first; colours and markers are those of `study`."""
    order = list(dict.fromkeys(pooled.loc[pooled["role"] != "ablation", "series"]))
    runs = table.sort_values("role", key=lambda role: role != "before", kind="stable").drop_duplicates("policy")
    colours = style.policy_colours(runs["series"], order)
    markers = dict(zip(colours, cycle(style.MARKERS), strict=False))
    nth = runs.groupby("series").cumcount()
    return {
        str(run.policy): Look(colours[run.series], markers[run.series], int(place))
        for run, place in zip(runs.itertuples(), nth, strict=True)
    }


def _panels(table: pd.DataFrame) -> tuple[Figure, dict[str, Axes]]:
    """Returns a figure with a panel for each benchmark, side by side."""
    benchmarks = list(dict.fromkeys(table["benchmark"]))
    figure = style.new_figure(min(style.PAGE_WIDTH_IN, 3.6 * len(benchmarks) + 0.4), 3.2)
    return figure, dict(zip(benchmarks, figure.subplots(1, len(benchmarks), squeeze=False)[0], strict=True))
