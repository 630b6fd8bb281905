"""Reveal every masked position whose confidence is over tau; the most confident one when none is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Threshold:
    """SDAR's `low_confidence_dynamic` with one step a token: strict `>`, argmax fallback."""

    tau: float

    def select(self, confidence_BK: Tensor, masked_BK: Tensor) -> Tensor:
        """(B, K) bool: which masked positions to reveal; at least one in each row that has any, none elsewhere."""
        score_BK = confidence_BK.masked_fill(~masked_BK, -1.0)
        best_B1 = score_BK.argmax(dim=-1, keepdim=True)
        chosen_BK = score_BK > self.tau
        return chosen_BK.scatter(-1, best_B1, True) & masked_BK
