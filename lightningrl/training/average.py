"""An exponential moving average of a model's weights: steadier than the weights of any one step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightningrl.training.shards import load_weights, local_state


class WeightAverage:
    """Follows a model step by step; sharded weights have a sharded average.

    The average begins at the weights that the model has now. After each `update` it keeps the share `decay` of what it
    was. It costs one more copy of the weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = model, decay
        self._average = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        for name, parameter in self.model.named_parameters():
            self._average[name].lerp_(parameter.detach(), 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While the context lasts the model has the averaged weights; then it has its own again, bit for bit."""
        own = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self._give(self._average)
        try:
            yield
        finally:
            self._give(own)

    @torch.no_grad()
    def _give(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])

    def state_dict(self) -> dict[str, Tensor]:
        return local_state(self._average)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        load_weights(self._average, state)
