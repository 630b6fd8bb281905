"""One torch thread, and `fixtures/` (shared helpers of the model, decoder, training and RL tests) on the path."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)


TOGETHER = {"test_rerun_matrix": "finished", "test_targets": "finished", "test_pin_reruns": "finished"}
"""Files that share a fixture of the session, which takes a minute to make."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup` a file's tests stay in one process, and so do files that share a fixture."""
    for item in items:
        name = item.path.stem
        item.add_marker(pytest.mark.xdist_group(TOGETHER.get(name, str(item.path))))


@pytest.fixture(autouse=True)
def _small_mirror_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror in the environment goes before the fixtures' own: it is for the tests that ask for the whole files."""
    if request.node.get_closest_marker("mirror") is None:
        monkeypatch.delenv("LIGHTNINGRL_DATA_MIRROR", raising=False)
