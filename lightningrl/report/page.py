"""Markdown as an HTML page without scripts or other files, as the report shows tables and provenance."""

from __future__ import annotations

from html import escape

STYLE = (
    "body{font:14px/1.45 sans-serif;margin:1.5em;color:#222;background:#fff}"
    "table{border-collapse:collapse;margin:1em 0}"
    "th,td{padding:.25em .7em;border-bottom:1px solid #ddd;white-space:nowrap}th{border-bottom:2px solid #444}"
    "pre{font-size:12px}"
)


def html_page(title: str, markdown: str) -> str:
    """Returns the page; markup within the text is shown, never obeyed.

    >>> "<td>1.59</td>" in html_page("t", "| TPF |\\n| --- |\\n| 1.59 |"), "<b>" in html_page("t", "<b>bold</b>")
    (True, False)
    """
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    head = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
    return f"{head}<style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
