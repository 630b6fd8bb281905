"""What every attempt would fail at is tried once; the mark that says so goes when the stage is started again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from checkouts import Checkout

FAILING = """
import os
import sys

if "snakemake" not in " ".join(sys.orig_argv):
    from lightningrl import errors
    from lightningrl.pipeline import runner

    def fail(context):
        with open("starts", "a") as file:
            file.write("x")
        raise getattr(errors, os.environ["FAILS_BY"])("found one thing, expected another")

    runner.resolve = lambda reference: fail
"""


@pytest.mark.parametrize(("error", "starts"), [("CheckpointError", 1), ("StageError", 3)])
def test_what_may_succeed_is_tried_again_and_nothing_else(
    checkout: Checkout, tmp_path: Path, error: str, starts: int
) -> None:
    (tmp_path / "failing").mkdir()
    (tmp_path / "failing" / "sitecustomize.py").write_text(FAILING)
    variables = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "failing"), str(checkout.root)]), "FAILS_BY": error}
    asked = ("data_gsm-mini", "--cores", "1", "--no-hooks", "--retries", "2")
    done = checkout.snakemake(*asked, **variables)
    assert done.returncode != 0 and "found one thing, expected another" in done.stdout + done.stderr
    assert checkout.path("starts").read_text() == "x" * starts, done.stdout + done.stderr
    told = "not tried again, every attempt would end in the same way: CheckpointError: found one thing"
    assert (told in done.stderr) == (starts == 1)
    marks = lambda: list(checkout.path("logs").rglob("*.no-retry"))  # noqa: E731
    assert len(marks()) == (starts == 1)
    checkout.run_fakes(tmp_path / "fakes", *asked)
    assert not marks()
