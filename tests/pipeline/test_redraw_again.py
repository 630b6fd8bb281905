"""`lightningrl redraw` into a folder that has such tables or figures already."""

from pathlib import Path

from typer.testing import CliRunner

from lightningrl.cli.app import app


def redraw(*words):
    return CliRunner().invoke(app, ["redraw", "results/nano", "--out", "again", *words])


def test_tables_that_are_there_stay_unless_they_are_asked_to_go(two_versions):
    mine = Path("again/tables/main.csv")
    mine.parent.mkdir(parents=True)
    mine.write_text("precious\n")
    done = redraw("--table", "frontier", "--table", "main")
    assert done.exit_code == 2 and "main.csv already exists; name another file, or give --overwrite" in done.stderr
    assert mine.read_text() == "precious\n" and not Path("again/tables/frontier.csv").exists()
    assert redraw("--table", "frontier").exit_code == 0, "another table is in nobody's way"
    assert redraw("--table", "frontier", "--table", "main", "--overwrite").exit_code == 0
    assert mine.read_text() != "precious\n"
