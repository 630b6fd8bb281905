"""The figures of the probes: `reliability` of confidence, and `together`, which tokens are revealed with others.

Both read the `probes` table, and the order of series from `pooled`: a run has its series' colour in the `study` figure.

Reliability shows the open positions of a decode that reveals one token per forward: how often the likeliest token is
the one that the position ends with, by its probability. On the diagonal confidence is honest; below it, revealing all
sure positions at once costs accuracy. The size of a point grows with the number of its positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lightningrl.report.figures import style

RUNS = ("-", (0, (3, 1.2)), (0, (1, 1)))
"""Line styles of the first, second and third run of a series."""


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """Options of both figures."""

    panel_height_in: float = 2.8
    """Height of the panels, inches."""


def reliability(
    table: pd.DataFrame, pooled: pd.DataFrame, out_dir: Path, options: ProbeOptions | Mapping[str, Any] | None = None
) -> list[Path]:
    """Writes reliability.pdf, .png and .csv; returns their paths."""
    chosen = style.read_options(ProbeOptions, options)
    table = table[table["measure"].isin(["confidence", "agreement"])]
    style.require_columns(table, ("policy", "benchmark", "label", "count", "value"), "reliability")
    keys = ["benchmark", "policy", "label", "count"]
    wide = table.pivot_table(index=keys, columns="measure", values="value", sort=False).reset_index()
    wide.columns.name = None
    benchmarks, looks, nth = list(dict.fromkeys(wide["benchmark"])), _looks(table, pooled), _nth(table)
    with style.styled():
        figure, panels = _panels(len(benchmarks), chosen)
        for axes, benchmark in zip(panels, benchmarks, strict=True):
            axes.plot([0, 1], [0, 1], color=style.GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
            for policy, look in looks.items():
                rows = wide[(wide["benchmark"] == benchmark) & (wide["policy"] == policy)].sort_values("confidence")
                if len(rows):
                    sizes = 8 + 90 * np.sqrt(rows["count"] / rows["count"].sum())
                    line = {"label": policy, "markersize": 0.01, "linestyle": RUNS[nth[policy] % len(RUNS)]}
                    axes.plot(rows["confidence"], rows["agreement"], zorder=2, **line, **look)
                    point = {"s": sizes, "zorder": 3, "edgecolor": "white", "linewidth": 0.5}
                    axes.scatter(rows["confidence"], rows["agreement"], **point, **look)
            axes.set(title=benchmark, xlim=(0, 1.03), ylim=(0, 1.03))
        figure.supxlabel("Probability of the likeliest token", fontsize=8.5)
        figure.supylabel("Share that ended there", fontsize=8.5)
        style.legend(figure, figure.axes)
        return style.save(figure, wide, out_dir, "reliability")


def together(
    table: pd.DataFrame, pooled: pd.DataFrame, out_dir: Path, options: ProbeOptions | Mapping[str, Any] | None = None
) -> list[Path]:
    """Writes together.pdf, .png and .csv; returns their paths."""
    chosen = style.read_options(ProbeOptions, options)
    table = table[table["measure"] == "class_together"]
    style.require_columns(table, ("policy", "benchmark", "label", "count", "value"), "together")
    benchmarks, looks, nth = list(dict.fromkeys(table["benchmark"])), _looks(table, pooled), _nth(table)
    with style.styled():
        figure, panels = _panels(len(benchmarks), chosen)
        for axes, benchmark in zip(panels, benchmarks, strict=True):
            here = table[table["benchmark"] == benchmark]
            classes = list(dict.fromkeys(here["label"]))
            height = 0.8 / len(looks)
            for number, (policy, look) in enumerate(looks.items()):
                rows = here[here["policy"] == policy].set_index("label")["value"]
                at = [place + number * height for place, label in enumerate(classes) if label in rows]
                values = [rows[label] for label in classes if label in rows]
                shade = 0.6 ** nth[policy]
                axes.barh(at, values, height=0.9 * height, color=look["color"], alpha=shade, label=policy)
            axes.set_yticks([place + 0.4 - height / 2 for place in range(len(classes))], classes)
            axes.invert_yaxis()
            axes.grid(axis="y", visible=False)
            axes.set_title(benchmark)
        figure.supxlabel("Positions revealed by the token's forward (mean, itself included)", fontsize=8.5)
        style.legend(figure, figure.axes)
        return style.save(figure, table, out_dir, "together")


def _looks(table: pd.DataFrame, pooled: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Returns colour and marker of each probed policy, the base first; they are those of its series in `study`."""
    order = list(dict.fromkeys(pooled.loc[pooled["role"] != "ablation", "series"]))
    table = table.sort_values("role", key=lambda role: role != "before", kind="stable")
    series = dict(zip(table["policy"], table["series"], strict=True))
    colours = style.policy_colours(series.values(), order)
    places = list(colours)
    return {
        policy: {"color": colours[name], "marker": style.MARKERS[places.index(name) % len(style.MARKERS)]}
        for policy, name in series.items()
    }


def _nth(table: pd.DataFrame) -> dict[str, int]:
    """Returns, for each run, how many runs of its series come before it; a series has one colour."""
    runs = table.drop_duplicates("policy")
    return dict(zip(runs["policy"], runs.groupby("series").cumcount(), strict=True))


def _panels(count: int, chosen: ProbeOptions) -> tuple[Figure, np.ndarray]:
    """Returns a figure with a panel for each benchmark, side by side."""
    figure = style.new_figure(min(style.PAGE_WIDTH_IN, 3.6 * count + 0.4), chosen.panel_height_in + 0.4)
    return figure, figure.subplots(1, count, squeeze=False)[0]
