"""The kernels against their twins, in Triton's interpreter: `TRITON_INTERPRET=1 pytest tests/models/interpreted.py`.

tests/models/test_kernels.py runs it in a process of its own, since Triton decides at import what a kernel becomes.
"""

import os

import pytest
import torch

from lightningrl.decoding import head_draw
from lightningrl.decoding.rng import row_key
from lightningrl.models.kernels import add_norm, norm_rope_write, silu_mul

DTYPES = (torch.float32, torch.bfloat16)
CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 2e-6}, torch.bfloat16: {"rtol": 1.6e-2, "atol": 1.6e-2}}
"""bfloat16: two steps of its 8 bits; the interpreter cuts off where a GPU rounds."""


@pytest.fixture(autouse=True)
def interpreted():
    assert os.environ.get("TRITON_INTERPRET") == "1", "set TRITON_INTERPRET=1: else the kernels are for a GPU"


def noise(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 96, 257])
def test_add_norm(dtype, width):
    given = noise(0, 3, width, dtype=dtype), noise(1, 3, width, dtype=dtype), noise(2, width, dtype=dtype), 1e-6
    (total, normed), expected = add_norm.launch(*given), add_norm.twin(*given)
    torch.testing.assert_close(total, expected[0], **CLOSE[dtype])
    torch.testing.assert_close(normed, expected[1], **CLOSE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 96, 1025])
def test_silu_mul(dtype, width):
    both = 3 * noise(0, 3, 2 * width, dtype=dtype)
    torch.testing.assert_close(silu_mul.launch(both), silu_mul.twin(both), **CLOSE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 2, 8), (3, 1, 6), (2, 2, 24)])
def test_norm_rope_write(dtype, normed, heads, kv_heads, size):
    qkv, positions = noise(0, 5, (heads + 2 * kv_heads) * size, dtype=dtype), torch.tensor([0, 3, 4, 30, 7])
    angle = noise(1, 31, size)
    norms = [noise(seed, size, dtype=dtype) if normed else None for seed in (2, 3)]
    slots = torch.tensor([9, 0, 4, 11, 5])
    found, expected = (
        (noise(4, 12, kv_heads, size, dtype=dtype), noise(5, 12, kv_heads, size, dtype=dtype)) for _ in "ab"
    )
    tables = angle.cos().to(dtype), angle.sin().to(dtype)
    q = norm_rope_write.launch(qkv, *norms, 1e-6, *tables, positions, slots, *found)
    wanted = norm_rope_write.twin(qkv, *norms, 1e-6, *tables, positions, slots, *expected)
    torch.testing.assert_close(q, wanted, **CLOSE[dtype])
    torch.testing.assert_close(found[0], expected[0], **CLOSE[dtype])
    assert torch.equal(found[1], expected[1]), "values are copied; the slots of no position are as they were"


def table(rows, temperature):
    """The columns of each row as the decoder has them: views of one table of int64."""
    columns = torch.zeros(rows, 5, dtype=torch.int64)
    columns[:, 1] = torch.tensor([row_key(7, 1, "t", i) for i in range(rows)])
    columns[:, 2] = 1 + torch.arange(rows)
    columns[:, 3] = torch.tensor([temperature[i % len(temperature)] for i in range(rows)], dtype=torch.float64).view(
        torch.int64
    )
    return columns[:, 1], columns[:, 2], columns[:, 3].view(torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("vocab", "usable"), [(24, 24), (2048, 2048), (5003, 4990), (4100, 2048)])
@pytest.mark.parametrize("temperature", [(0.0,), (1.0,), (0.0, 0.7, 2.0)])
def test_head_draw(dtype, vocab, usable, temperature):
    """The mask and padding rows would win if they could be drawn."""
    mask, rows, each = usable - 3, 3, 4
    logits = 3 * noise(vocab, rows * each, vocab)
    logits[:, [mask, *range(usable, vocab)]] = 50.0
    logits = logits.to(dtype)
    positions = torch.arange(100, 100 + rows * each)
    given = (logits, *table(rows, temperature), positions, usable, mask)
    (token, logp, entropy), expected = head_draw.launch(*given), head_draw.twin(*given)
    assert torch.equal(token, expected[0])
    torch.testing.assert_close(logp, expected[1], rtol=0, atol=5e-6)
    torch.testing.assert_close(entropy, expected[2], rtol=0, atol=2e-5)


def test_a_thousand_keyed_draws_are_the_samplers():
    """Uniforms within 1e-6 of a boundary would differ: about one draw in 1,000 at this vocabulary of 1,000 tokens."""
    logits, rows = noise(1, 1000, 1000), 1000
    given = (logits, *table(rows, (1.0,)), torch.arange(rows), 1000, 999)
    differ = (head_draw.launch(*given)[0] != head_draw.twin(*given)[0]).sum()
    assert int(differ) <= 3


def test_logits_that_are_not_finite_give_no_finite_log_probability():
    logits = noise(1, 4, 3000)
    logits[0, 17], logits[1, 2500], logits[2] = float("nan"), float("inf"), float("-inf")
    for temperature in (0.0, 1.0):
        given = (logits, *table(4, (temperature,)), torch.arange(4), 3000, 2999)
        for draw in (head_draw.launch, head_draw.twin):
            assert torch.isfinite(draw(*given)[1]).tolist() == [False, False, False, True]
