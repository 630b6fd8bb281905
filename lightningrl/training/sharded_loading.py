"""Sharded models straight from a checkpoint: each process reads the rows of its own shards, none reads a whole model.

A model is made on the meta device, sharded there, given memory for its shards alone, and filled from slices of the
safetensors. A full replica is made without weights as well, and takes those of the shards (`shards.publish`).
Quantised checkpoints have no rows to slice: they are loaded whole, and sharded afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import torch

from lightningrl.models.checkpoint import Undrawn, empty_model, inspect_model, read_rows
from lightningrl.models.transformer import Transformer
from lightningrl.quantization.open import is_quantized, open_model
from lightningrl.training.shards import own_part, publish, shard

Change = Callable[[Transformer], Collection[str]]
"""Changes modules of a model that may be on the meta device; returns the names of the weights that are new, which begin
at 0."""


@torch.no_grad()
def load_shards(
    folder: Path, device: torch.device, precision: str, *, dtype: torch.dtype = torch.float32,
    change: Change = lambda model: (),
) -> Transformer:  # fmt: skip
    """Returns the model of a checkpoint in evaluation mode, sharded over all processes, its shards in `dtype`.

    Memory holds this process's shards and one weight's rows. Every process must call it. Raises CheckpointError like
    `load_model`.
    """
    if is_quantized(folder):
        model = open_model(folder, device=device).to(dtype)
        new = frozenset(change(model))
        for name in new:
            model.get_parameter(name).zero_()
        return shard(model, precision)
    model, stored = inspect_model(folder)
    with torch.device("meta"), Undrawn():
        new = frozenset(change(model))
    shard(model.to(dtype), precision, device)
    model.to_empty(device=device)
    weights = dict(model.named_parameters())
    local = {name: own_part(parameter) for name, parameter in weights.items()}
    for name in new:
        local[name][0].zero_()
    rows = {name: part for name, (_, part) in local.items() if name not in new}
    for name, found in read_rows({name: stored[name] for name in rows}, rows):
        local[name][0].copy_(found)
    return model.eval()


@torch.no_grad()
def make_replica(model: Transformer, dtype: torch.dtype, device: torch.device) -> Transformer:
    """Returns a whole model with a sharded one's weights in `dtype`, not to be trained; every process must call it."""
    replica = empty_model(model.config).to(dtype).to_empty(device=device)
    replica.tie()
    replica.usable_vocab = model.usable_vocab
    publish(model, replica)
    return replica.requires_grad_(False).eval()
