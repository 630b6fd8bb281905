"""Accuracy against TPF, with a curve for each policy and a panel for each benchmark (paper's Figure 8d).

`frontier` shows single runs, of the `frontier` table; `study` series of runs, each the mean over its seeds, without
ablations, and `ablations` the method beside its ablations, both of the `pooled` table. Points are the thresholds of the
sweep, bars 95 % intervals over problems (and seeds); the large point is the primary threshold. AUP, the area under
these curves, is not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lightningrl.errors import StageError
from lightningrl.evaluation.intervals import triple
from lightningrl.report.figures import style
from lightningrl.utils.numbers import shortest


@style.drawing("frontier")
def frontier(table: pd.DataFrame, *, policies: Sequence[str] = ()) -> style.Drawn:
    """Draws single runs. policies: all of the experiment, the base first; their places decide the colours."""
    return _panels("frontier", table, policies)


@style.drawing("study")
def study(table: pd.DataFrame) -> style.Drawn:
    """Draws the series that are no ablations."""
    return _panels("study", table[table["role"] != "ablation"].rename(columns={"series": "policy"}), height_in=3.2)


@style.drawing("ablations")
def ablations(table: pd.DataFrame) -> style.Drawn:
    """Draws the benchmarks that have ablations, with the base and only the first series of the method."""
    shown = []
    for _, rows in table.groupby("benchmark", sort=False):
        if (rows["role"] == "ablation").any():
            first = rows.loc[rows["role"] == "after", "series"].iloc[:1]
            shown.append(rows[rows["role"].isin(["before", "ablation"]) | rows["series"].isin(first)])
    rows = pd.concat(shown) if shown else table[:0]
    return _panels("ablations", rows.rename(columns={"series": "policy"}), height_in=3.2)


def _panels(name: str, table: pd.DataFrame, policies: Sequence[str] = (), height_in: float = 2.5) -> style.Drawn:
    """Returns the figure with panels of a height in inches, and the table."""
    style.require_columns(
        table, ("policy", "role", "benchmark", "threshold", "accuracy_pct", "tpf", "is_primary"), name
    )
    table, told = placed(table)
    if table.empty:
        raise StageError(f"figure {name}: no system here has a TPF to draw; leave it out of `report.figures`")
    benchmarks, drawn = list(dict.fromkeys(table["benchmark"])), list(dict.fromkeys(table["policy"]))
    colours = style.policy_colours(drawn, policies or drawn)
    columns = 1 if len(benchmarks) == 1 else 2 if len(benchmarks) in (2, 4) else 3
    lines = -(-len(benchmarks) // columns)
    width = style.SMALL_WIDTH_IN if columns == 1 else style.PAGE_WIDTH_IN
    figure = style.new_figure(width, lines * (height_in + 0.5 * (columns == 1)) + 0.3)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels[len(benchmarks) :]:
        axes.set_visible(False)
    panels = panels[: len(benchmarks)]
    for axes, benchmark in zip(panels, benchmarks, strict=True):
        axes.set_title(benchmark)
        for number, policy in enumerate(drawn):
            curve = table[(table["benchmark"] == benchmark) & (table["policy"] == policy)]
            if len(curve):
                before = sum(colours[other] == colours[policy] for other in drawn[:number])
                dash = style.DASHES[before % len(style.DASHES)]
                label = f"{policy} (TPF: server's word)" if policy in told else policy
                curve_with_bars(axes, curve, colours[policy], style.MARKERS[number % len(style.MARKERS)], label, dash)
        axes.margins(x=0.09, y=0.10)
        whole_percents(axes)
    figure.supxlabel("Tokens per forward, TPF (tokens / denoise forward)", fontsize=8.5)
    figure.supylabel("Accuracy (%)", fontsize=8.5)
    style.legend(figure, panels, _primary_handle(table))
    for axes, benchmark in zip(panels, benchmarks, strict=True):
        _threshold_labels(axes, table[table["benchmark"] == benchmark], colours)
    return figure, table


def placed(table: pd.DataFrame) -> tuple[pd.DataFrame, set[str]]:
    """Returns the rows that have a place, and the policies whose TPF is the word of a server that was not counted here.

    Rows of a server that tells no forwards have no place.
    """
    if table["tpf"].notna().all():
        return table, set()
    table = table.copy()
    told = table["tpf"].isna() & table.get("tpf_reported", pd.Series(np.nan, table.index)).notna()
    for name in triple("tpf"):
        table[name] = table[name].astype(float).where(~told, table.get(name.replace("tpf", "tpf_reported", 1)))
    return table[table["tpf"].notna()], set(table.loc[told, "policy"])


def curve_with_bars(axes: Axes, curve: pd.DataFrame, colour: str, marker: str, policy: str, dash: str = "-") -> None:
    """Draws one policy's sweep with its intervals, and the primary threshold large."""
    curve = curve.sort_values("tpf")
    primary = curve[curve["is_primary"].astype(bool)]
    axes.errorbar(
        curve["tpf"], curve["accuracy_pct"], xerr=arms(curve, "tpf"), yerr=arms(curve, "accuracy_pct"), ecolor=colour,
        elinewidth=0.8, alpha=0.45, fmt="none", zorder=2,
    )  # fmt: skip
    axes.plot(
        curve["tpf"], curve["accuracy_pct"], color=colour, marker=marker, linestyle=dash, markeredgecolor="white",
        markeredgewidth=0.6, label=policy, zorder=3,
    )  # fmt: skip
    axes.plot(
        primary["tpf"], primary["accuracy_pct"], color=colour, marker=marker, markersize=8.5, linestyle="none",
        markeredgecolor=style.INK, markeredgewidth=1.0, zorder=4,
    )  # fmt: skip


