"""Figures 3 to 8 of the paper, all on GSM8K: training curves, tokens by decoding step, accuracy against TPF.

A row that was not run has no line, but is named in the legend and in the figure's CSV. Totals are accuracy reward (+1
or -1) plus TPF, as logged. In Figure 6, however, the speed reward is scaled to 0..1 by the least and the greatest value
of all drawn runs, as the paper's axis suggests; its band is taken to be one standard deviation of the values in the
window of the running mean. The paper's "epoch" of Figure 3 is taken to be an RL step, as in its code. Hollow stars in
Figure 8d are the three points that the paper's text names; they were not measured. `smooth_steps` is the window of the
running mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes

from lightningrl.report.figures import style
from lightningrl.report.figures.curves import COLLAPSE, REWARDS, Curve, draw_panel
from lightningrl.report.figures.frontier import curve_with_bars
from lightningrl.report.figures.steps import policy_lines

BENCHMARK = "gsm8k"
SDAR, OURS, TRACERL, GRPO = "SDAR-8B-b32", "LightningRL-8B-b32", "TraceRL-8B-b32", "GRPO(traj)-8B-b32"
COLOURS = {SDAR: style.GREY, OURS: style.BLUE, TRACERL: style.VERMILLION, GRPO: style.GREEN}
"""Colours of rows; an ablation, of which a figure has one, has its own."""
ABLATION, RELEASED = style.VERMILLION, style.ORANGE
NOT_RUN = "not run"
COLUMNS = ("panel", "name", "published", "x", "value", "smoothed", "std", "note")
"""The columns of the CSV beside a figure; `std` is half the band's width."""
TOTAL, ACCURACY, SPEED = REWARDS
SCALED = "reward_total_scaled"
FRONTIER = "d  Accuracy against TPF"
IN_TEXT = ((SDAR, 4.0, 87.4), (SDAR, 7.0, 71.2), (OURS, 7.0, 87.5))
"""(row, TPF, accuracy in percent) in the paper's text on its Figure 8d."""


class Panel(NamedTuple):
    """One panel of training curves."""

    column: str
    """The column of the `curves` table."""
    title: str
    rows: tuple[str, ...]
    """Published rows in the order of the legend."""
    last_step: int
    """The paper's last step; later ones are not drawn."""
    band: bool = False
    """Whether the curve has a band of one standard deviation of its values in the running window."""


_TOTAL, _WITHOUT = "Total reward (accuracy + TPF)", (OURS, "w/o Decoupled normalization")
TRAINING = {
    "figure3": (
        Panel(COLLAPSE, "a  Collapse ratio (ε = 0.1)", _WITHOUT, 100),
        Panel(TOTAL, f"b  {_TOTAL}", _WITHOUT, 100),
    ),
    "figure4": (Panel(ACCURACY, "Accuracy reward", (OURS, "w/o NLL loss"), 125),),
    "figure5": (Panel(TOTAL, _TOTAL, (OURS, "w/o TPF-aware filtering"), 180),),
    "figure6": (Panel(SCALED, "Total reward (accuracy + speed within 0–1)", (TRACERL, OURS, GRPO), 185, band=True),),
}
"""The figures of training curves: with and without one component of the method (3 to 5), and of three methods (6)."""
REWARD_PANELS = (
    Panel(TOTAL, f"a  {_TOTAL}", (TRACERL, OURS), 185),
    Panel(ACCURACY, "b  Accuracy reward", (TRACERL, OURS), 185),
    Panel(SPEED, "c  Speed reward (TPF)", (TRACERL, OURS), 185),
)


