"""One small checkpoint with a byte tokenizer for all tests of this folder; nobody writes into it."""

import pytest
from fixtures.byte_checkpoint import save_byte_checkpoint

from lightningrl.inference.llm import LLM


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return save_byte_checkpoint(tmp_path_factory.mktemp("inference") / "model")


@pytest.fixture(scope="session")
def llm(model):
    return LLM(model)
