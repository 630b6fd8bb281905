"""Fast-dLLM's factor rule: the more positions are revealed at once, the surer each of them must be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightningrl.decoding.proposals import Proposals, places
from lightningrl.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Factor:
    """Positions by falling confidence c_1 >= c_2 >= ...: the longest prefix with c_n >= 1 - factor / (n + 1).

    The first is always revealed. The bound rises with n while c_n falls, so the prefix is all that pass.
    compat: the reference implementation's off-by-one: when only the lowest position fails, it is revealed too, where
    anything must be.
    (Fast-dLLM v1, arXiv 2505.22618.)
    """

    factor: float
    compat: bool = False

    def __post_init__(self) -> None:
        if not self.factor >= 0:
            raise DecodeError(f"factor: factor is {self.factor}, expected 0 or more")

    def select(self, candidates: Proposals) -> Tensor:
        confidence_BK, open_BK = candidates.confidence_BK, candidates.open_BK
        place_BK = places(confidence_BK, open_BK)
        bound_BK = 1.0 - self.factor / (place_BK.double() + 2.0)
        chosen_BK = ((confidence_BK >= bound_BK) | ((place_BK == 0) & candidates.must_B1)) & open_BK
        if self.compat:
            left_B1 = (open_BK & ~chosen_BK).sum(dim=-1, keepdim=True)
            chosen_BK = torch.where((left_B1 == 1) & candidates.must_B1, open_BK, chosen_BK)
        return chosen_BK
