"""Copies of the repository: `checkout`, `bare` and `finished`.

`finished` was run by Snakemake itself, so that its metadata are there; only the stages' own code was replaced by one
that writes file names, because what runs next does not depend on what the files say.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from checkouts import Checkout, copy_repository
from filelock import FileLock


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh copy, in which nothing has run."""
    return copy_repository(tmp_path / "repository")


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy in which nothing ever runs, for all tests that only ask what would run."""
    return copy_repository(tmp_path_factory.mktemp("bare") / "repository")


@pytest.fixture(scope="session")
def _finished_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Checkout:
    """Made by whichever process of the suite needs it first, for all of them."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    with FileLock(shared / "finished.lock"):
        root = shared / "finished" / "repository"
        if not (shared / "finished.ok").exists():
            root.parent.mkdir()
            copy_repository(root).run_fakes(shared / "fakes", "--cores", "2")
            (shared / "finished.ok").touch()
    return Checkout(root)


@pytest.fixture
def finished(_finished_once: Checkout, tmp_path: Path) -> Checkout:
    """A copy of a checkout in which every stage of nano has finished."""
    return _finished_once.copied(tmp_path / "repository")
