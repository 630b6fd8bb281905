"""The optimiser of supervised training: Muon for the layers' matrices, AdamW for embeddings, head and norms.

Muon's step of a matrix depends on all of it. Where weights are sharded over processes, each process gathers one matrix
after another with its gradient and momentum, takes the whole step, and keeps its own rows of it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightningrl.models.transformer import Transformer
from lightningrl.training.shards import full, own_part

MAX_GRAD_NORM = 1.0


class ShardedMuon(torch.optim.Muon):
    """Muon over sharded matrices: the same steps as over whole ones. Momenta are sharded as the matrices are."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Takes a step of every matrix that has a gradient. Every process must call it; `closure` is not called."""
        for group in self.param_groups:
            options = {name: value for name, value in group.items() if name in self.defaults}
            for weight in (each for each in group["params"] if each.grad is not None):
                momentum = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight.grad))
                whole, gathered = nn.Parameter(full(weight.detach())), full(momentum)
                whole.grad = full(weight.grad)
                alone = torch.optim.Muon([whole], **options)
                alone.state[whole]["momentum_buffer"] = gathered
                alone.step()
                for own, result in ((weight, whole), (momentum, gathered)):
                    local, rows = own_part(own)
                    local.copy_(result[rows])


class SupervisedOptimiser:
    """Muon for the layers' matrices and AdamW for all other weights, under one learning-rate factor."""

    MUONS = 4
    """Optimisers that the matrices are dealt to: a matrix's step depends on no other, so they can run side by side."""

    def __init__(self, model: Transformer, learning_rate: float, muon_learning_rate: float):
        self.model = model
        matrices = sorted((p for p in model.model.layers.parameters() if p.ndim == 2), key=Tensor.numel, reverse=True)
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        shares = [share for first in range(self.MUONS) if (share := matrices[first :: self.MUONS])]
        muon = ShardedMuon if any(isinstance(each, DTensor) for each in matrices) else torch.optim.Muon
        self.parts: list[torch.optim.Optimizer] = [
            *(muon(share, lr=muon_learning_rate, weight_decay=0.0) for share in shares),
            torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.rates = [part.defaults["lr"] for part in self.parts]

    def step(self, factor: float, workers: ThreadPoolExecutor | None = None) -> None:
        """Clips the gradients, applies them at `factor` times the configured rates, and clears them.

        workers: threads that take the parts side by side, which changes no bit.
        """
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)

        def take(part: torch.optim.Optimizer, rate: float) -> None:
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()
            part.zero_grad(set_to_none=True)

        list((map if workers is None else workers.map)(take, self.parts, self.rates))

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimiser.state_dict() for optimiser in self.parts]
