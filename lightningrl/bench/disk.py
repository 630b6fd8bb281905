"""What a training has on disk while it runs.

A state is of every process (training/state.py): float32 weights and two moments of each parameter, those of a value
model and of a weight average too. The chosen weights are one file beside the states, in the type of forwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightningrl.bench.costs import MASTER, MOMENTS
from lightningrl.bench.model_shape import Shape

KEPT = 2
"""States that are kept (training/state.py); one more is there while it is written."""


@dataclass(frozen=True, slots=True)
class TrainingDisk:
    """A training's files, as far as their bytes depend on it."""

    shape: Shape
    devices: int
    number_bytes: int
    """Bytes of a number in forwards."""
    has_value_model: bool = False
    has_average: bool = False

    @property
    def state(self) -> float:
        """Returns the bytes of one state, of all processes."""
        networks = MASTER + MOMENTS + MASTER * self.has_average
        value = (MASTER + MOMENTS) * (self.shape.parameters - self.shape.head_parameters) * self.has_value_model
        return float(networks * self.shape.parameters + value)

    @property
    def chosen(self) -> float:
        """Returns the bytes of the chosen weights."""
        return float(self.number_bytes * self.shape.parameters)

    @property
    def most(self) -> dict[str, float]:
        """Returns the bytes that are there at most: each kept state may name chosen weights of its own."""
        return {
            "states that are kept": KEPT * self.state,
            "a state that is being written": self.state,
            "chosen weights": (KEPT + 1) * self.chosen,
        }
