"""The linear layer is `F.linear`, forward and backward, whatever the number of rows."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from lightningrl.models import linear
from lightningrl.models.linear import LEAST_ROWS, ROWS_STEP, Linear


@pytest.fixture(autouse=True)
def on_any_processor(monkeypatch):
    monkeypatch.setattr(linear, "FASTER", linear.AVAILABLE)


def outcome(multiply, x, weight):
    """The product and the gradients of a function of it."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    found = multiply(x, weight)
    (found * torch.linspace(-1, 1, found.shape[-1], dtype=found.dtype)).square().sum().backward()
    return found.detach(), x.grad, weight.grad


def ours(x, weight):
    layer = Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    del layer.weight
    layer.weight = weight
    return layer(x)


@pytest.mark.parametrize("rows", [1, LEAST_ROWS - 1, LEAST_ROWS, LEAST_ROWS + 1, LEAST_ROWS + ROWS_STEP + 77])
@pytest.mark.parametrize("shape", [(128, 384), (384, 128), (5, 1), (128, 186)])
def test_it_is_the_product_in_float64_to_the_precision_of_float32(rows, shape):
    """The oracle is float64: both ways are as close to it, so ours is allowed three times `F.linear`'s own error."""
    torch.manual_seed(rows)
    x, weight = torch.randn(1, rows, shape[0]), torch.randn(shape[1], shape[0])
    exact = outcome(F.linear, x.double(), weight.double())
    theirs, found = outcome(F.linear, x, weight), outcome(ours, x, weight)
    for a, b, oracle in zip(found, theirs, exact, strict=True):
        scale = oracle.abs().max()
        assert a.shape == oracle.shape and a.is_contiguous()
        assert (a - oracle).abs().max() <= 3 * (b - oracle).abs().max() + 1e-7 * scale


def test_large_products_are_ours_padded_to_few_counts_of_rows_and_all_others_are_not(monkeypatch):
    calls, layer = [], Linear(8, 4)
    monkeypatch.setattr(linear, "_multiply", lambda x, w: calls.append(len(x)) or x @ w.t())
    for shape in ((LEAST_ROWS - 1, 8), (0, 8), (LEAST_ROWS, 8), (LEAST_ROWS + 1, 8), (2, LEAST_ROWS, 8)):
        assert layer(torch.randn(shape)).shape == (*shape[:-1], 4)
    layer.double()(torch.randn(LEAST_ROWS, 8).double())
    assert calls == [LEAST_ROWS, LEAST_ROWS + ROWS_STEP, 2 * LEAST_ROWS] * linear.AVAILABLE
    x = torch.randn(LEAST_ROWS, 8)
    assert linear._padded(x).data_ptr() == x.data_ptr(), "nothing to pad, nothing is copied"


def test_equal_inputs_give_equal_bits_on_any_number_of_threads_of_our_own():
    torch.manual_seed(0)
    xs, weight = [torch.randn(600 + 50 * i, 64) for i in range(6)], torch.randn(96, 64)
    once = [outcome(ours, x, weight) for x in xs]
    with ThreadPoolExecutor(3) as pool:
        again = list(pool.map(lambda x: outcome(ours, x, weight), xs))
    assert all(torch.equal(a, b) for pair in zip(once, again, strict=True) for a, b in zip(*pair, strict=True))
