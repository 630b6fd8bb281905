"""Which states of a trajectory are trained. Torch-free, because the config names them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StateGrouping:
    """The states in which a trajectory's tokens are scored; by default those of the denoise steps that happened."""

    shrink: int = 1
    """Consecutive denoise steps of a block that are taken as one: their tokens are scored in the first one's state."""
    full_mask: bool = False
    """Each block is a single state, in which all its decoded positions are masked."""


AS_DECODED = StateGrouping()
