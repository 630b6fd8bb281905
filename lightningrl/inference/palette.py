"""The colours of forwards: early ones dark violet, late ones yellow, in steps that look equal to everyone.

They are matplotlib's viridis without its darkest and lightest ends. The ink on them is black or white, whichever reads
better: its contrast is 4.5 or more on every colour.
"""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

BLACK, WHITE = "#000000", "#ffffff"


def colours(forwards: int) -> list[tuple[str, str]]:
    """Returns the background and the ink of forwards 1 to `forwards`.

    >>> colours(2)
    [('#482475', '#ffffff'), ('#ece51b', '#000000')]
    """
    grounds = [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0.1, 0.97, forwards))]
    return [(ground, max(WHITE, BLACK, key=lambda ink: contrast(ground, ink))) for ground in grounds]


def contrast(one: str, other: str) -> float:
    """Returns the contrast ratio of two colours, 1 to 21 (WCAG 2.2, relative luminance of sRGB)."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
