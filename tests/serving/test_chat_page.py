"""The chat page in Chromium against a running server."""

import os
import re
from pathlib import Path

import pytest
from fixtures.browser import Browser
from fixtures.serving import serving

from lightningrl.inference.policy import policy_of
from lightningrl.serving.page import render_page

KEY = "0123456789abcdef"
ASK = "document.getElementById('question').value = %r; document.getElementById('form').requestSubmit();"
CELLS = """[...document.querySelectorAll('.turn.assistant:last-child .t')].map(
    (e) => [e.textContent, Number(e.dataset.forward ?? 0), e.className.split(' ').includes('on')])"""
DONE = "document.querySelectorAll('.turn.assistant.done').length === %d && document.getElementById('send').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


def test_the_page_is_self_contained_and_a_models_name_is_no_markup():
    page = render_page("</script><img src=x onerror=alert(1)>{{style}}", True)
    assert page.count("<script") == render_page("tiny", False).count("<script") and "<img" not in page
    assert not re.search(r"https?:|@import|url\(|<link|\bsrc=|import\(|innerHTML", render_page("tiny", False))
    assert "{{functions}}" not in page and "function make(" in page


def test_an_answer_is_revealed_cell_by_cell_and_stays_in_the_colours_of_its_forwards(browser, served, llm):
    browser.errors.clear()
    browser.open(served.url + "/")
    # Every state of the answer that the page goes through.
    browser.run("""window.seen = []; new MutationObserver(() => {
        const cells = [...document.querySelectorAll('.turn.assistant .t')];
        const on = cells.filter((e) => e.classList.contains('on')).length;
        seen.push([on, cells.length - on]);
    }).observe(document.getElementById('turns'), { subtree: true, childList: true, attributes: true })""")
    browser.run(ASK % "How many <b>legs</b>?")
    browser.until(DONE % 1)
    [completion] = llm.generate(["How many <b>legs</b>?"], policy_of())
    trajectory = completion.trajectory
    cells = browser.run(CELLS)
    assert [forward for _, forward, _ in cells] == trajectory.reveal_step[: trajectory.response_len].tolist()
    assert all(on for *_, on in cells)
    seen = browser.run("seen")
    assert any(on and masked for on, masked in seen), "the page never showed a block that is partly masked"
    assert max(on for on, _ in seen) >= len(cells)
    facts = browser.run("document.querySelector('.turn.assistant .facts').textContent")
    assert f"{trajectory.stats.tpf:.2f}" in facts and f"forwards{trajectory.stats.denoise_forwards}" in facts
    assert browser.run("document.querySelector('.turn.user').textContent") == "How many <b>legs</b>?"
    colours = browser.run("new Set([...document.querySelectorAll('.turn.assistant .t')].map("
                          "(e) => getComputedStyle(e.querySelector('.ink')).backgroundColor)).size")  # fmt: skip
    assert colours > 5
    if folder := os.environ.get("LIGHTNINGRL_PICTURES"):
        browser.picture(Path(folder) / "chat.png")
    assert browser.errors == []


def test_the_conversation_goes_on_and_a_new_one_forgets_it(browser, served, llm):
    browser.open(served.url + "/")
    browser.run("document.getElementById('most').value = 9;" + ASK % "Hi")
    browser.until(DONE % 1)
    browser.run(ASK % "And?")
    browser.until(DONE % 2)
    turns = browser.run("messages")
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
    [second] = llm.generate([turns[:3]], max_new_tokens=9)
    assert turns[3]["content"] == llm.tokenizer.decode(
        second.trajectory.response_ids[:9], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    browser.run("document.getElementById('new').click()")
    assert browser.run("messages.length + document.querySelectorAll('.turn').length") == 0


def test_an_answer_can_be_stopped_and_an_error_is_told_and_forgotten(browser, served):
    browser.open(served.url + "/")
    browser.run(ASK % ("x" * 400))
    told = browser.until("document.querySelector('.turn.failed .wrong')?.textContent")
    assert "the prompt has 419 tokens" in told and browser.run("messages.length") == 0
    browser.run("document.getElementById('new').click();" + ASK % "Hi")
    browser.until("document.querySelector('.turn.assistant .t.on') !== null")
    browser.run("document.getElementById('form').requestSubmit()")
    assert browser.until("document.querySelector('.wrong')?.textContent") == "stopped"
    assert browser.until("document.getElementById('send').textContent") == "Send"


def test_with_a_key_the_page_asks_for_it(browser, llm):
    with serving(llm, key=KEY) as server:
        browser.open(server.url + "/")
        assert browser.run("getComputedStyle(document.getElementById('keyed')).display") != "none"
        browser.run(ASK % "Hi")
        assert "needs its API key" in browser.until("document.querySelector('.wrong')?.textContent")
        browser.run(f"document.getElementById('key').value = '{KEY}';" + ASK % "Hi")
        browser.until(DONE % 1)
