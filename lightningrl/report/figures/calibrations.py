"""Calibration against calibration: one method with the same options, shown the states a decoder visits or other data.

A row of panels is a benchmark, a panel a number at the primary threshold: accuracy, TPF, and KL on fixed states. A
group of bars is a policy and its bits, a bar a calibration; dashed: the policy's float weights.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from lightningrl.errors import StageError
from lightningrl.report.figures import style
from lightningrl.report.figures.frontier import arms
from lightningrl.report.quantization import with_states

SOURCES = {"decode": style.BLUE, "clean": style.ORANGE, "random": style.GREEN}
PANELS = (("accuracy_pct", "Accuracy (%)"), ("tpf", "Tokens per forward"), ("kl", "KL on float states (nats)"))
METHOD = ["benchmark", "weights", "quantizer", "bits", "activation_bits", "kv_bits", "options"]


@style.drawing("calibrations")
def calibrations(quantized: pd.DataFrame, probes: pd.DataFrame) -> style.Drawn:
    """Draws the methods that were calibrated in more than one way."""
    table = with_states(quantized[quantized["is_primary"].astype(bool)], probes).fillna({"options": ""})
    known = table[table["calibration"] != ""]
    ways = known[known.groupby(METHOD)["calibration"].transform("nunique") > 1]
    if ways.empty:
        raise StageError("figure calibrations: no method has two calibrations; leave it out of `report.figures`")
    benchmarks = list(dict.fromkeys(ways["benchmark"]))
    figure = style.new_figure(style.PAGE_WIDTH_IN, 2.6 * len(benchmarks) + 0.4)
    lines = figure.subplots(len(benchmarks), len(PANELS), squeeze=False)
    for line, benchmark in zip(lines, benchmarks, strict=True):
        line[0].set_title(benchmark)
        exact = table[(table["benchmark"] == benchmark) & (table["setting"] == "float")]
        for axes, (name, label) in zip(line, PANELS, strict=True):
            _bars(axes, ways[ways["benchmark"] == benchmark], exact, name)
            axes.set_ylabel(label)
    style.legend(figure, lines.ravel())
    return figure, ways


def _bars(axes: Axes, rows: pd.DataFrame, exact: pd.DataFrame, name: str) -> None:
    groups = list(rows.groupby(METHOD, sort=False))
    width = 0.8 / len(SOURCES)
    for place, (_, mine) in enumerate(groups):
        float_row = exact[exact["weights"] == mine["weights"].iloc[0]]
        if len(float_row) and name in ("accuracy_pct", "tpf"):
            axes.hlines(float_row[name].iloc[0], place - 0.45, place + 0.45, style.INK, (0, (4, 2)), linewidth=0.8)
        for number, (source, colour) in enumerate(SOURCES.items()):
            bar = mine[mine["calibration"] == source]
            if len(bar):
                at = place + width * (number - (len(SOURCES) - 1) / 2)
                errors = arms(bar, name) if f"{name}_low" in bar else None
                axes.bar(at, bar[name], 0.92 * width, color=colour, label=source, yerr=errors, ecolor=style.GREY,
                         error_kw={"elinewidth": 0.7})  # fmt: skip
    names = [f"{weights}, {quantizer} {bits:g}" for (_, weights, quantizer, bits, *_), _ in groups]
    axes.set_xticks(range(len(groups)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.grid(axis="x", visible=False)
