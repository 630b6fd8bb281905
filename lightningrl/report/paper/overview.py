"""Figure 8 of the paper: total, accuracy and speed reward by step (a-c), and accuracy against TPF (d), on GSM8K.

Hollow stars in d are the three points that the paper's text names; they were not measured. The total is accuracy reward
plus TPF, as logged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from lightningrl.report.figures import style
from lightningrl.report.figures.frontier import curve_with_bars
from lightningrl.report.paper.panels import (
    COLUMNS,
    OURS,
    SDAR,
    TRACERL,
    CurveOptions,
    Panel,
    colour_of,
    draw_panel,
    name_of,
    not_run,
    standing_for,
)

PANELS = (
    Panel("reward_total_mean", "a  Total reward (accuracy + TPF)", (TRACERL, OURS), 185),
    Panel("reward_accuracy_mean", "b  Accuracy reward", (TRACERL, OURS), 185),
    Panel("reward_speed_mean", "c  Speed reward (TPF)", (TRACERL, OURS), 185),
)
FRONTIER = "d  Accuracy against TPF"
IN_TEXT = ((SDAR, 4.0, 87.4), (SDAR, 7.0, 71.2), (OURS, 7.0, 87.5))
"""(row, TPF, accuracy in percent) in the paper's text on its Figure 8d."""


def draw(
    curves: pd.DataFrame, frontier: pd.DataFrame, out_dir: Path, options: CurveOptions | Mapping[str, Any] | None = None
) -> list[Path]:
    """Writes figure8.pdf, .png and .csv; returns their paths."""
    chosen = style.read_options(CurveOptions, options)
    with style.styled():
        figure = style.new_figure(style.PAGE_WIDTH_IN, 2 * chosen.height_in)
        places = figure.subplots(2, 2).ravel()
        drawn = [draw_panel(axes, curves, panel, chosen.window) for axes, panel in zip(places[:3], PANELS, strict=True)]
        drawn.append(_frontier(places[3], frontier))
        style.legend(figure, places)
        return style.save(figure, pd.concat(drawn, ignore_index=True), out_dir, "figure8")


def _frontier(axes: Axes, frontier: pd.DataFrame) -> pd.DataFrame:
    drawn = []
    for number, row in enumerate((SDAR, OURS)):
        found = list(standing_for(frontier, row, "policy"))
        for name, colour, rows in found:
            rows = rows.sort_values("tpf")
            marker = style.MARKERS[number if "released" not in name else 2]
            curve_with_bars(axes, rows, "tpf", colour, marker, name)
            points = pd.DataFrame({"x": rows["tpf"], "value": rows["accuracy_pct"]})
            drawn.append(points.assign(panel=FRONTIER, name=name, published=row, note="measured"))
        if not found:
            drawn.append(not_run(axes, row, FRONTIER))
    for row, tpf, accuracy in IN_TEXT:
        axes.plot(tpf, accuracy, marker="*", markersize=9, color="white", markeredgecolor=colour_of(row))
        point = {"panel": FRONTIER, "name": name_of(row), "published": row, "x": tpf, "value": accuracy}
        drawn.append(pd.DataFrame([{**point, "note": "paper's text"}]))
    axes.plot(
        [], [], linestyle="none", marker="*", markersize=9, color="white", markeredgecolor="k", label="paper's text"
    )
    axes.set_title(FRONTIER)
    axes.set_xlabel("TPF (tokens / denoise forward)")
    axes.set_ylabel("Accuracy (%)")
    return pd.concat(drawn, ignore_index=True).reindex(columns=list(COLUMNS))
