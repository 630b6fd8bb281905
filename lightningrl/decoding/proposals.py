"""What rankings and selectors look at: the positions that may be revealed now, with the tokens drawn for them.

Shapes: B rows; K block size. Tensors are on the model's device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class OpenPositions:
    """The tokens drawn at the open positions of a forward."""

    open_BK: Tensor
    """bool: masked, and the schedule lets it be revealed now; the other fields mean nothing elsewhere."""
    confidence_BK: Tensor
    """Probability of the drawn token at the decoding temperature (1 when greedy), before top-k and top-p."""
    entropy_BK: Tensor
    """The entropy of the whole distribution, nats."""
    noise_BK: Tensor | None = field(default=None, kw_only=True)
    """A uniform of its own for each position and forward, where the ranking or the selector has `uses_noise`."""
    margin_BK: Tensor | None = field(default=None, kw_only=True)
    """The likeliest token's probability minus the second's, where the ranking has `uses_margin`."""
    planner_BK: Tensor | None = field(default=None, kw_only=True)
    """The planner's logits, where the ranking has `uses_planner`."""


@dataclass(frozen=True, slots=True, eq=False)
class Proposals(OpenPositions):
    """Drawn positions with the ranking's number for each: what a selector chooses from."""

    score_BK: Tensor
    """The ranking's number, higher is sooner; -inf where a position is not open."""
    step_B: Tensor
    """int64: how many denoise forwards the block has had before this one, since it was opened."""
    must_B: Tensor | None = None
    """bool: where False, nothing need be revealed, and nothing is that does not pass the selector's rule by itself: it
    is a block of a window that is not full yet. None: True everywhere."""

    @property
    def must_B1(self) -> Tensor | bool:
        """`must_B` as a column."""
        return True if self.must_B is None else self.must_B[:, None]

    def best(self, count_B: Tensor) -> Tensor:
        """(B, K) bool: the highest ranked open positions, so many of each row that must reveal any."""
        best_BK = (places(self.score_BK, self.open_BK) < count_B[:, None]) & self.open_BK
        return best_BK if self.must_B is None else best_BK & self.must_B1


class Bound(NamedTuple):
    """A selector's rule as three constants: revealed is what is ranked over `tau`, and at least so many of the best."""

    tau: float
    inclusive: bool
    """Whether positions that are ranked at `tau` itself are revealed too."""
    least_K: Tensor
    """The least revealed by a block's first, second, ... denoise forward; a block of K positions has no more than K."""


def places(key_BK: Tensor, open_BK: Tensor) -> Tensor:
    """(B, K) int64: each open position's place, 0 first, in falling order of `key`; ties go to the left-most.

    Positions that are not open come last.
    """
    order_BK = key_BK.masked_fill(~open_BK, float("-inf")).sort(dim=-1, descending=True, stable=True).indices
    return order_BK.argsort(dim=-1)
