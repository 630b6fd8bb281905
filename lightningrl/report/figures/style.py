"""What all figures share: the look, colours, smoothing, legends, label placement, and saving with fixed bytes.

Figures are drawn on `matplotlib.figure.Figure` objects, without pyplot and its global state, at their printed size with
text of 8 points or more. The same data gives the same PDF, PNG and CSV bytes on one machine and matplotlib version:
there are no dates or versions in the files, and the user's matplotlibrc is not used.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from lightningrl.errors import ConfigError
from lightningrl.report.formats import csv_text
from lightningrl.utils.files import write_bytes

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
"""Okabe and Ito's colour-blind safe palette, without its yellow, which is too faint for lines."""
GREY, INK = "#595959", "#222222"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":")
"""Dashes of lines that share a colour; their markers differ, too."""

SMALL_WIDTH_IN, PAGE_WIDTH_IN = 4.6, 6.9
"""The width of a figure of one panel, and of the whole text of a two-column paper, inches."""

Drawn = tuple[Figure, pd.DataFrame]
"""A figure, and the data that are plotted in it."""
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 9, "axes.labelsize": 8.5, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "legend.fontsize": 8, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.edgecolor": GREY,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": GREY, "ytick.color": GREY, "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.major.size": 3,
    "ytick.major.size": 3, "axes.grid": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "lines.linewidth": 1.5, "lines.markersize": 4.5, "legend.frameon": False, "legend.handlelength": 1.8,
    "figure.dpi": 100, "savefig.dpi": 200, "pdf.fonttype": 42, "svg.hashsalt": "lightningrl",
    "figure.constrained_layout.use": True, "axes.unicode_minus": True,
}  # fmt: skip


@contextmanager
def styled() -> Iterator[None]:
    """Applies our style over matplotlib's defaults while the context lasts; figures are drawn and saved inside it."""
    with rc_context():
        matplotlib.style.use(["default", STYLE])
        yield


def drawing(name: str) -> Callable[[Callable[..., Drawn]], Callable[..., list[Path]]]:
    """Decorates a function of tables: it takes a folder behind them, writes what was drawn there and returns the paths.

    The files are `name`.pdf, .png and .csv (the plotted data).
    """

    def decorate(function: Callable[..., Drawn]) -> Callable[..., list[Path]]:
        @wraps(function)
        def draw(*tables_and_folder: Any, **options: Any) -> list[Path]:
            *tables, out_dir = tables_and_folder
            written = {}
            with styled():
                figure, data = function(*tables, **options)
                for suffix, dates in (("pdf", ("Creator", "Producer", "CreationDate")), ("png", ("Software",))):
                    buffer = io.BytesIO()
                    figure.savefig(buffer, format=suffix, metadata=dict.fromkeys(dates))
                    written[Path(out_dir) / f"{name}.{suffix}"] = buffer.getvalue()
            written[Path(out_dir) / f"{name}.csv"] = csv_text(data).encode()
            for path, content in written.items():
                write_bytes(path, content)
            return list(written)

        return draw

    return decorate


def new_figure(width_in: float, height_in: float) -> Figure:
    """Returns an empty figure of a printed size, which can be measured (labels are placed by their drawn boxes)."""
    figure = Figure(figsize=(width_in, height_in))
    FigureCanvasAgg(figure)
    return figure


def require_columns(table: pd.DataFrame, columns: Iterable[str], figure: str) -> None:
    """Raises ConfigError when the table lacks a column or has no rows."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ConfigError(f"the {figure} figure needs the column(s) {', '.join(missing)}; check the table it is given.")
    if table.empty:
        raise ConfigError(f"the {figure} figure was given an empty table; run the stages that fill it, or drop it.")


def policy_colours(drawn: Iterable[str], policies: Sequence[str] = ()) -> dict[str, str]:
    """Returns each policy's colour: grey for the first of `policies`, the base, and the palette for the others.

    Policies that are not in the list take the colours behind it, in order.
    """
    known = list(policies) or [""]
    known += [policy for policy in dict.fromkeys(drawn) if policy not in known]
    return {policy: GREY if place == 0 else PALETTE[(place - 1) % len(PALETTE)] for place, policy in enumerate(known)}


def count_axis(axes: Axes, label: str = "") -> None:
    """Makes the x axis one of steps: few whole numbers, and no room left at the ends."""
    axes.set_xlabel(label)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def legend(figure: Figure, panels: Iterable[Axes], more: Mapping[str, Any] | None = None) -> None:
    """Writes one legend above the figure for the lines of all panels, each name once; more: further handles."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    found |= more or {}
    if found:
        widest = max(len(name) for name in found) * 0.085 + 0.6  # inches: letters, and the handle
        columns = max(1, min(len(found), int(figure.get_figwidth() / widest)))
        figure.legend(list(found.values()), list(found), loc="outside upper center", ncols=columns)


def place_labels(
    axes: Axes, labels: Sequence[tuple[float, float, str, str]], avoid: Sequence[tuple[float, float]], worst: float
) -> None:
    """Writes each (x, y, text, colour) near its point where it covers least of the points in `avoid`.

    It tries sixteen positions around each point, in the order of the labels (important ones first), and must be called
    when everything else is drawn, because it fixes the layout. `avoid` has data coordinates, with lines sampled
    densely. A label whose best place still costs more than `worst` (3 per covered point, 200 per covered label) is left
    out.
    """
    figure = axes.figure
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    obstacles = axes.transData.transform(np.array(avoid, float).reshape(-1, 2))
    frame = axes.get_window_extent(renderer)
    taken: list[Bbox] = []
    pixels = figure.dpi / 72
    places = [(gap, np.radians(angle)) for gap in (4.0, 8.0) for angle in (45, 90, 0, -45, 135, -90, 180, -135)]
    for x, y, text, colour in labels:
        note = axes.annotate(
            text, (x, y), (0, 0), textcoords="offset points", va="center", ha="center", color=colour, fontsize=8,
            path_effects=[withStroke(linewidth=1.6, foreground="white")], in_layout=False,
        )  # fmt: skip
        size = np.array(note.get_window_extent(renderer).size)
        anchor = axes.transData.transform((x, y))
        least, best = worst, None
        for gap, angle in places:
            offset = np.array([np.cos(angle), np.sin(angle)]) * (size / 2 + gap * pixels)
            low, high = anchor + offset - size / 2, anchor + offset + size / 2
            box = Bbox([low, high])
            covered = ((obstacles > low - 2) & (obstacles < high + 2)).all(1).sum()
            outside = (low < frame.min).any() or (high > frame.max).any()
            cost = 3.0 * covered + 0.2 * gap + 200.0 * box.padded(1.5).count_overlaps(taken) + 1000.0 * outside
            if cost < least:
                least, best = cost, (offset, box)
        if best is None:
            note.remove()
        else:
            note.set_position(best[0] / pixels)
            taken.append(best[1])
