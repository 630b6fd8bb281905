"""`checkout`, a bare copy of the repository, and `finished`, one where nano has run.

`finished` was run by Snakemake itself, so that its metadata are there; only the stages' own code was replaced by one
that writes file names, because what runs next does not depend on what the files say.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from checkouts import FAKE_STAGES, IGNORED, Checkout, copy_repository
from filelock import FileLock


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Fresh: nothing has run."""
    return copy_repository(tmp_path / "repository")


@pytest.fixture(scope="session")
def _finished_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Checkout:
    """Made by whichever process of the suite needs it first, for all of them."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    with FileLock(shared / "finished.lock"):
        root = shared / "finished" / "repository"
        if not (shared / "finished.ok").exists():
            root.parent.mkdir()
            fakes = shared / "fakes"
            fakes.mkdir()
            (fakes / "sitecustomize.py").write_text(FAKE_STAGES)
            made = copy_repository(root)
            path = os.pathsep.join([str(fakes), str(made.root)])
            done = made.snakemake("--cores", "2", "--no-hooks", PYTHONPATH=path)
            assert done.returncode == 0, done.stdout + done.stderr
            (shared / "finished.ok").touch()
    return Checkout(root)


@pytest.fixture
def finished(_finished_once: Checkout, tmp_path: Path) -> Checkout:
    """A copy, times kept, of a checkout in which every stage of nano has finished."""
    root = tmp_path / "repository"
    shutil.copytree(_finished_once.root, root, symlinks=True, ignore=IGNORED)
    return Checkout(root)
