"""The memory of quantising that `lightningrl plan` says, against bytes alive: of small models, by every method.

On a CPU the host's codes count as well.
"""

import numpy as np
import pytest
import torch
from fixtures.alive import AliveBytes
from fixtures.tiny import requests_of, tiny_model

from lightningrl.bench.estimate import quantization
from lightningrl.bench.model_shape import Shape
from lightningrl.bench.quantizing_memory import SAMPLED_ROWS, QuantizingMemory
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.scheduler import PREFILL_TOKENS
from lightningrl.inference.policy import policy_of
from lightningrl.quantization import awq, duquant
from lightningrl.quantization.calibration import ROWS, clean, visited
from lightningrl.quantization.protocol import Calibration, CalibrationSequence, make_quantizer
from lightningrl.quantization.registry import QUANTIZERS

WIDE = {
    "vocab_size": 200, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 32,
}  # fmt: skip
SHAPE = Shape(**WIDE, block_size=4)
OPTIONS = {"gptq": {"group": 32}, "awq": {"group": 32}, "duquant": {"block": 32, "steps": 2}}
LENGTH, PROBLEMS = 128, 6
TABLES = 40_000
"""Bytes of what grows with nothing here: the rotations of 128 positions, indices, permutations."""


def wide_model(dtype):
    return tiny_model(0, dtype=dtype, mask_token_id=199, **WIDE)


def texts():
    draw = np.random.default_rng(0)
    return [CalibrationSequence(draw.integers(0, 199, 28), draw.integers(0, 199, LENGTH - 28)) for _ in range(PROBLEMS)]


def counted(alive, model):
    """Lets it know the model's weights."""
    for weight in model.parameters():
        weight.detach()[..., :1].clone()


@pytest.mark.parametrize(
    ("method", "dtype"), [("gptq", torch.float32), *((method, torch.bfloat16) for method in QUANTIZERS)]
)
def test_bytes_alive_while_a_model_is_quantised_are_what_the_plan_says(method, dtype, monkeypatch):
    monkeypatch.setattr(awq, "RATIOS", awq.RATIOS[:2])  # which is time and no memory
    monkeypatch.setattr(awq, "SHARES", awq.SHARES[:2])
    model, looks = wide_model(dtype), method not in ("rtn", "noise")
    found = clean(model.config, texts(), 10**6) if looks else Calibration()
    quantizer = make_quantizer(QUANTIZERS[method], OPTIONS.get(method, {}))
    with AliveBytes() as alive, alive.at("quantise"):
        counted(alive, model)
        quantizer.quantize(model, found)
    length, group = LENGTH * looks, getattr(quantizer, "group", 0)
    said = QuantizingMemory(
        SHAPE, method, dtype.itemsize, found.tokens, length, length, group=group, keeps_codes=True
    )  # fmt: skip
    peak, planned = alive.peaks["quantise"] - TABLES, max(said.totals().values())
    assert peak <= planned < 1.4 * peak


@pytest.mark.parametrize("attention", ["block_causal", "full"])
def test_bytes_alive_while_a_calibration_is_decoded_are_at_most_what_the_plan_says(attention):
    model = tiny_model(0, dtype=torch.bfloat16, mask_token_id=199, attention=attention, **WIDE)
    is_canvas = attention == "full"
    words = {"schedule": "full_sequence", "schedule_options": {"block_size": 4}} if is_canvas else {}
    with AliveBytes() as alive, alive.at("decoding"):
        counted(alive, model)
        requests, decoder = requests_of([28] * ROWS, 20, vocab=199), BlockDecoder(model, [1])
        visited(model, decoder, requests, policy_of(parameter=0.1, **words), 10**6)
    largest = ROWS * (48 if is_canvas else 28)
    said = QuantizingMemory(SHAPE, "gptq", 2, 1, largest, ROWS * 48, open_positions=ROWS * 4)
    peak, planned = alive.peaks["decoding"] - TABLES, said.totals()["decoding"]
    assert peak <= planned < 2 * peak


def test_the_plan_counts_the_rows_that_are_looked_at():
    assert (quantization.ROWS, quantization.PREFILL_POSITIONS) == (ROWS, PREFILL_TOKENS)
    assert {"duquant": 2 * duquant.SEARCHED_ROWS, "awq": 2 * awq.SAMPLED_TOKENS} == SAMPLED_ROWS
