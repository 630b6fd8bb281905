"""One torch thread, and `fixtures/` (shared helpers of the model, decoder, training and RL tests) on the path."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)


TOGETHER = {"test_rerun_matrix": "finished", "test_targets": "finished", "test_pin_reruns": "finished"}
"""Files that share a fixture of the session, which takes a minute to make."""


FIRST = ("test_slurm", "test_kill", *TOGETHER, "test_rerun_paper", "test_thirdparty", "test_killed", "test_deployment")
"""Files that take minutes: begun first, so that no process has one of them left at the end."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests stay in one process, and so do files that share a fixture: see `test` in the Makefile."""
    items.sort(key=lambda item: item.path.stem not in FIRST)
    for item in items:
        name = item.path.stem
        item.add_marker(pytest.mark.xdist_group(TOGETHER.get(name, str(item.path))))


@pytest.fixture(autouse=True)
def _small_mirror_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror in the environment goes before the fixtures' own: it is for the tests that ask for the whole files."""
    if request.node.get_closest_marker("mirror") is None:
        monkeypatch.delenv("LIGHTNINGRL_DATA_MIRROR", raising=False)
