"""What answering by likelihood takes: positions and seconds of a benchmark of choices, from assumed lengths.

A choice of P context and L own tokens costs, under `bound`, a forward over the canvas for each set of masks, of which
there are `samples` or, where that is fewer, 2^L - 1; a model of blocks computes the P + L once and K positions a set of
each block. From left to right there are L sets. Which attention a checkpoint has its files say, which are not here yet:
one whose block size the config names is counted as one of blocks, any other as one of canvases, a causal one, too.
"""

from __future__ import annotations

from typing import NamedTuple

from lightningrl.bench.costs import Device, PhaseCost, Shares, operations_of, work_of
from lightningrl.bench.model_shape import Shape
from lightningrl.config.tasks import Likelihood


class Choices(NamedTuple):
    """Assumed means of a benchmark."""

    count: int
    context_tokens: float
    tokens: float
    """Tokens of one choice."""


KNOWN = {
    "piqa": Choices(2, 20, 22),
    "winogrande": Choices(2, 16, 8),
    "arc-easy": Choices(4, 30, 6),
    "arc-challenge": Choices(4, 35, 8),
    "hellaswag": Choices(4, 50, 28),
    "mmlu": Choices(4, 700, 1),  # with five worked examples
}
OTHER = Choices(4, 100, 10)


def likelihood_cost(
    shape: Shape, device: Device, shares: Shares, benchmark: str, problems: int, how: Likelihood, has_blocks: bool
) -> PhaseCost:
    """Returns the phase of answering so many problems on one device."""
    known = KNOWN.get(benchmark, OTHER)
    size = shape.block_size if has_blocks else known.tokens
    blocks = max(1.0, known.tokens / size)
    sets = 2.0 ** min(30.0, known.tokens / blocks) - 1
    states = min(how.samples, max(1.0, sets)) if how.method == "bound" else known.tokens / blocks
    whole = known.context_tokens + known.tokens
    positions = whole + blocks * states * size if has_blocks else states * whole
    scored = blocks * states * min(size, known.tokens) / 2
    work = work_of(positions, scored, whole) * problems * known.count
    operations = operations_of(work, shape)
    return PhaseCost(
        "evaluation", operations / (shares.reference * device.operations_per_s), float(work[0]), operations
    )
