"""A trace for the terminal: each token stands on the colour of the forward that revealed it.

Tokens revealed outside the active block, ahead of it, are underlined, or their number has a plus.

Without colour (NO_COLOR, a file, a pipe), tokens that one forward revealed together end with its number as a subscript.
What follows the stop token is dimmed or in braces, equal special tokens are counted, and a bar separates blocks.
Characters that a terminal would obey are shown as signs, not sent.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from rich.console import Group
from rich.text import Text

from lightningrl.inference.trace import Trace

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
BLOCK_EDGE = "│"
LEGEND_STEPS = 12
NUMBERED_LEGEND = Text(f"subscript: the forward that revealed the tokens before it; {BLOCK_EDGE} between blocks; "
                       "{…} behind the stop token")  # fmt: skip


def colours(forwards: int) -> list[tuple[str, str]]:
    """Returns the background and the ink of forwards 1 to `forwards`: early ones dark violet, late ones yellow.

    They are matplotlib's viridis, whose steps look equal to everyone, without its darkest and lightest ends. The ink is
    black or white, whichever has the larger contrast ratio (WCAG 2.2): 4.5 or more on every colour.

    >>> colours(2)
    [('#482475', '#ffffff'), ('#ece51b', '#000000')]
    """
    grounds = colormaps["viridis"](np.linspace(0.1, 0.97, forwards))[:, :3]
    linear = np.where(grounds <= 0.04045, grounds / 12.92, ((grounds + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    inks = np.where((luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05), "#000000", "#ffffff")
    return [(to_hex(ground), str(ink)) for ground, ink in zip(grounds, inks, strict=True)]


def render(trace: Trace, *, coloured: bool, longest: int | None = None) -> Group:
    """Returns headline, response and legend. longest: the most forwards of the traces shown on one scale of colours."""
    longest = longest or trace.forwards
    head = Text.assemble(
        (visible(trace.model), "bold"),
        f"  {trace.tpf:.2f} tokens per forward  ({trace.response_tokens} tokens, {trace.forwards} forwards, blocks of "
        f"{trace.block_size})\n",
        (trace.policy, "dim"),
    )
    body = _coloured(trace, longest) if coloured else _numbered(trace)
    legend = _legend(trace, longest) if coloured else NUMBERED_LEGEND
    if not coloured and any(token.ahead for token in trace.tokens):
        legend = Text.assemble(legend, "; ₊ outside the active block")
    return Group(head, Text(""), body, Text(""), legend, Text(""))


def visible(text: str, newline: str = " ") -> str:
    """Returns the text with control, format (bidirectional, zero-width) and unpaired characters as harmless signs.

    >>> visible("a\\x1b[31m\\u202eb")
    'a␛[31m<U+202E>b'
    """
    return "".join(_sign(character, newline) for character in text)


def _sign(character: str, newline: str) -> str:
    if character == "\n":
        return newline
    if (code := ord(character)) < 0x20:
        return chr(0x2400 + code)
    is_seen = unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return character if is_seen else f"<U+{code:04X}>"


def _coloured(trace: Trace, longest: int) -> Text:
    table, text = colours(longest), Text()
    for run in _runs(trace):
        ground, ink = table[run.forward - 1] if run.forward else ("", "")
        text.append(BLOCK_EDGE if run.begins_block else "", "dim")
        for part in run.text.splitlines(keepends=True):  # no colour up to the right margin
            style = "dim" if run.behind else f"{ink} on {ground}"
            text.append(part.rstrip("\n"), f"{style} underline" if run.ahead else style)
            text.append("\n" if part.endswith("\n") else "")
    return text


def _numbered(trace: Trace) -> Text:
    text, behind = "", False
    for run, following in pairwise([*_runs(trace), None]):
        assert run is not None
        text += (BLOCK_EDGE if run.begins_block else "") + ("{" if run.behind and not behind else "") + run.text
        behind = run.behind
        if following is None or (following.forward, following.behind, following.ahead) != (
            run.forward, behind, run.ahead,
        ):  # fmt: skip
            text += str(run.forward).translate(SUBSCRIPTS) + "₊" * run.ahead
    return Text(text + "}" * behind)


@dataclass(frozen=True, slots=True)
class _Run:
    """A token, or several equal special ones that one forward revealed in one block."""

    text: str
    forward: int
    behind: bool
    begins_block: bool
    ahead: bool


def _runs(trace: Trace) -> Iterator[_Run]:
    def kind(at: int) -> tuple[Any, ...]:
        token, behind = trace.tokens[at], at >= trace.response_tokens
        return (token.text, token.forward, token.block, behind, token.ahead) if token.special else (at,)

    for _, run in groupby(range(len(trace.tokens)), kind):
        first, *others = run
        token = trace.tokens[first]
        text = visible(token.text, "⏎\n") + (f"×{len(others) + 1}" if others else "")
        begins = first > 0 and trace.tokens[first - 1].block != token.block
        yield _Run(text, token.forward, first >= trace.response_tokens, begins, token.ahead)


def _legend(trace: Trace, longest: int) -> Text:
    text = Text("forward 1 ", "dim")
    for ground, _ in colours(min(LEGEND_STEPS, longest)):
        text.append("  ", f"on {ground}")
    text.append(f" {longest}   {BLOCK_EDGE} between blocks", "dim")
    if any(token.ahead for token in trace.tokens):
        text.append("   underlined: revealed outside the active block", "dim")
    if trace.response_tokens < len(trace.tokens):
        text.append("   dim: behind the stop token, context only", "dim")
    return text
