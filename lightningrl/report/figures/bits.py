"""The frontier by bits: accuracy and tokens per forward of each method over bits a weight, scales included.

A column of panels is a benchmark, four of them a line; above accuracy, below TPF, at the primary threshold. Colours are
policies, markers methods; a dashed line is a policy's float weights. Settings that round inputs are hollow, noise of
the size of rounding errors is crosses, at the bits whose errors it has the size of.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lightningrl.quantization.values import UNROUNDED
from lightningrl.report.figures import style
from lightningrl.report.figures.frontier import arms

COLUMNS = ("policy", "benchmark", "weights", "setting", "quantizer", "bits", "effective_bits", "accuracy_pct", "tpf")
PANELS = (("accuracy_pct", "Accuracy (%)"), ("tpf", "Tokens per forward"))
COLUMNS_A_LINE = 4
"""Benchmarks beside each other, at most."""
SPREAD = 0.06
"""How far methods at the same bits stand apart."""


@style.drawing("bits")
def bits(quantized: pd.DataFrame) -> style.Drawn:
    """Draws every setting with the default calibration of its method."""
    style.require_columns(quantized, COLUMNS, "bits")
    table = quantized[quantized["is_primary"].astype(bool) & ~quantized["calibration"].isin(["clean", "random"])]
    table = table.assign(x=table["effective_bits"].fillna(table["bits"]))
    benchmarks, policies = (list(dict.fromkeys(table[name])) for name in ("benchmark", "weights"))
    colours = style.policy_colours(policies, policies)
    methods = dict(zip(dict.fromkeys(_method(row) for row in table.itertuples() if row.quantizer), cycle(style.MARKERS),
                       strict=False))  # fmt: skip
    columns = min(len(benchmarks), COLUMNS_A_LINE)
    lines = -(-len(benchmarks) // columns)
    figure = style.new_figure(style.PAGE_WIDTH_IN, 4.4 * lines + 0.6)
    panels = figure.subplots(2 * lines, columns, squeeze=False, sharex=True)
    for number in range(lines * columns):
        line, column = divmod(number, columns)
        pair = panels[2 * line : 2 * line + 2, column]
        if number >= len(benchmarks):
            for axes in pair:
                axes.set_visible(False)
            continue
        pair[0].set_title(benchmarks[number])
        for axes, (name, label) in zip(pair, PANELS, strict=True):
            for policy in policies:
                rows = table[(table["benchmark"] == benchmarks[number]) & (table["weights"] == policy)]
                _draw(axes, rows, name, colours[policy], methods)
            axes.set_ylabel(label if column == 0 else "")
        pair[1].set_visible(bool(table.loc[table["benchmark"] == benchmarks[number], "tpf"].notna().any()))
    figure.supxlabel("Bits a weight, scales included", fontsize=8.5)
    style.legend(figure, [], _handles(colours, methods))
    return figure, table


def _handles(colours: Mapping[str, str], methods: Mapping[str, str]) -> dict[str, Line2D]:
    """Returns what stands in the legend: a colour a policy, a dash for float weights, a marker a method."""
    found = {policy: Line2D([], [], color=colour, linewidth=3) for policy, colour in colours.items()}
    found["float"] = Line2D([], [], color=style.GREY, linestyle=(0, (4, 2)), linewidth=0.8)
    plain = {"color": style.GREY, "linestyle": "none"}
    return found | {
        method: Line2D([], [], marker=_marker(method, marker), markerfacecolor=_face(method, style.GREY), **plain)
        for method, marker in methods.items()
    }


def _marker(method: str, marker: str) -> str:
    return "x" if method == "noise" else marker


def _face(method: str, colour: str) -> str:
    return "white" if "inputs" in method else colour


def _method(row: object) -> str:
    inputs = getattr(row, "activation_bits", UNROUNDED)
    return f"{getattr(row, 'quantizer', '')}{'' if inputs == UNROUNDED else f', inputs {inputs:g}'}"


def _draw(axes: Axes, rows: pd.DataFrame, name: str, colour: str, methods: Mapping[str, str]) -> None:
    exact = rows[rows["setting"] == "float"]
    if len(exact):
        axes.axhline(float(exact[name].iloc[0]), color=colour, linestyle=(0, (4, 2)), linewidth=0.8, zorder=1)
    for number, (method, marker) in enumerate(methods.items()):
        mine = rows[np.array([_method(row) == method for row in rows.itertuples()], dtype=bool)].sort_values("x")
        if mine.empty:
            continue
        shift = SPREAD * (number - len(methods) / 2)
        axes.errorbar(
            mine["x"] + shift, mine[name], yerr=arms(mine, name), color=colour,
            marker=_marker(method, marker),
            linestyle="-" if len(mine) > 1 and method != "noise" else "none", linewidth=0.9, elinewidth=0.6,
            markersize=4.5, markerfacecolor=_face(method, colour), zorder=3,
        )  # fmt: skip
