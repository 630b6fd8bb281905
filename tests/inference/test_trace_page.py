"""The page needs nothing else, takes no text for markup, and works in a browser."""

import dataclasses
import json
import re
import shutil
import subprocess

import pytest
from fixtures.limits import HANG_S
from fixtures.traced import trace_by_hand

from lightningrl.inference.trace_page import page_data, render_page

HOSTILE = ["</script><img src=x onerror=alert(1)>", "\"'`${1}", "\u202e\x1b\0", "<!--", " \u2028&amp;", "{{title}}"]
SLOW = trace_by_hand(["Two", " cats", " have", " 8", " legs", ".", "<end>", "<pad>"], [3, 1, 2, 4, 6, 5, 7, 8],
                     response_tokens=7, special={6, 7}, model="slow")  # fmt: skip
FAST = trace_by_hand(["Two", " cats", ":", " 8"], [2, 1, 1, 3], model="fast")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def data_of(page):
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_the_page_holds_the_traces_as_they_are():
    traces = [SLOW, FAST, trace_by_hand(HOSTILE, [1, 1, 2, 2, 3, 3])]
    assert data_of(render_page(traces)) == json.loads(json.dumps(page_data(traces)))
    assert data_of(render_page(traces))["traces"][0] == json.loads(json.dumps(dataclasses.asdict(SLOW)))


def test_the_page_is_self_contained_and_the_same_traces_give_the_same_bytes():
    page = render_page([SLOW])
    assert page == render_page([SLOW])
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|<link|\bsrc=|\bfetch\(|import\(", page)
    assert "default-src 'none'" in page


def test_no_text_is_markup():
    hostile = trace_by_hand(
        HOSTILE, [1, 1, 2, 2, 3, 3], model="<b>{{data}}</b>", prompt="</title><script>alert(1)</script>"
    )
    page, tame = render_page([hostile]), render_page([SLOW])
    assert page.count("<script") == tame.count("<script") and page.count("<!--") == tame.count("<!--")
    assert "<img" not in page and "<b>{" not in page
    assert not re.search("[\0-\x08\x0b-\x1f\u2028\u2029\u202a-\u202e\u2066-\u2069]", page)
    assert "innerHTML" not in page


@pytest.fixture
def dom(tmp_path):
    """The page's DOM after its script, and then another, ran at a given address hash."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: the page is not tried in a browser (apt-get install chromium)")

    def load(traces, fragment="", then=""):
        page = tmp_path / "trace.html"
        page.write_text(render_page(traces).replace("</body>", f"<script>{then}</script></body>"), encoding="utf-8")
        done = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri() + fragment],
            capture_output=True, text=True, timeout=HANG_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return load


def classes(html):
    return re.findall(r'<span class="(t [^"]*)"', html)


def test_at_a_step_in_the_middle_the_browser_shows_what_is_so_then(dom):
    html = dom([SLOW, FAST], "#step=3&theme=dark")
    slow, fast = classes(html)[:8], classes(html)[8:]
    later = ["t later", "t later", "t later special", "t later special behind"]
    assert slow == ["t on now", "t on", "t on", "t masked", *later]
    assert fast == ["t on", "t on", "t on", "t on now"]
    assert "forward 3 of 8" in html and 'data-theme="dark"' in html
    assert "✓ done after 3 forwards" in html and "3 of 7 tokens" in html


def test_the_browser_opens_the_page_at_the_end_and_runs_nothing_of_the_texts(dom):
    html = dom([trace_by_hand(HOSTILE, [1, 1, 2, 2, 3, 3], prompt="<img src=x onerror=alert(1)>")])
    assert all("on" in each.split() for each in classes(html))
    assert "<img" not in html and "&lt;U+202E&gt;␛␀" in html


KEY = 'document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "%s", bubbles: true}));'


def test_keys_step_and_a_token_in_focus_tells_its_alternatives(dom):
    focus = 'document.querySelectorAll(".t")[3].focus();'
    html = dom([SLOW], then=KEY % "ArrowLeft" + KEY % "ArrowLeft" + focus)
    assert "forward 6 of 8" in html and html.count('"t on now') == 1
    tip = html[html.index('id="tip"') :]
    for said in ("␣8", "revealed by forward 4, block 1", "confidence 50.0 %, entropy 0.25 nats", "--share: 50%"):
        assert said in tip, said
    assert "before the first" in dom([SLOW], then=KEY % "Home")


def test_a_masked_position_in_focus_tells_the_guess_and_clicking_goes_to_its_forward(dom):
    html = dom([SLOW], "#step=1", 'document.querySelectorAll(".t")[3].focus();')
    assert "still masked after forward 1, block 1: a guess" in html
    assert "forward 4 of 8" in dom([SLOW], "#step=1", 'document.querySelectorAll(".t")[3].click();')
