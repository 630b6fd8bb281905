"""One small checkpoint and one server of it for all tests of this folder."""

import pytest
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.serving import serving

from lightningrl.inference.llm import LLM


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return save_byte_checkpoint(tmp_path_factory.mktemp("serving") / "model")


@pytest.fixture(scope="session")
def llm(model):
    return LLM(model)


@pytest.fixture(scope="session")
def served(llm):
    with serving(llm) as server:
        yield server
