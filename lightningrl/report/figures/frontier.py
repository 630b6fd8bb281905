"""Accuracy against TPF, with a curve for each policy and a panel for each benchmark (paper's Figure 8d).

Points are the thresholds of the sweep, bars 95 % intervals over problems; the large point is the primary threshold. The
figure reads the `frontier` table. AUP, the area under these curves, is not drawn, nor other definitions of TPF than
`x`.
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

from lightningrl.report.figures import style

X_LABELS = {
    "tpf": "Tokens per forward, TPF (tokens / denoise forward)",
    "tpf_true": "Tokens per forward, commits counted (tokens / forward)",
    "forwards_per_problem": "Denoise forwards per problem",
}


@dataclass(frozen=True, slots=True)
class FrontierOptions:
    """Options of the frontier figure."""

    x: str = "tpf"
    """`tpf`, `tpf_true` or `forwards_per_problem`."""
    thresholds: str = "ends"
    """The thresholds written at the points where there is room: `ends` (first and last), `all` or `none`."""
    policies: tuple[str, ...] = ()
    """All policies of the experiment, the base first: a policy's place decides its colour in all figures."""
    panel_height_in: float = 2.5
    """Height of one panel, inches."""


def draw(table: pd.DataFrame, out_dir: Path, options: FrontierOptions | Mapping[str, Any] | None = None) -> list[Path]:
    """Writes frontier.pdf, .png and .csv; returns their paths."""
    return draw_as("frontier", table, out_dir, style.read_options(FrontierOptions, options))


def draw_as(name: str, table: pd.DataFrame, out_dir: Path, chosen: FrontierOptions) -> list[Path]:
    """Writes the figure under another name; returns the paths."""
    style.require_columns(
        table, ("policy", "role", "benchmark", "threshold", "accuracy_pct", "is_primary", chosen.x), "frontier"
    )
    benchmarks = list(dict.fromkeys(table["benchmark"]))
    policies = list(dict.fromkeys(table["policy"]))
    colours = style.policy_colours(policies, chosen.policies or policies)
    columns = 1 if len(benchmarks) == 1 else 2 if len(benchmarks) in (2, 4) else 3
    lines = -(-len(benchmarks) // columns)
    width = 4.6 if columns == 1 else style.PAGE_WIDTH_IN
    with style.styled():
        figure = style.new_figure(width, lines * (chosen.panel_height_in + 0.5 * (columns == 1)) + 0.3)
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, benchmark in zip(panels, benchmarks, strict=False):
            axes.set_title(benchmark)
            for number, policy in enumerate(policies):
                curve = table[(table["benchmark"] == benchmark) & (table["policy"] == policy)].sort_values(chosen.x)
                if len(curve):
                    colour = colours[policy]
                    before = sum(colours[other] == colour for other in policies[:number])
                    marker, dash = style.MARKERS[number % len(style.MARKERS)], style.DASHES[before % len(style.DASHES)]
                    curve_with_bars(axes, curve, chosen.x, colour, marker, policy, dash)
            axes.margins(x=0.09, y=0.10)
            _whole_percents(axes)
        for axes in panels[len(benchmarks) :]:
            axes.set_visible(False)
        figure.supxlabel(X_LABELS[chosen.x], fontsize=8.5)
        figure.supylabel("Accuracy (%)", fontsize=8.5)
        style.legend(figure, panels[: len(benchmarks)], _primary_handle(table))
        for axes, benchmark in zip(panels, benchmarks, strict=False):
            _threshold_labels(axes, table[table["benchmark"] == benchmark], chosen, colours)
        return style.save(figure, table, out_dir, name)


def curve_with_bars(
    axes: Axes, curve: pd.DataFrame, x: str, colour: str, marker: str, policy: str, dash: str = "-"
) -> None:
    """Draws one policy's sweep with its intervals, and the primary threshold large."""
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
        markeredgecolor=style.INK, markeredgewidth=1.0, zorder=4,
    )  # fmt: skip


def _bar(curve: pd.DataFrame, name: str) -> np.ndarray:
    """Returns [2, points] the lengths of the interval's arms; 0 where a percentile interval misses its estimate."""
    value = curve[name].to_numpy()
    arms = np.stack([value - curve[f"{name}_low"].to_numpy(), curve[f"{name}_high"].to_numpy() - value])
    return np.clip(arms, 0.0, None)


def _whole_percents(axes: Axes) -> None:
    low, high = axes.get_ylim()
    if high - low < 4:  # a flat curve must not fill the panel with noise
        low, high = low - 2, high + 2
    axes.set_ylim(max(low, -3.0), min(high, 103.0))


def _primary_handle(table: pd.DataFrame) -> dict[str, Line2D]:
    shown = " or ".join(f"{threshold:g}" for threshold in sorted(set(table.loc[table["is_primary"], "threshold"])))
    marker = {"marker": "o", "markersize": 7.5, "color": "white", "markeredgecolor": style.INK, "markeredgewidth": 1.0}
    return {f"large: τ = {shown}": Line2D([], [], linestyle="none", **marker)}


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
    style.place_labels(axes, [label[:4] for label in labels], avoid, worst=20.0)
