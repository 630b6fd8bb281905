"""What the paper's line figures share: the runs that stand for a row, their colours, and a panel of training curves.

All of them are on GSM8K. A row that was not run has no line, but is named in the legend and in the figure's CSV.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lightningrl.report.figures import style

BENCHMARK = "gsm8k"
SDAR, OURS, TRACERL, GRPO = "SDAR-8B-b32", "LightningRL-8B-b32", "TraceRL-8B-b32", "GRPO(traj)-8B-b32"
COLOURS = {SDAR: style.GREY, OURS: style.BLUE, TRACERL: style.VERMILLION, GRPO: style.GREEN}
"""Colours of rows; an ablation, of which a figure has one, has its own."""
ABLATION, RELEASED = style.VERMILLION, style.ORANGE
NOT_RUN = "not run"
COLUMNS = ("panel", "name", "published", "x", "value", "smoothed", "std", "note")
"""The columns of the CSV beside a figure; `std` is half the band's width."""


@dataclass(frozen=True, slots=True)
class CurveOptions:
    """Options of the paper's training curves."""

    window: int = 9
    """Steps of the running mean."""
    height_in: float = 2.5
    """Height of a panel, inches."""


@dataclass(frozen=True, slots=True)
class Panel:
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


def draw_panel(axes: Axes, table: pd.DataFrame, panel: Panel, window: int) -> pd.DataFrame:
    """Draws the runs; returns what was drawn (`COLUMNS`), with a line for each row that was not run."""
    drawn = []
    for row in panel.rows:
        found = list(standing_for(table, row, "run"))
        for number, (name, colour, rows) in enumerate(found):
            rows = rows[rows["step"] <= panel.last_step].sort_values("step")
            dash = ("-", "--", ":")[number % 3]
            x, values = rows["step"].to_numpy(), rows[panel.column].to_numpy(float)
            smoothed = style.running_line(axes, x, values, window, colour, label=name, linestyle=dash)
            std = deviation(values, window) if panel.band else np.full(len(values), np.nan)
            if panel.band:
                axes.fill_between(x, smoothed - std, smoothed + std, color=colour, alpha=0.16, linewidth=0)
            more = {"panel": panel.title, "name": name, "published": row, "note": ""}
            drawn.append(pd.DataFrame({"x": x, "value": values, "smoothed": smoothed, "std": std}).assign(**more))
        if not found:
            drawn.append(not_run(axes, row, panel.title))
    if all((each["note"] == NOT_RUN).all() for each in drawn):
        axes.text(0.5, 0.5, "not run yet", transform=axes.transAxes, ha="center", va="center")
        axes.set(xlim=(0, panel.last_step), yticks=[])
    axes.set_title(panel.title)
    axes.set_xlabel("RL step")
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return pd.concat(drawn, ignore_index=True)[list(COLUMNS)]


def not_run(axes: Axes, row: str, title: str) -> pd.DataFrame:
    """Names the row in the legend; returns its line of the CSV."""
    axes.plot([], [], color=colour_of(row), linestyle=":", label=f"{name_of(row)} ({NOT_RUN})")
    blank: dict[str, Any] = dict.fromkeys(("x", "value", "smoothed", "std"), np.nan)
    return pd.DataFrame([{"panel": title, "name": name_of(row), "published": row, **blank, "note": NOT_RUN}])


def deviation(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """Returns the population standard deviation in the window of the running mean; 0 for a single value."""
    series = pd.Series(np.asarray(values, float))
    return series.rolling(max(1, window), center=True, min_periods=1).std(ddof=0).to_numpy()