def scaled(curves: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """Returns the table with `reward_total_scaled`: accuracy reward plus speed reward, scaled over the panel's runs."""
    drawn = curves["published"].isin(panel.rows) & (curves["benchmark"] == BENCHMARK)
    speed = curves.loc[drawn & (curves["step"] <= panel.last_step), SPEED].astype(float)
    low, high = speed.min(), speed.max()
    width = high - low if high > low else 1.0
    return curves.assign(**{SCALED: curves[ACCURACY].astype(float) + (curves[SPEED].astype(float) - low) / width})


def _training(panels: tuple[Panel, ...], curves: pd.DataFrame, *, smooth_steps: int = 9) -> style.Drawn:
    figure = style.new_figure(4.2 if len(panels) == 1 else style.PAGE_WIDTH_IN, 2.8)
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    drawn = []
    for axes, panel in zip(places, panels, strict=True):
        table = scaled(curves, panel) if panel.column == SCALED else curves
        drawn.append(draw_rows(axes, table, panel, smooth_steps))
        axes.set_ylabel("Mean over rollouts" if panel.column != COLLAPSE else "Share of pairs")
    style.legend(figure, places)
    return figure, pd.concat(drawn, ignore_index=True)


figure3, figure4, figure5, figure6 = (
    style.drawing(name)(partial(_training, panels)) for name, panels in TRAINING.items()
)


@style.drawing("figure7")
def figure7(steps: pd.DataFrame) -> style.Drawn:
    """Draws tokens revealed at each decoding step (left axis) and samples still running (right axis, dashed).

    Lines and bands are the mean and one standard deviation over the samples still running. `figures.steps` shows the
    same for any experiment, in two panels.
    """
    figure = style.new_figure(style.SMALL_WIDTH_IN, 3.0)
    left = figure.subplots()
    right = left.twinx()
    drawn = []
    for row in (SDAR, OURS):
        found = list(standing_for(steps, row, "policy"))
        for name, colour, rows in found:
            policy_lines(left, right, rows, name, colour, dash="--")
            drawn.append(rows.sort_values("decoding_step").assign(name=name, note=""))
        if not found:
            drawn.append(not_run(left, row, ""))
    style.count_axis(left, "Decoding step (denoise forward)")
    left.set(ylabel="Tokens revealed (mean ± 1 std)", ylim=(0, None))
    right.set(ylabel="Samples running (dashed)", ylim=(0, None))
    right.spines["right"].set_visible(True)
    right.grid(False)
    style.legend(figure, [left])
    return figure, pd.concat(drawn, ignore_index=True).reindex(columns=["name", "note", *steps.columns])


@style.drawing("figure8")
def figure8(curves: pd.DataFrame, frontier: pd.DataFrame, *, smooth_steps: int = 9) -> style.Drawn:
    """Draws total, accuracy and speed reward by step (a-c), and accuracy against TPF (d)."""
    figure = style.new_figure(style.PAGE_WIDTH_IN, 5.0)
    places = figure.subplots(2, 2).ravel()
    drawn = [draw_rows(axes, curves, panel, smooth_steps) for axes, panel in zip(places, REWARD_PANELS, strict=False)]
    drawn.append(_frontier(places[3], frontier))
    style.legend(figure, places)
    return figure, pd.concat(drawn, ignore_index=True)


def _frontier(axes: Axes, frontier: pd.DataFrame) -> pd.DataFrame:
    drawn = []
    for row, marker in ((SDAR, style.MARKERS[0]), (OURS, style.MARKERS[1])):
        found = list(standing_for(frontier, row, "policy"))
        for name, colour, rows in found:
            curve_with_bars(axes, rows, colour, marker if "released" not in name else style.MARKERS[2], name)
            points = rows.sort_values("tpf").rename(columns={"tpf": "x", "accuracy_pct": "value"})[["x", "value"]]
            drawn.append(points.assign(panel=FRONTIER, name=name, published=row, note="measured"))
        if not found:
            drawn.append(not_run(axes, row, FRONTIER))
    star = {"linestyle": "none", "marker": "*", "markersize": 9, "color": "white"}
    for row, tpf, accuracy in IN_TEXT:
        axes.plot(tpf, accuracy, markeredgecolor=colour_of(row), **star)
        drawn.append(_line(FRONTIER, row, "paper's text", x=tpf, value=accuracy))
    axes.plot([], [], markeredgecolor="k", label="paper's text", **star)
    axes.set(title=FRONTIER, xlabel="TPF (tokens / denoise forward)", ylabel="Accuracy (%)")
    return pd.concat(drawn, ignore_index=True).reindex(columns=list(COLUMNS))


def name_of(row: str, role: str = "") -> str:
    """Returns the name of a row in figures.

    >>> name_of("LightningRL-8B-b32"), name_of("LightningRL-8B-b32", "released"), name_of("w/o NLL loss")
    ('LightningRL', 'LightningRL, released checkpoint', 'w/o NLL loss')
    """
    return row.removesuffix("-8B-b32") + (", released checkpoint" if role == "released" else "")


def colour_of(row: str, role: str = "") -> str:
    return RELEASED if role == "released" else COLOURS.get(row, ABLATION)


def standing_for(table: pd.DataFrame, row: str, key: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yields (name, colour, rows) of each run or policy (`key`) that stands for a published row, in order."""
    chosen = table[(table["published"] == row) & (table["benchmark"] == BENCHMARK)]
    several = chosen.loc[chosen["role"] != "released", key].nunique() > 1
    for own, rows in chosen.groupby(key, sort=False) if len(chosen) else ():
        role = rows["role"].iloc[0]
        name = name_of(row, role) + (f" ({own})" if several and role != "released" else "")
        yield name, colour_of(row, role), rows


def draw_rows(axes: Axes, table: pd.DataFrame, panel: Panel, window: int) -> pd.DataFrame:
    """Draws the runs that stand for a panel's rows; returns what was drawn (`COLUMNS`)."""
    if len(table):
        style.require_columns(table, ("run", "step", "role", "benchmark", "published", panel.column), "training")
    table = table[table["step"] <= panel.last_step]
    drawn, was_run = [], False
    for row in panel.rows:
        found = standing_for(table, row, "run")
        curves = [Curve(*one, panel.column, dash) for one, dash in zip(found, cycle(style.DASHES), strict=False)]
        was_run = was_run or bool(curves)
        lines = draw_panel(axes, panel.title, curves, window, panel.band) if curves else not_run(axes, row, panel.title)
        drawn.append(lines.assign(published=row))
    if not was_run:
        axes.text(0.5, 0.5, "not run yet", transform=axes.transAxes, ha="center", va="center")
        axes.set(title=panel.title, xlabel="RL step", xlim=(0, panel.last_step), yticks=[])
    return pd.concat(drawn, ignore_index=True).reindex(columns=list(COLUMNS))


def not_run(axes: Axes, row: str, title: str) -> pd.DataFrame:
    """Names the row in the legend; returns its line of the CSV."""
    axes.plot([], [], color=colour_of(row), linestyle=":", label=f"{name_of(row)} ({NOT_RUN})")
    return _line(title, row, NOT_RUN)


def _line(title: str, row: str, note: str, **values: Any) -> pd.DataFrame:
    line = {"panel": title, "name": name_of(row), "published": row, "note": note} | values
    return pd.DataFrame([line], columns=list(COLUMNS))
