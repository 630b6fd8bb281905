"""Trainers over one tokenizer, and a rollout in float64 with advantages: what many tests here start from."""

import numpy as np
import pytest
import torch
from fixtures.tiny import make_trainer, requests_of, tiny_model, tiny_setup

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.selectors.threshold import Threshold


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with the tokenizer of `tiny_setup`."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_setup(folder)
    return folder


@pytest.fixture
def trainer_of(folder):
    """Makes the trainer of a run with these keys."""
    return lambda **run: make_trainer(tiny_setup(folder, **run))


@pytest.fixture(scope="session")
def rollout():
    """A policy, another base, twelve trajectories of unequal length with advantages and an NLL set."""
    model, base = tiny_model(4, torch.float64), tiny_model(4, torch.float64)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(0.97)
    requests = requests_of([1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 21, 12], 17)
    trajectories = BlockDecoder(model, (3, 7)).decode(requests, DecodePolicy(Threshold(0.3), 1.0))
    rng = np.random.default_rng(1)
    assert len({t.response_len for t in trajectories}) > 2
    return model, base, trajectories, rng.normal(size=12), rng.random(12) < 0.5
