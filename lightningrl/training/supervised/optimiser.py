"""torch's Muon for the layers' matrices and AdamW for embeddings, head and norms, under one learning-rate factor."""

from __future__ import annotations

from typing import Any

import torch

from lightningrl.models.transformer import Transformer


class SupervisedOptimiser:
    """Both optimisers as one."""

    def __init__(self, model: Transformer, learning_rate: float, muon_learning_rate: float):
        matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        self.parts: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.Muon(matrices, lr=muon_learning_rate, weight_decay=0.0), muon_learning_rate),
            (torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0), learning_rate),
        ]

    def step(self, factor: float) -> None:
        """Applies the gradients at `factor` times the configured rates, then clears them."""
        for optimiser, rate in self.parts:
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimiser.state_dict() for optimiser, _ in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for (optimiser, _), state in zip(self.parts, states, strict=True):
            optimiser.load_state_dict(state)