def arms(curve: pd.DataFrame, name: str) -> np.ndarray:
    """Returns [2, points] the lengths of the interval's arms; 0 where a percentile interval misses its estimate."""
    return np.clip([curve[name] - curve[f"{name}_low"], curve[f"{name}_high"] - curve[name]], 0.0, None)


def whole_percents(axes: Axes) -> None:
    low, high = axes.get_ylim()
    if high - low < 4:  # a flat curve must not fill the panel with noise
        low, high = low - 2, high + 2
    axes.set_ylim(max(low, -3.0), min(high, 103.0))


def _primary_handle(table: pd.DataFrame) -> dict[str, Line2D]:
    shown = " or ".join(map(shortest, sorted(set(table.loc[table["is_primary"], "threshold"]))))
    marker = {"marker": "o", "markersize": 7.5, "color": "white", "markeredgecolor": style.INK, "markeredgewidth": 1.0}
    return {f"large: τ = {shown}": Line2D([], [], linestyle="none", **marker)}


def _threshold_labels(axes: Axes, rows: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Writes the first and the last threshold of each curve where there is room, but for the primary one."""
    fast, slow, avoid = [], [], []
    for policy, curve in rows.groupby("policy", sort=False):
        curve = curve.sort_values("tpf")
        points = curve[["tpf", "accuracy_pct"]].to_numpy()
        at = np.linspace(0, len(curve) - 1, 24 * len(curve))
        avoid += list(np.stack([np.interp(at, range(len(curve)), column) for column in points.T], axis=1))
        avoid += 4 * list(points)  # covering a marker is worse than crossing a line
        for x, low, high in zip(curve["tpf"], curve["accuracy_pct_low"], curve["accuracy_pct_high"], strict=True):
            avoid += [(x, y) for y in np.linspace(low, high, 8)]
        if len(curve) > 1:
            for labels, end in ((fast, curve.iloc[-1]), (slow, curve.iloc[0])):
                if not end["is_primary"]:
                    name = f"τ={shortest(end['threshold'])}"
                    labels.append((end["tpf"], end["accuracy_pct"], name, colours[str(policy)]))
    style.place_labels(axes, [*fast, *slow], avoid, worst=20.0)  # the fast end first: it is the less crowded one
