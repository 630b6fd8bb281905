"""Weights that are sharded over the processes (FSDP2): a full copy that decodes, each process's states, an average.

Master weights, gradients and optimiser states are float32 and sharded; forwards compute in bfloat16 if that is chosen.
A single process in float32 is not sharded: its model decodes as it is. accelerate's own FSDP needs an accelerator;
torch's works on CPUs too, so the tests run what a cluster runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from lightningrl.errors import CheckpointError
from lightningrl.models.adapters import is_factor, merged_weights
from lightningrl.models.transformer import Transformer

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def dtype_of(precision: str) -> torch.dtype | None:
    """Returns the type in which a run's weights are kept for others to use; None: that of the weights themselves."""
    return None if precision == "float32" else PRECISIONS[precision]


def shard(model: Transformer, precision: str = "float32", device: torch.device | None = None) -> Transformer:
    """Shards the model's parameters in place, layer by layer, and returns the model.

    device: where the shards of a model on the meta device will be; default: where the model is. Gradients are summed
    over processes, never averaged: the loss is already a share of the whole batch's mean.
    """
    mesh = init_device_mesh((device or model.device).type, (dist.get_world_size(),))
    compute = model.lm_head.weight.dtype if precision == "float32" else PRECISIONS[precision]
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=model.lm_head.weight.dtype)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gloo knows sums, not scaled ones
            module.set_gradient_divide_factor(1.0)
    return model


@torch.no_grad()
def publish(model: Transformer, replica: Transformer) -> None:
    """Copies the weights, adapters merged, into a full plain replica, one by one, from memory to memory."""
    if replica is model:
        return
    copies = dict(replica.named_parameters())
    for name, weight in merged_weights(model, full, next(iter(copies.values())).dtype):  # half the bytes, where cast
        copies[name].copy_(weight)


def reshard(model: Transformer) -> None:
    """Gives back what a forward without a backward leaves gathered: embedding and head."""
    if isinstance(model, FSDPModule):
        model.reshard()


def full(tensor: Tensor) -> Tensor:
    """Returns the whole tensor of a shard; every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(weight: Tensor) -> tuple[Tensor, slice]:
    """Returns this process's shard of a weight, and which rows of the whole it has."""
    if not isinstance(weight, DTensor):
        return weight, slice(0, len(weight))
    local, mesh = weight.to_local(), weight.device_mesh
    first = min(len(weight), mesh.get_local_rank() * -(-len(weight) // mesh.size()))
    return local, slice(first, first + len(local))


@torch.no_grad()
def full_weights(model: Transformer, keep: bool, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Returns a copy of all weights on the CPU if `keep`, else an empty dict; every process must call it.

    dtype: None keeps that of the weights. Adapters are merged, and their factors are there beside the weights.
    """
    found = {name: weight.to("cpu", copy=True) for name, weight in merged_weights(model, full, dtype) if keep}
    factors = [(name, full(each.detach())) for name, each in model.named_parameters() if is_factor(name)]
    return found | {name: factor.to("cpu", copy=True) for name, factor in factors if keep}


def local_state(state: Any) -> Any:
    """Returns a state dict with each sharded tensor replaced by this process's shard."""
    if isinstance(state, DTensor):
        return state.to_local()
    if isinstance(state, Mapping):
        return {key: local_state(value) for key, value in state.items()}
    return [local_state(value) for value in state] if isinstance(state, list) else state


@torch.no_grad()
def load_weights(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copies weights by name from the `local_state` of the same number of processes into existing ones.

    Raises CheckpointError for other shapes.
    """
    for name, parameter in weights.items():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        if local.shape != state[name].shape:
            raise CheckpointError(
                f"the saved state has {tuple(state[name].shape)} of {name}, expected {tuple(local.shape)}: it was "
                "saved by another number of processes or of another model; resume with the number it was saved with"
            )
        local.copy_(state[name])


def load_optimiser(optimiser: Any, state: Any) -> None:
    """Loads an optimiser's state from the `local_state` of the same number of processes; a list is of its `parts`."""
    if isinstance(state, list):
        for part, own in zip(optimiser.parts, state, strict=True):
            load_optimiser(part, own)
        return
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    moments = {
        index: {key: _like(value, parameters[index]) for key, value in entry.items()}
        for index, entry in state["state"].items()
    }
    optimiser.load_state_dict({**state, "state": moments})


def _like(value: Any, parameter: Tensor) -> Any:
    if not (isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.ndim):
        return value
    return DTensor.from_local(
        value, parameter.device_mesh, parameter.placements, run_check=False,
        shape=parameter.shape, stride=parameter.stride(),
    )  # fmt: skip


class WeightAverage:
    """An exponential moving average of a model's weights, steadier than those of any one step; sharded as they are.

    It begins at the weights of now and keeps the share `decay` at each `update`.
    """

    def __init__(self, model: Transformer, decay: float):
        self.model, self.decay = model, decay
        self._average = self._weights()

    def _weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the model's weights."""
        for name, parameter in self.model.named_parameters():
            self._average[name].lerp_(parameter.detach(), 1 - self.decay)

    def copy_to(self, model: Transformer) -> None:
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
