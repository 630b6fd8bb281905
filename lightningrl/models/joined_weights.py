"""Matrices that read the same input as one matrix: queries, keys and values; gate and up. For decoding.

The weights stay where they are by name: each becomes a view of rows of one buffer, so that training, `publish`, loading
and saving go on as before, and no memory is doubled. A weight that was replaced since (loaded with `assign`, moved,
quantised) is found out by its storage, and joined anew.

Shapes: N positions; X input features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightningrl.errors import DecodeError
from lightningrl.models.linear import Linear


class JoinedLinear:
    """Linear layers of one input. Called, it gives their outputs beside each other, by one product.

    Layers with products of their own (not `Linear`), or of different types of numbers, are called one by one.
    Raises DecodeError for sharded weights.
    """

    def __init__(self, layers: Sequence[nn.Linear]):
        self.layers = tuple(layers)
        if any(hasattr(layer.weight, "placements") for layer in layers):
            raise DecodeError(
                "the model's weights are sharded over processes and cannot be joined for decoding: decode with a full "
                "replica, or with forwards='spans'"
            )
        self.weight = self.bias = None
        if self._is_plain:
            self.weight = _join([layer.weight for layer in layers])
            biases = [layer.bias for layer in layers if layer.bias is not None]
            self.bias = _join(biases) if biases else None

    def __call__(self, x_NX: Tensor) -> Tensor:
        if self.weight is None:
            return torch.cat([layer(x_NX) for layer in self.layers], dim=-1)
        return F.linear(x_NX, self.weight, self.bias)

    @property
    def is_current(self) -> bool:
        """Whether the layers' weights still are views of the buffers."""
        if self.weight is None:
            return not self._is_plain
        biases = [layer.bias for layer in self.layers if layer.bias is not None]
        if not self._is_plain or bool(biases) != (self.bias is not None):
            return False
        return _are_of(self.weight, [layer.weight for layer in self.layers]) and (
            self.bias is None or _are_of(self.bias, biases)
        )

    @property
    def _is_plain(self) -> bool:
        kinds = {(layer.weight.dtype, layer.weight.device, layer.bias is None) for layer in self.layers}
        return len(kinds) == 1 and all(type(layer) in (Linear, nn.Linear) for layer in self.layers)


def _join(parts: Sequence[Tensor]) -> Tensor:
    """Returns one tensor of all parts' rows; the parts are views of it from now on. Where they are already, nothing is
    copied. Freed is what they were: at most one matrix is there twice."""
    first = parts[0]
    rows, shape = sum(len(part) for part in parts), first.shape[1:]
    strides = torch.empty((rows, *shape), device="meta").stride()
    if all(part.is_contiguous() for part in parts) and len({_storage(part) for part in parts}) == 1:
        whole = first.detach().as_strided((rows, *shape), strides, first.storage_offset())
        if _are_of(whole, parts):
            return whole
    whole = torch.cat([part.detach() for part in parts])
    for part, view in zip(parts, whole.split([len(part) for part in parts]), strict=True):
        part.data = view
    return whole


def _are_of(whole: Tensor, parts: Sequence[Tensor]) -> bool:
    """Whether the parts are the rows of `whole`, one after another, in its memory."""
    at = whole.storage_offset()
    for part in parts:
        if _storage(part) != _storage(whole) or part.storage_offset() != at or not part.is_contiguous():
            return False
        at += part.numel()
    return at == whole.storage_offset() + whole.numel() and whole.dtype == parts[0].dtype


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()._cdata
