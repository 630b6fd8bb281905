"""What answering by likelihood is estimated to take, against counts by hand."""

import pytest

from lightningrl.bench.costs import Shares
from lightningrl.bench.estimate.budget import DEVICES
from lightningrl.bench.estimate.likelihood import KNOWN, likelihood_cost
from lightningrl.bench.model_shape import Shape
from lightningrl.config.tasks import Likelihood


@pytest.mark.parametrize(
    ("how", "has_blocks", "each"),
    [
        (Likelihood(samples=10), False, 10 * 43),  # ten canvases of the context and 8 tokens
        (Likelihood(samples=10), True, 43 + 10 * 32),  # the past once, ten states of one block
        (Likelihood(method="left_to_right"), False, 8 * 43),
    ],
)
def test_positions_of_a_benchmark(how, has_blocks, each):
    assert KNOWN["arc-challenge"] == (4, 35, 8)
    shape = Shape.of_size("8b", 32)
    found = likelihood_cost(shape, DEVICES["h100"], Shares(), "arc-challenge", 100, how, has_blocks)
    assert found.positions == 100 * 4 * each and found.seconds > 0
    letter = likelihood_cost(shape, DEVICES["h100"], Shares(), "mmlu", 1, Likelihood(), False)
    assert letter.positions == 4 * 701, "one letter has one set of masks"
