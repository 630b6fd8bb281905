"""Accuracy against tokens per forward, and against work per token: a forward over a canvas is not one over a block.

A row of panels is a benchmark: left TPF, right the query positions computed for a response token, prefill included, on
a logarithmic axis that falls to the right, so that in both panels cheaper is further right. A curve is a system, its
points the parameters of its sweep; colours are families of models, markers and dashes tell systems of one family apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, ScalarFormatter

from lightningrl.errors import StageError
from lightningrl.report.figures import style
from lightningrl.report.figures.frontier import arms, whole_percents
from lightningrl.report.rivals import by_appearance

COLUMNS = ("policy", "benchmark", "family", "threshold", "accuracy_pct", "tpf", "positions_per_token", "is_primary")
PANELS = (
    ("tpf", "Tokens per forward (TPF)"),
    ("positions_per_token", "Positions computed per response token"),
)
HEIGHT_IN = 2.4
"""Of a row of panels."""
LEGEND_IN = 0.17
"""Of a line of the legend."""


@style.drawing("work")
def work(table: pd.DataFrame) -> style.Drawn:
    """Draws the systems whose work was counted here."""
    style.require_columns(table, COLUMNS, "work")
    table = table[table["tpf"].notna() & table["positions_per_token"].notna()]
    if table.empty:
        raise StageError("figure work: no system here has counted positions; leave it out of `report.figures`")
    systems = table.drop_duplicates("policy").sort_values("family", kind="stable", key=by_appearance)
    looks = _looks(systems)
    benchmarks = list(dict.fromkeys(table["benchmark"]))
    legend = LEGEND_IN * (1 + len(systems) // 3)
    figure = style.new_figure(style.PAGE_WIDTH_IN, HEIGHT_IN * len(benchmarks) + legend + 0.3)
    panels = figure.subplots(len(benchmarks), len(PANELS), squeeze=False, sharey="row")
    for line, benchmark in zip(panels, benchmarks, strict=True):
        line[0].set_title(benchmark)
        for axes, (name, _) in zip(line, PANELS, strict=True):
            for policy in systems["policy"]:
                curve = table[(table["benchmark"] == benchmark) & (table["policy"] == policy)]
                _draw(axes, curve.sort_values("tpf"), name, policy, looks[policy])
            axes.margins(x=0.06, y=0.10)
        whole_percents(line[0])
        _logarithmic(line[1])
    for axes, (_, label) in zip(panels[-1], PANELS, strict=True):
        axes.set_xlabel(label)
    figure.supylabel("Accuracy (%)", fontsize=8.5)
    style.legend(figure, panels.ravel())
    return figure, table


def _looks(systems: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Returns the colour, marker and dash of each system: a colour for a family, the base's family grey."""
    families = list(dict.fromkeys(systems["family"]))
    colours, looks = style.policy_colours(families, families), dict[str, dict[str, str]]()
    for family, rows in systems.groupby("family", sort=False):
        for number, policy in enumerate(rows["policy"]):
            marker, dash = style.MARKERS[number % len(style.MARKERS)], style.DASHES[number // len(style.MARKERS) % 3]
            looks[policy] = {"color": colours[str(family)], "marker": marker, "linestyle": dash}
    return looks


def _draw(axes: Axes, curve: pd.DataFrame, name: str, policy: str, look: Mapping[str, str]) -> None:
    if curve.empty:
        return
    bars = {"xerr": arms(curve, name)} if {f"{name}_low", f"{name}_high"} <= set(curve) else {}
    axes.errorbar(
        curve[name], curve["accuracy_pct"], yerr=arms(curve, "accuracy_pct"), ecolor=look["color"], elinewidth=0.5,
        alpha=0.3, fmt="none", zorder=2, **bars,
    )  # fmt: skip
    axes.plot(
        curve[name], curve["accuracy_pct"], markeredgecolor="white", markeredgewidth=0.4, linewidth=0.9, markersize=3.6,
        label=policy, zorder=3, **look,
    )  # fmt: skip
    primary = curve[curve["is_primary"].astype(bool)]
    axes.plot(
        primary[name], primary["accuracy_pct"], color=look["color"], marker=look["marker"], markersize=6.0,
        linestyle="none", markeredgecolor=style.INK, markeredgewidth=0.8, zorder=4,
    )  # fmt: skip


def _logarithmic(axes: Axes) -> None:
    """Makes the x axis logarithmic, few positions to the right, with plain numbers at 1, 2 and 5."""
    axes.set_xscale("log")
    axes.invert_xaxis()
    low, high = sorted(axes.get_xlim())
    ticks = [m * 10.0**e for e in range(-1, 5) for m in (1, 2, 5)]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high] or [float(np.sqrt(low * high))])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
