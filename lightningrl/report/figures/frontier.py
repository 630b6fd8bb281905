"""Accuracy against TPF, one curve a policy, one panel a benchmark (paper's Figure 8d).

Points are the thresholds of the sweep; bars are 95 % intervals over problems; the large point is the primary
threshold. Reads the `frontier` table. Not drawn: AUP, which is the area under these curves, and other definitions of
TPF unless `x` asks for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lightningrl.report.figures.style import (
    DASHES,
    INK,
    MARKERS,
    PAGE_WIDTH_IN,
    legend_columns,
    new_figure,
    place_labels,
    policy_colours,
    read_options,
    require_columns,
    save,
    styled,
)

X_LABELS = {
    "tpf": "Tokens per forward, TPF (tokens / denoise forward)",
    "tpf_true": "Tokens per forward, commits counted (tokens / forward)",
    "forwards_per_problem": "Denoise forwards per problem",
}


@dataclass(frozen=True, slots=True)
class FrontierOptions:
    """Options of the frontier figure.

    >>> FrontierOptions(x="tpf_true").panel_height_in
    2.5
    """

    x: str = "tpf"
    """`tpf`, `tpf_true` or `forwards_per_problem`."""
    thresholds: str = "ends"
    """Thresholds written at the points where there is room: `ends` (first and last), `all` or `none`."""
    policies: tuple[str, ...] = ()
    """Every policy of the experiment, what was trained from first: its place is its colour in all figures."""
    panel_height_in: float = 2.5
    """Height of one panel, inches."""


def draw(table: pd.DataFrame, out_dir: Path, options: FrontierOptions | Mapping[str, Any] | None = None) -> list[Path]:
    """Write frontier.pdf, .png and .csv; returns their paths."""
    return draw_as("frontier", table, out_dir, read_options(FrontierOptions, options))


def draw_as(name: str, table: pd.DataFrame, out_dir: Path, chosen: FrontierOptions) -> list[Path]:
    """The same under another name."""
    require_columns(
        table, ("policy", "role", "benchmark", "threshold", "accuracy_pct", "is_primary", chosen.x), "frontier"
    )
    benchmarks = list(dict.fromkeys(table["benchmark"]))
    policies = list(dict.fromkeys(table["policy"]))
    colours = policy_colours(policies, chosen.policies or policies)
    columns = 1 if len(benchmarks) == 1 else 2 if len(benchmarks) in (2, 4) else 3
    lines = -(-len(benchmarks) // columns)
    width = 4.6 if columns == 1 else PAGE_WIDTH_IN
    with styled():
        figure = new_figure(width, lines * (chosen.panel_height_in + 0.5 * (columns == 1)) + 0.3)
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, benchmark in zip(panels, benchmarks, strict=False):
            axes.set_title(benchmark)
            for number, policy in enumerate(policies):
                curve = table[(table["benchmark"] == benchmark) & (table["policy"] == policy)].sort_values(chosen.x)
                if len(curve):
                    colour = colours[policy]
                    before = sum(colours[other] == colour for other in policies[:number])
                    marker, dash = MARKERS[number % len(MARKERS)], DASHES[before % len(DASHES)]
                    curve_with_bars(axes, curve, chosen.x, colour, marker, policy, dash)
            axes.margins(x=0.09, y=0.10)
            _whole_percents(axes)
        for axes in panels[len(benchmarks) :]:
            axes.set_visible(False)
        figure.supxlabel(X_LABELS[chosen.x], fontsize=8.5)
        figure.supylabel("Accuracy (%)", fontsize=8.5)
        handles, names = _legend(panels[: len(benchmarks)], table)
        figure.legend(handles, names, loc="outside upper center", ncols=legend_columns(names, width))
        for axes, benchmark in zip(panels, benchmarks, strict=False):
            _threshold_labels(axes, table[table["benchmark"] == benchmark], chosen, colours)
        return save(figure, table, out_dir, name)


def curve_with_bars(
    axes: Axes, curve: pd.DataFrame, x: str, colour: str, marker: str, policy: str, dash: str = "-"
) -> None:
    """One policy's sweep with its intervals; the primary threshold large."""
    along, up = curve[x].to_numpy(), curve["accuracy_pct"].to_numpy()
    bars = {"ecolor": colour, "elinewidth": 0.8, "alpha": 0.45, "fmt": "none", "zorder": 2}
    axes.errorbar(along, up, yerr=_bar(curve, "accuracy_pct"), **bars)
    if f"{x}_low" in curve:
        axes.errorbar(along, up, xerr=_bar(curve, x), **bars)
    axes.plot(
        along, up, color=colour, marker=marker, linestyle=dash, markeredgecolor="white", markeredgewidth=0.6,
        label=policy, zorder=3,
    )  # fmt: skip
    primary = curve["is_primary"].to_numpy(bool)
    axes.plot(
        along[primary], up[primary], color=colour, marker=marker, markersize=8.5, linestyle="none",
        markeredgecolor=INK, markeredgewidth=1.0, zorder=4,
    )  # fmt: skip


def _bar(curve: pd.DataFrame, name: str) -> np.ndarray:
    """[2, points] lengths of the interval's two arms; a percentile interval may miss its estimate: then 0."""
    value = curve[name].to_numpy()
    arms = np.stack([value - curve[f"{name}_low"].to_numpy(), curve[f"{name}_high"].to_numpy() - value])
    return np.clip(arms, 0.0, None)


def _whole_percents(axes: Axes) -> None:
    low, high = axes.get_ylim()
    if high - low < 4:  # a flat curve must not fill the panel with noise
        low, high = low - 2, high + 2
    axes.set_ylim(max(low, -3.0), min(high, 103.0))


def _legend(panels: np.ndarray, table: pd.DataFrame) -> tuple[list[Any], list[str]]:
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    shown = " or ".join(f"{threshold:g}" for threshold in sorted(set(table.loc[table["is_primary"], "threshold"])))
    found[f"large: τ = {shown}"] = Line2D(
        [], [], linestyle="none", marker="o", markersize=7.5, color="white", markeredgecolor=INK, markeredgewidth=1.0
    )
    return list(found.values()), list(found)


def _threshold_labels(axes: Axes, rows: pd.DataFrame, chosen: FrontierOptions, colours: Mapping[str, str]) -> None:
    if chosen.thresholds == "none":
        return
    labels, avoid = [], []
    for policy, curve in rows.groupby("policy", sort=False):
        curve = curve.sort_values(chosen.x)
        along, up = curve[chosen.x].to_numpy(), curve["accuracy_pct"].to_numpy()
        at = np.linspace(0, max(len(curve) - 1, 0), 24 * len(curve))
        avoid += list(zip(np.interp(at, range(len(curve)), along), np.interp(at, range(len(curve)), up), strict=True))
        avoid += 4 * list(zip(along, up, strict=True))  # covering a marker is worse than crossing a line
        for x, bottom, top in zip(along, curve["accuracy_pct_low"], curve["accuracy_pct_high"], strict=True):
            avoid += [(x, y) for y in np.linspace(bottom, top, 8)]
        for i, (threshold, primary) in enumerate(zip(curve["threshold"], curve["is_primary"], strict=True)):
            at_end = len(curve) > 1 and not primary and i in (0, len(curve) - 1)
            if chosen.thresholds == "all" or at_end:
                text_style = {"color": colours[str(policy)], "fontsize": 8}
                labels.append((float(along[i]), float(up[i]), f"τ={threshold:g}", text_style, i == 0))
    labels.sort(key=lambda label: label[4])  # the fast end first: it is the less crowded one
    place_labels(axes, [label[:4] for label in labels], avoid, worst=20.0)
