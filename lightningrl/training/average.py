"""An exponential moving average of a model's weights: steadier than the weights of any one step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightningrl.training.shards import load_weights, local_state


class WeightAverage:
    """The average of a model's weights, which begins at the weights of now and keeps the share `decay` at each
    `update`.

    It costs one more copy of the weights; sharded weights have a sharded average.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = model, decay
        self._average = self._weights()

    def _weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the model's weights."""
        for name, parameter in self.model.named_parameters():
            self._average[name].lerp_(parameter.detach(), 1 - self.decay)

    def copy_to(self, model: nn.Module) -> None:
        """Gives another model of the same shape the averaged weights."""
        load_weights(dict(model.named_parameters()), self.state_dict())

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Gives the model the averaged weights for a while; afterwards it has its own again, bit for bit."""
        own = self._weights()
        self.copy_to(self.model)
        try:
            yield
        finally:
            load_weights(dict(self.model.named_parameters()), local_state(own))

    def state_dict(self) -> dict[str, Tensor]:
        return local_state(self._average)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned. The prefix is that of torch's AveragedModel, in older states."""
        load_weights(self._average, {name.removeprefix("module."): tensor for name, tensor in state.items()})
