"""The interface of a trainer: it takes one step at a time, and its state can be saved between steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightningrl.models.transformer import Transformer
from lightningrl.training.shards import load_optimiser, load_weights, local_state


@dataclass(frozen=True, slots=True)
class StepResult:
    """The metrics of one step, and the volatile figures beside them."""

    metrics: Mapping[str, Any]
    """Reproducible numbers of the step, JSON values; `step` counts from 1."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase, which are never compared and never part of a result."""
    sample: Mapping[str, Any] | None = None
    """Responses of the step for people to read: reproducible JSON values, a line of the samples file."""


class Trained:
    """A model in training. Its state is the model's, its optimiser's, that of `parts`, and the values of `counters`."""

    model: Transformer
    optimiser: Any
    counters: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, Any]:
        """What else has a state of its own, by name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the next step depends on, as this process's tensors and plain values."""
        return {
            "model": local_state(dict(self.model.named_parameters())),
            "optimiser": local_state(self.optimiser.state_dict()),
            **{name: getattr(self, name) for name in self.counters},
            **{name: part.state_dict() for name, part in self.parts.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        load_weights(dict(self.model.named_parameters()), state["model"])
        load_optimiser(self.optimiser, state["optimiser"])
        for name in self.counters:
            setattr(self, name, state[name])
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


class Trainer(Trained):
    """The base of pre-training, the RL algorithms and the supervised control."""

    @property
    def done(self) -> bool:
        """Whether no step is left."""
        raise NotImplementedError

    def step(self) -> StepResult:
        """Takes one step, which depends on the state alone: after load_state_dict it goes on bit for bit."""
        raise NotImplementedError

    def describe(self, result: StepResult) -> str:
        """Returns one line of progress for people."""
        raise NotImplementedError
