"""The terminal's view says what the trace says, with and without colour, and sends nothing a terminal would obey."""

import io
import re

from fixtures.traced import trace_by_hand
from matplotlib.colors import to_rgb
from rich.console import Console

from lightningrl.inference.trace_text import colours, render

TRACE = trace_by_hand(
    ["Two", " cats", " have", "\n", "8", ".", "<end>", "<pad>", "<pad>", "<pad>"],
    [2, 1, 1, 2, 3, 3, 3, 3, 4, 4], response_tokens=7, special={6, 7, 8, 9},
)  # fmt: skip


def shown(trace, coloured, width=200):
    console = Console(
        file=io.StringIO(), width=width, force_terminal=coloured, color_system="truecolor" if coloured else None
    )
    console.print(render(trace, coloured=coloured))
    return console.file.getvalue()


STATS = "1.75 tokens per forward  (7 tokens, 4 forwards, blocks of 4)"


def test_without_colour_numbers_say_the_forward():
    text = shown(TRACE, coloured=False)
    assert STATS in text and "Two₂ cats have₁⏎\n₂│8.<end>₃{<pad>₃│<pad>×2₄}" in text
    assert "\x1b" not in text


def test_with_colour_each_token_stands_on_that_of_its_forward():
    text = shown(TRACE, coloured=True)
    assert STATS in text
    for token, forward in (("Two", 2), (" cats", 1), ("8", 3)):
        ground = colours(4)[forward - 1][0]
        rgb = ";".join(str(int(ground[i : i + 2], 16)) for i in (1, 3, 5))
        assert re.search(rf"48;2;{rgb}m{token}\x1b", text)


def test_what_a_terminal_would_obey_is_shown_not_sent():
    hostile = trace_by_hand(["a\x1b[2J", "\u202eb", "\x07\r", "\u2028[bold]"], [1, 1, 2, 2], model="m\x1b]0;x\x07")
    text = shown(hostile, coloured=False)
    assert not set("\x1b\u202e\x07\r\u2028") & set(text)
    assert "a␛[2J<U+202E>b₁␇␍<U+2028>[bold]₂" in text


def contrast(one, other):
    """WCAG 2.2: from 1 to 21, of the relative luminances of two sRGB colours."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_inks_are_readable_on_every_colour_and_later_is_lighter():
    table = colours(100)
    assert min(contrast(ground, ink) for ground, ink in table) >= 4.5
    against_white = [contrast(ground, "#ffffff") for ground, _ in table]
    assert against_white == sorted(against_white, reverse=True)
    assert len(colours(1)) == 1
