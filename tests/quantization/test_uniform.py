"""Uniform grids: laws that hold for every matrix, an independent search, and GPTQ's own numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.quantization.uniform import QuantizedWeight, pack, quantize_weight, unpack

GOLDEN = load_file(Path(__file__).parents[1] / "fixtures" / "gptq_grid" / "asymmetric.safetensors")
GRIDS = [(bits, group, symmetric) for bits in (2, 3, 4, 8) for group in (0, 4) for symmetric in (True, False)]


def matrix(seed: int, rows: int = 6, inputs: int = 16) -> torch.Tensor:
    """Rows of very different sizes, one of zeros, one of equal numbers, one without a negative number."""
    weight = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed))
    weight *= torch.logspace(-4, 3, rows)[:, None]
    weight[0], weight[1], weight[2] = 0.0, 0.3, weight[2].abs() + 1.0
    weight[4, 3] = 0.0
    return weight


def assert_half_a_step(weight: torch.Tensor, found: QuantizedWeight) -> None:
    """A weight moves by at most half a step of its grid."""
    step_OI = found.scale_OG.repeat_interleave(weight.shape[1] // found.scale_OG.shape[1], dim=1)
    moved = (found.values(torch.float64) - weight.double()).abs()
    assert (moved <= step_OI.double() * (0.5 + 1e-5)).all()


@pytest.mark.parametrize(("bits", "group", "symmetric"), GRIDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_weight_moves_by_at_most_half_a_step_a_zero_not_at_all_and_twice_changes_no_code(
    bits, group, symmetric, seed
):
    weight = matrix(seed)
    found = quantize_weight(weight, bits, group, symmetric)
    assert_half_a_step(weight, found)
    assert found.values()[4, 3] == 0.0 and (found.values()[0] == 0.0).all()
    assert int(found.codes_OI.max()) < 2**bits and found.scale_OG.shape == (6, 4 if group else 1)
    again = quantize_weight(found.values(), bits, group, symmetric)
    flat = found.values().view(6, -1, group or 16).abs().amax(-1) == 0  # of a group of zeros any scale is as good
    torch.testing.assert_close(again.values(), found.values(), rtol=3e-7, atol=0)
    assert torch.equal(again.codes_OI, found.codes_OI)
    torch.testing.assert_close(again.scale_OG[~flat], found.scale_OG[~flat], rtol=3e-7, atol=0)


@pytest.mark.parametrize(("bits", "group", "symmetric"), GRIDS)
def test_each_code_is_the_nearest_of_all_codes(bits, group, symmetric):
    weight = matrix(11)
    found = quantize_weight(weight, bits, group, symmetric)
    for row in range(6):
        for column in range(16):
            g = column // (group or 16)
            scale, zero = float(found.scale_OG[row, g]), int(found.zero_OG[row, g])
            grid = scale * (np.arange(int(symmetric), 2**bits) - zero)
            nearest = np.abs(grid - float(weight[row, column])).min()
            mine = abs(scale * (int(found.codes_OI[row, column]) - zero) - float(weight[row, column]))
            assert mine <= nearest + 1e-6 * scale


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=8, max_size=8), st.sampled_from([2, 3, 4, 8]), st.booleans())
def test_half_a_step_for_any_numbers(numbers, bits, symmetric):
    weight = torch.tensor([numbers])
    assert_half_a_step(weight, quantize_weight(weight, bits, 4, symmetric))


@pytest.mark.parametrize("group", [0, 32])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_asymmetric_grid_is_gptqs(bits, group):
    name = f"b{bits}.g{group or -1}"
    found = quantize_weight(GOLDEN["weight"].float(), bits, group, symmetric=False)
    torch.testing.assert_close(found.scale_OG, GOLDEN[f"{name}.scale"], rtol=1e-6, atol=0)
    assert torch.equal(found.zero_OG, GOLDEN[f"{name}.zero"])
    if f"{name}.codes" in GOLDEN:
        assert torch.equal(found.codes_OI, GOLDEN[f"{name}.codes"])


def test_more_bits_and_smaller_groups_are_nearer():
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))

    def error(*options) -> float:
        return float((quantize_weight(weight, *options).values() - weight).norm() / weight.norm())

    for symmetric in (True, False):
        by_bits = [error(bits, 0, symmetric) for bits in range(2, 9)]
        assert by_bits == sorted(by_bits, reverse=True) and by_bits[-1] < 0.01
        assert error(4, 8, symmetric) < error(4, 32, symmetric) < error(4, 0, symmetric)
    with pytest.raises(ConfigError, match="group is 5, but a layer has 64 inputs"):
        quantize_weight(weight, 4, 5)


def test_a_range_that_no_step_can_cover_is_refused():
    weight = torch.tensor([[1.0, 2.0], [3e38, -3e38]])
    with pytest.raises(CheckpointError, match="row 1 of its weights goes from -3"):
        quantize_weight(weight, 4, symmetric=False)
    assert quantize_weight(weight, 4).values().isfinite().all()


@given(st.integers(2, 8), st.data())
def test_packed_codes_come_back(bits, data):
    codes = torch.tensor(data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40)), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert len(packed) == -(-len(codes) * bits // 8)
    assert torch.equal(unpack(packed, bits, len(codes)), codes)
