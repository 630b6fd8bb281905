"""What each target needs, in docs/paper_index.md, is what `lightningrl plan --targets` prints.

Run this file to write it anew.
"""

from __future__ import annotations

from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.pipeline.code_digest import PACKAGE

PAGE = PACKAGE.parent / "docs" / "paper_index.md"
START, END = "<!-- targets -->\n", "<!-- /targets -->"


def printed() -> str:
    config = PACKAGE.parent / "config" / "paper.yaml"
    done = CliRunner().invoke(app, ["plan", "--config", str(config), "--targets"])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_page_says_what_the_plan_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text[text.index(START) + len(START) : text.index(END)] == printed(), f"stale: run python {__file__}"


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8")
    after = before[: before.index(START) + len(START)] + printed() + before[before.index(END) :]
    PAGE.write_text(after, encoding="utf-8")
