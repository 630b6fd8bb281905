"""The page on which a release opens: it needs no other file, and shows text that looks like markup as text."""

from __future__ import annotations

from html.parser import HTMLParser

from lightningrl.report.overview import Overview, overview_page

HOSTILE = '<script>alert("x")</script>'


class Parts(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def _page(**changes: object) -> str:
    shown = {
        "title": HOSTILE, "sentences": [HOSTILE], "tables": {"main": f"| a |\n| --- |\n| {HOSTILE} 1.0 [0.9, 1.1] |"},
        "figures": {HOSTILE: b"png"}, "replays": {"a-1": f"<p>{HOSTILE}</p>", "a-2": "<p>second</p>"},
        "links": {HOSTILE: 'x" onclick="y'},
    }  # fmt: skip
    return overview_page(Overview(**(shown | changes)))  # pyright: ignore[reportArgumentType]


def test_text_is_shown_and_never_obeyed() -> None:
    parts = Parts(_page())
    assert not parts.named("script")
    assert [link.keys() for link in parts.named("a")] == [{"href": None}.keys()]


def test_a_replay_has_its_own_frame_without_access_to_the_page() -> None:
    frames = Parts(_page()).named("iframe")
    assert [frame["srcdoc"] for frame in frames] == [f"<p>{HOSTILE}</p>", "<p>second</p>"]
    assert {frame["sandbox"] for frame in frames} == {"allow-scripts"}
    assert [details.keys() for details in Parts(_page()).named("details")] == [{"open": 1}.keys(), {}.keys()]


def test_nothing_is_fetched() -> None:
    parts = Parts(_page())
    assert all(image["src"] == "data:image/png;base64,cG5n" for image in parts.named("img")) and parts.named("img")
    assert not parts.named("link")


def test_an_interval_stands_below_its_number_and_a_release_of_tables_alone_has_a_page() -> None:
    assert "1.0 <small>[0.9, 1.1]</small>" in _page(tables={"main": "| a |\n| --- |\n| 1.0 [0.9, 1.1] |"})
    page = Parts(_page(figures={}, replays={}, sentences=[], links={}))
    assert len(page.named("table")) == 1 and not page.named("iframe") + page.named("img")
