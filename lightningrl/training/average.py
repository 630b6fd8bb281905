"""An exponential moving average of a model's weights: steadier than the weights of any one step."""

from __future__ import annotations

from collections.abc import Iterator
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
        self._average = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the model's weights."""
        for name, parameter in self.model.named_parameters():
            self._average[name].lerp_(parameter.detach(), 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Gives the model the averaged weights for a while; afterwards it has its own again, bit for bit."""
        own = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self._set(self._average)
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])

    def state_dict(self) -> dict[str, Tensor]:
        return local_state(self._average)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        load_weights(self._average, state)
