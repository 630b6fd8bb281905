"""What a trainer is: something that takes one step at a time and whose state can be saved between steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class StepResult:
    """One line of the metrics file, and the volatile figures beside it.

    >>> StepResult({"step": 1, "loss": 0.5}, {"seconds": 0.2}).metrics["step"]
    1
    """

    metrics: Mapping[str, Any]
    """Reproducible numbers of the step, JSON values; `step` counts from 1."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase: never compared, never part of a result."""
    sample: Mapping[str, Any] | None = None
    """A step's responses for people to read, JSON values, reproducible; a line of the samples file."""


class Trainer(Protocol):
    """Pre-training, the RL algorithms and the supervised control are trainers."""

    @property
    def done(self) -> bool:
        """No step is left."""
        ...

    def step(self) -> StepResult:
        """Take one step. Deterministic in the state: after load_state_dict it goes on bit for bit."""
        ...

    def describe(self, result: StepResult) -> str:
        """One line of progress for people."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
