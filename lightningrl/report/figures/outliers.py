"""Outliers among the inputs of linear layers: `outliers`, a heat map over layers, and `surface`, the worst layer's.

The heat map has, for each policy and kind of token, the ratio of a token's greatest |x| to its median |x|, as the
99.9 % quantile, by layer and linear layer. The surface is |x| of single tokens, masked and clear ones, over channels.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.patches import Patch

from lightningrl.errors import StageError
from lightningrl.report.figures import style

MEASURE, SURFACE = "outlier_token_ratio", "surface "
KINDS = ("masked", "clear")
MISSING = "no probe looked at inputs; add `inputs` to `report.looks`, or leave the figures of outliers out"
MOST_WRITTEN = 12
"""Layers up to which the cells of a heat map have their numbers."""


@style.drawing("outliers")
def outliers(probes: pd.DataFrame) -> style.Drawn:
    """Draws the plain weights' heat maps, a row per policy, a column a kind of token."""
    table = probes[probes["measure"] == MEASURE]
    if table.empty:
        raise StageError(MISSING)
    parts = table["label"].str.extract(r"^(?P<layer>\d+)\.(?P<linear>\S+) (?P<kind>\w+)$")
    table = table.reset_index(drop=True).join(parts.reset_index(drop=True)).astype({"layer": int})
    table = table[table["kind"].isin(KINDS)]
    policies = _plain(table)
    table = table[table["policy"].isin(policies)]
    linears, layers = list(dict.fromkeys(table["linear"])), sorted(set(table["layer"]))
    norm = LogNorm(max(1.0, float(table["value"].min())), max(2.0, float(table["value"].max())))
    figure = style.new_figure(style.PAGE_WIDTH_IN, (0.55 + 0.28 * len(linears)) * len(policies) + 0.6)
    panels = figure.subplots(len(policies), len(KINDS), squeeze=False, sharex=True, sharey=True)
    for line, policy in zip(panels, policies, strict=True):
        for axes, kind in zip(line, KINDS, strict=True):
            mine = table[(table["policy"] == policy) & (table["kind"] == kind)]
            grid = mine.pivot_table(index="linear", columns="layer", values="value").reindex(linears, columns=layers)
            shown = axes.imshow(grid, norm=norm, cmap="viridis", aspect="auto")
            axes.set_xticks(range(len(layers)), layers)
            axes.set_yticks(range(len(linears)), [name.split(".")[-1] for name in linears])
            axes.set_title(f"{policy}, {kind} tokens")
            axes.grid(visible=False)
            if len(layers) <= MOST_WRITTEN:
                for (row, column), value in np.ndenumerate(grid.to_numpy()):
                    colour = "white" if norm(value) < 0.6 else style.INK
                    axes.text(column, row, f"{value:.3g}", ha="center", va="center", color=colour)
    figure.supxlabel("Layer", fontsize=8.5)
    figure.colorbar(shown, ax=panels.ravel().tolist(), label="greatest |x| over median |x|, 99.9 %")
    return figure, table


@style.drawing("surface")
def surface(probes: pd.DataFrame) -> style.Drawn:
    """Draws |x| over tokens and channels of each plain policy's worst layer."""
    table = probes[probes["measure"].str.startswith(SURFACE)].reset_index(drop=True)
    if table.empty:
        raise StageError(MISSING)
    parts = table["label"].str.extract(r"^(?P<token>\d+) (?P<kind>\w+) (?P<run>\d+)$")
    table = table.join(parts.astype({"token": int, "run": int}))
    policies = _plain(table)
    table = table[table["policy"].isin(policies)]
    figure = style.new_figure(style.PAGE_WIDTH_IN, 3.4)
    for number, policy in enumerate(policies, 1):
        mine = table[table["policy"] == policy]
        axes = figure.add_subplot(1, len(policies), number, projection="3d")
        grid = mine.pivot(index="token", columns="run", values="value")
        channels = grid.columns.to_numpy() * (mine["count"].iloc[0] / len(grid.columns))
        x, y = np.meshgrid(channels, grid.index)
        kinds = mine.drop_duplicates("token").sort_values("token")["kind"].to_numpy()
        colours = np.where(kinds[:, None] == "masked", style.VERMILLION, style.BLUE).repeat(len(channels), 1)
        axes.plot_surface(x, y, grid.to_numpy(), facecolors=colours, rstride=1, cstride=1, linewidth=0, shade=True)
        axes.set_title(f"{policy}: {mine['measure'].iloc[0].removeprefix(SURFACE)}")
        axes.set_xlabel("Channel", labelpad=-4)
        axes.set_ylabel("Token", labelpad=-4)
        axes.set_zlabel("|x|", labelpad=-4)
        axes.tick_params(labelsize=6.5, pad=-2)
        axes.view_init(elev=28, azim=-60)
    colours = zip(KINDS, (style.VERMILLION, style.BLUE), strict=True)
    style.legend(figure, [], {f"{kind} tokens": Patch(color=colour) for kind, colour in colours})
    return figure, table


def _plain(table: pd.DataFrame) -> list[str]:
    """Returns the probed policies that are as they were trained, at most two: of the base's role first."""
    rows = table.drop_duplicates("policy").sort_values("role", key=lambda role: role != "before", kind="stable")
    names = list(rows["policy"])
    own = [name for name in names if not any(name != other and name.startswith(f"{other}-") for other in names)]
    return (own or names)[:2]
