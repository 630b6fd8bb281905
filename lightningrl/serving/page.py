"""The chat page: a conversation with the served model, whose answers are shown as they are revealed.

The page is chat_page.html with the style of the trace page, so that both look alike. It holds no data but the model's
name; it sets text, never HTML, and may connect to its own server alone.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from lightningrl.inference import trace_page
from lightningrl.inference.trace_text import colours

TEMPLATE = Path(__file__).with_name("chat_page.html")
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
MOST_COLOURS = 64
"""Forwards with colours of their own; later ones begin again."""


def render_page(model: str, needs_key: bool) -> str:
    """Returns the page of a model. needs_key: whether it asks its user for the server's API key."""
    trace = trace_page.TEMPLATE.read_text(encoding="utf-8")
    style, functions = (re.search(pattern, trace, re.DOTALL) for pattern in (STYLE, FUNCTIONS))
    assert style is not None and functions is not None
    data = {"model": model, "needs_key": needs_key, "colours": colours(MOST_COLOURS)}
    page = TEMPLATE.read_text(encoding="utf-8").replace("{{style}}", style[1], 1)
    page = page.replace("{{functions}}", functions[1], 1)
    page = page.replace("{{title}}", html.escape(f"{model} · lightningrl"), 1)
    return page.replace("{{data}}", trace_page.script_json(data), 1)  # last: a model's name is never a place


STYLE = r"<style>\n(.*?)</style>"
FUNCTIONS = r"(/\*\* An element with a class.*?)const named = "
"""What both pages share: `make`, which makes elements of text, and `visible`."""
