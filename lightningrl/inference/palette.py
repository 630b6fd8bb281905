"""Colours of forwards: early ones dark violet, late ones yellow, in steps that look equal to everyone.

The stops are of matplotlib's viridis (van der Walt and Smith 2015, CC0), without its darkest and lightest ends. Ink is
black or white, whichever reads better: its contrast is 4.5 or more at every colour.
"""

from __future__ import annotations

STOPS = (
    "#482475", "#453781", "#3b528b", "#31688e", "#287c8e", "#21918c", "#20a486", "#35b779", "#5ec962", "#90d743",
    "#c8e020", "#ece51b",
)  # fmt: skip
BLACK, WHITE = "#000000", "#ffffff"


def colours(forwards: int) -> list[tuple[str, str]]:
    """Background and ink of forwards 1 to `forwards`.

    >>> colours(2)
    [('#482475', '#ffffff'), ('#ece51b', '#000000')]
    """
    return [(ground, _ink(ground)) for ground in (_mixed(at / max(1, forwards - 1)) for at in range(forwards))]


def _mixed(share: float) -> str:
    place = share * (len(STOPS) - 1)
    low = min(int(place), len(STOPS) - 2)
    pairs = zip(_channels(STOPS[low]), _channels(STOPS[low + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (place - low)):02x}" for a, b in pairs)


def _ink(ground: str) -> str:
    return WHITE if contrast(ground, WHITE) >= contrast(ground, BLACK) else BLACK


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2, relative luminance of sRGB)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in _channels(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
