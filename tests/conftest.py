"""One torch thread, `fixtures/` (shared helpers) on the path, and the time limits of `fixtures/limits.py`."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)

from fixtures.limits import TEST_S  # noqa: E402 - found on the path from here on

settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # both are of wall time
settings.load_profile("tests")

FIRST = (
    "test_slurm", "test_kill", "test_rerun_matrix", "test_targets", "test_pin_reruns", "test_rerun_paper",
    "test_thirdparty", "test_killed", "test_deployment", "test_two_runs",
)  # fmt: skip
"""Files that take minutes: begun first, so that no process has one of them left at the end. (`--dist loadgroup` would
keep files together that share a fixture, but with pytest 9.2 pytest-xdist 3.8 no longer groups anything.)"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in FIRST)
    for item in items:
        item.add_marker(pytest.mark.timeout(4 * TEST_S if item.get_closest_marker("slow") else TEST_S))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """A stage or a benchmark that a test has run in this process may have taken more."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _small_mirror_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror in the environment goes before the fixtures' own: it is for the tests that ask for the whole files."""
    if request.node.get_closest_marker("mirror") is None:
        monkeypatch.delenv("LIGHTNINGRL_DATA_MIRROR", raising=False)
