"""Traces as one self-contained HTML page: no network, no other file; the same traces give the same bytes.

The page is trace_page.html with the traces as JSON in it. The texts come from a model, so they must never be markup:
the JSON has no `<`, `>` or `&` and no character beyond ASCII, and the script sets text, never HTML.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightningrl.inference.trace import Trace
from lightningrl.inference.trace_text import colours, visible

TEMPLATE = Path(__file__).with_name("trace_page.html")


def render_page(traces: Sequence[Trace]) -> str:
    """Returns the page, with a pane for each trace, side by side, on one scale of forwards."""
    title = "Trace: " + " and ".join(visible(trace.model) for trace in traces)
    page = TEMPLATE.read_text(encoding="utf-8").replace("{{data}}", script_json(page_data(traces)), 1)
    return page.replace("{{title}}", html.escape(title), 1)  # the first place is the template's, whatever the data say


def page_data(traces: Sequence[Trace]) -> dict[str, Any]:
    """Returns the data that the page's script reads."""
    longest = max(trace.forwards for trace in traces)
    return {"traces": [asdict(trace) for trace in traces], "colours": colours(longest)}


def script_json(value: Any) -> str:
    """Returns JSON that means the same inside a script element, whatever its strings contain.

    >>> script_json("</script>&")
    '"\\\\u003c/script\\\\u003e\\\\u0026"'
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
