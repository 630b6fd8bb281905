"""The page on which a release opens: findings, the headline table, figures, replays, in one file without the network.

Figures and replays are inside the page, so that it can be handed on alone; what else the release holds is linked beside
it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light dark; --text: #1b1f27; --soft: #5a6270; --line: #d9dde4; --paper: #fff; --page: #f4f5f8; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8eaf0; --soft: #a3abb8; --line: #3a404c; --paper: #1d2129; --page: #14171d; }
}
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 0 0 .7rem; }
.soft { color: var(--soft); } a { color: inherit; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 1.1rem 1.3rem;
  margin-top: 1.1rem; overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
td small { display: block; color: var(--soft); white-space: nowrap; }
figure { margin: 0; } figure img { max-width: 100%; background: #fff; border-radius: 6px; }
.figures { display: grid; gap: 1.1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 500px), 1fr)); }
.figures section { margin-top: 0; } .figures { margin-top: 1.1rem; }
iframe { width: 100%; height: 640px; border: 0; border-radius: 6px; }
summary { cursor: pointer; font-weight: 600; }
"""


@dataclass(frozen=True, slots=True)
class Overview:
    """What a release shows first."""

    title: str
    sentences: Sequence[str]
    """What was found, in words."""
    tables: Mapping[str, str]
    """Name -> Markdown; the first is shown, the others unfold."""
    figures: Mapping[str, bytes]
    """Name -> PNG."""
    replays: Mapping[str, str]
    """Name -> a whole HTML page; the first is shown, the others unfold."""
    links: Mapping[str, str]
    """Text -> path of a file beside the page."""


def overview_page(overview: Overview) -> str:
    """Returns the page. Text of tables and sentences is shown, never obeyed; a replay runs its own script in a frame
    that has no access to this page."""
    links = " · ".join(f'<a href="{escape(path)}">{escape(text)}</a>' for text, path in overview.links.items())
    parts = [f'<h1>{escape(overview.title)}</h1>\n<p class="soft">{links}</p>']
    if overview.sentences:
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in overview.sentences)
        parts.append(f"<section><h2>In words</h2><ul>{items}</ul></section>")
    tables = {name: _table(markdown) for name, markdown in overview.tables.items()}
    frames = {name: f'<iframe sandbox="allow-scripts" loading="lazy" title="{escape(name)}" srcdoc="{escape(page)}">'
              "</iframe>" for name, page in overview.replays.items()}  # fmt: skip
    first, more = dict(list(tables.items())[:1]), dict(list(tables.items())[1:])
    parts += [f"<section>{body}</section>" for body in first.values()]
    if overview.figures:
        figures = "".join(_figure(name, png) for name, png in overview.figures.items())
        parts.append(f'<div class="figures">{figures}</div>')
    parts += [_folded(name, body) for name, body in more.items()]
    parts += [_folded(f"Replay: {name}", body, is_open=not at) for at, (name, body) in enumerate(frames.items())]
    head = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(overview.title)}</title>'
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    body = "\n".join(parts)
    return f"{head}{view}<style>{STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"


def _figure(name: str, png: bytes) -> str:
    data = base64.b64encode(png).decode()
    image = f'<img alt="{escape(name)}" src="data:image/png;base64,{data}">'
    return f"<section><h2>{escape(_heading(name))}</h2><figure>{image}</figure></section>"


def _heading(name: str) -> str:
    return name[:1].upper() + name[1:].replace("_", " ")


def _folded(name: str, body: str, is_open: bool = False) -> str:
    return f"<section><details{' open' * is_open}><summary>{escape(_heading(name))}</summary>{body}</details></section>"


def _table(markdown: str) -> str:
    """Returns HTML in which the interval of a number stands below it, so that a wide table fits a screen.

    >>> _table("| a |\\n| --- |\\n| 1.0 [0.9, 1.1] |").count("1.0 <small>[0.9, 1.1]</small>")
    1
    """
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    return re.sub(r"(<td[^>]*>[^<\[]*?)(\[[^\]<]*\])", r"\1<small>\2</small>", body)
