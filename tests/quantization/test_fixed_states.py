"""What quantisation moves on fixed states: against what a decoder saw on them, and against whole forwards by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.naive import Masked
from fixtures.tiny import MASK_ID, requests_of, tiny_model
from test_calibration import WAY_NAMES, WAYS, policy

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.quantization import fixed_states
from lightningrl.quantization.calibration import clean, random, visited
from lightningrl.quantization.fixed_states import moved
from lightningrl.quantization.protocol import Calibration, CalibrationSequence, Opened, make_quantizer
from lightningrl.quantization.registry import QUANTIZERS

THRESHOLD = 0.3
FULL = {"attention": "full", "qk_norm": False}


class Watched(BlockDecoder):
    """A decoder that keeps what its observer is told."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.chosen, self.confidence = [], []

    def decode(self, requests, policy, observer):
        self.observer = observer
        return super().decode(requests, policy, self)

    alternatives = 0

    def observe(self, seen):
        self.chosen.append(seen.chosen_n.copy())
        self.confidence.append(np.exp(seen.logp_n.astype(float)))
        self.observer.observe(seen)


@pytest.mark.parametrize(("shape", "words"), WAYS, ids=WAY_NAMES)
def test_on_its_own_states_a_model_says_what_its_decoder_saw(shape, words, monkeypatch):
    """Of every schedule the positions that it might reveal and those that it did; few are looked at at once."""
    model, decoder = tiny_model(3, **shape), Watched(tiny_model(3, **shape), [1])
    given = requests_of([5] * 6, 12, vocab=MASK_ID)
    found = visited(decoder.model, decoder, given, policy(THRESHOLD, **words), 10**6)
    chosen, confidence = (np.concatenate(each) for each in (decoder.chosen, decoder.confidence))
    how = moved(model, tiny_model(3, **shape), found, THRESHOLD)
    assert how is not None
    assert how.positions == len(chosen) and how.revealed == chosen.sum() > 6
    assert how.kl == pytest.approx(0, abs=1e-9) and how.flips == how.flips_all == 0
    assert how.confidence[0] == how.confidence[1] == pytest.approx(confidence.mean(), rel=1e-5)
    assert how.over_threshold[0] == pytest.approx((confidence > THRESHOLD).mean())
    worse = [
        moved(model, make_quantizer(QUANTIZERS["rtn"], {"bits": bits}).quantize(tiny_model(3, **shape), Calibration()),
              found, THRESHOLD) for bits in (8, 4, 2)
    ]  # fmt: skip
    assert 0 < worse[0].kl < worse[1].kl < worse[2].kl and worse[2].flips > 0
    whole, sizes = model.log_probs, []

    def noted(hidden):
        sizes.append(len(hidden))
        return whole(hidden)

    monkeypatch.setattr(model, "log_probs", noted)
    monkeypatch.setattr(fixed_states, "CHUNK_LOGITS", 3 * model.config.vocab_size)
    other = make_quantizer(QUANTIZERS["rtn"], {"bits": 2}).quantize(tiny_model(3, **shape), Calibration())
    assert np.allclose(
        np.hstack(moved(model, other, found, THRESHOLD)), np.hstack(worse[2]), rtol=1e-6
    )  # float32, by the chunk
    assert max(sizes) <= 3 and sum(sizes) == how.positions


@pytest.mark.parametrize("shift", [False, True])
@torch.no_grad()
def test_the_divergence_is_that_of_whole_forwards(shift):
    model, other = (tiny_model(3, logit_shift=shift, **FULL) for _ in range(2))
    make_quantizer(QUANTIZERS["rtn"], {"bits": 3}).quantize(other, Calibration())
    draw = np.random.default_rng(0)
    answers = [CalibrationSequence(draw.integers(2, MASK_ID, 5), draw.integers(2, MASK_ID, 11)) for _ in range(4)]
    drawn = random(model.config, answers, 10**6)
    gaps, sure, forwards = [], [], []
    for forward in drawn.forwards:
        ids, at = torch.from_numpy(forward.ids_N)[None], np.flatnonzero(forward.ids_N == MASK_ID)
        everything = Masked(torch.ones(len(forward.ids_N), len(forward.ids_N), dtype=torch.bool))
        p, q = (
            each.log_probs(each.hidden(ids, torch.arange(ids.shape[1])[None], everything))[0, at - shift].double()
            for each in (model, other)
        )
        opened = Opened(at - shift, np.arange(len(at)) % 2 == 0)
        forwards.append(replace(forward, opened=opened))
        gaps += torch.nn.functional.kl_div(q[:, :MASK_ID], p[:, :MASK_ID], reduction="none", log_target=True).sum(1)
        sure += p.exp().amax(1)
    how = moved(model, other, replace(drawn, forwards=forwards), THRESHOLD)
    assert how.positions == len(gaps) > 4 and how.revealed < how.positions
    assert how.kl == pytest.approx(float(np.mean(gaps)), rel=1e-4)
    assert how.confidence[0] == pytest.approx(float(np.mean(sure)), rel=1e-5)
    assert moved(model, other, clean(model.config, answers, 10**6), THRESHOLD) is None
