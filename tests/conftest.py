"""One torch thread, and `fixtures/` (shared helpers of the model, decoder, training and RL tests) on the path."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _small_mirror_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror in the environment goes before the fixtures' own: it is for the tests that ask for the whole files."""
    if request.node.get_closest_marker("mirror") is None:
        monkeypatch.delenv("LIGHTNINGRL_DATA_MIRROR", raising=False)
