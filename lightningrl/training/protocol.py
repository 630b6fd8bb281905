"""The interface of a trainer: it takes one step at a time, and its state can be saved between steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class StepResult:
    """The metrics of one step, and the volatile figures beside them."""

    metrics: Mapping[str, Any]
    """Reproducible numbers of the step, JSON values; `step` counts from 1."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase, which are never compared and never part of a result."""
    sample: Mapping[str, Any] | None = None
    """Responses of the step for people to read: reproducible JSON values, a line of the samples file."""


class Trainer(Protocol):
    """The interface of pre-training, the RL algorithms and the supervised control."""

    @property
    def done(self) -> bool:
        """Whether no step is left."""
        ...

    def step(self) -> StepResult:
        """Takes one step, which depends on the state alone: after load_state_dict it goes on bit for bit."""
        ...

    def describe(self, result: StepResult) -> str:
        """Returns one line of progress for people."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the next step depends on, as tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        ...
