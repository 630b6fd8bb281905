"""Linear layers whose inputs are changed first: divided, permuted, rotated, and rounded to a grid of their own.

The changes of a layer are steps in an order. Every step but the grid leaves the layer's function what it was, because
the weights were changed the other way when the model was quantised. Grids are dynamic: each token has its own range,
found when it is computed. All is computed in floating point: the values are those of codes, no integer arithmetic is
done, and nothing is faster.

Shapes: (..., I) inputs; n the size of a block of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightningrl.errors import CheckpointError
from lightningrl.models.linear import Linear
from lightningrl.quantization.hadamard import hadamard


class Step(nn.Module):
    """A change of inputs. `settings` and its buffers say all about it."""

    kind: str = ""

    def settings(self) -> dict[str, Any]:
        """The arguments that are no tensors."""
        return {}

    def _keep(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor, persistent=False)


class Divide(Step):
    """x / s by input: what could not be folded into the weights before."""

    kind = "divide"
    scale_I: Tensor

    def __init__(self, scale_I: Tensor):
        super().__init__()
        self._keep("scale_I", scale_I)

    def forward(self, x: Tensor) -> Tensor:
        return x / self.scale_I.to(x.dtype)


class Permute(Step):
    """x[order]."""

    kind = "permute"
    order_I: Tensor

    def __init__(self, order_I: Tensor):
        super().__init__()
        self._keep("order_I", order_I.to(torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(-1, self.order_I.long())


class RotateBlocks(Step):
    """x R in each run of n inputs, R orthogonal."""

    kind = "rotate_blocks"
    rotation_nn: Tensor

    def __init__(self, rotation_nn: Tensor):
        super().__init__()
        self._keep("rotation_nn", rotation_nn)

    def forward(self, x: Tensor) -> Tensor:
        return (x.unflatten(-1, (-1, len(self.rotation_nn))) @ self.rotation_nn.to(x.dtype)).flatten(-2)


class Hadamard(Step):
    """The Hadamard transform over inputs, or, where `inner` is above 1, over the I / inner groups of so many."""

    kind = "hadamard"

    def __init__(self, inner: int = 1):
        super().__init__()
        self.inner = inner

    def settings(self) -> dict[str, Any]:
        return {"inner": self.inner}

    def forward(self, x: Tensor) -> Tensor:
        return hadamard(x.unflatten(-1, (-1, self.inner)).mT).mT.flatten(-2)


class TokenGrid(Step):
    """Rounds each token's numbers to the nearest of 2^bits values over its own range.

    symmetric: scale = clip max|x| / (2^(b-1) - 1), codes from -2^(b-1) (QuaRot's, SmoothQuant's); else from
    clip min(x, 0) to clip max(x, 0) with a zero of its own (DuQuant's).
    """

    kind = "grid"

    def __init__(self, bits: int, symmetric: bool = True, clip: float = 1.0):
        super().__init__()
        self.bits, self.symmetric, self.clip = bits, symmetric, clip

    def settings(self) -> dict[str, Any]:
        return {"bits": self.bits, "symmetric": self.symmetric, "clip": self.clip}

    def forward(self, x: Tensor) -> Tensor:
        low = x.amin(-1, keepdim=True).clamp(max=0) * self.clip
        high = x.amax(-1, keepdim=True).clamp(min=0) * self.clip
        top = 2**self.bits - 1
        if self.symmetric:
            half = 2 ** (self.bits - 1)
            scale = torch.maximum(-low, high) / (half - 1)
            scale = torch.where(scale == 0, 1.0, scale)
            return (x / scale).round().clamp(-half, half - 1) * scale
        scale = ((high - low) / top).clamp(1e-5, 1e4)
        zero = (-low / scale).clamp(-1e4, 1e4).round()
        return (((x / scale).round() + zero).clamp(0, top) - zero) * scale


STEPS: dict[str, Callable[..., Step]] = {
    each.kind: each for each in (Divide, Permute, RotateBlocks, Hadamard, TokenGrid)
}


class InputLinear(Linear):
    """A linear layer with steps before its product; see the module. Its weights have their usual names."""

    def __init__(self, steps: Sequence[Step], like: nn.Linear):
        with torch.device("meta"):
            super().__init__(like.in_features, like.out_features)
        self.weight, self.bias = like.weight, like.bias
        self.steps = nn.ModuleList(steps)

    def changed(self, x: Tensor) -> Tensor:
        """Returns the inputs after all steps but grids."""
        for step in self.steps:
            x = x if isinstance(step, TokenGrid) else step(x)
        return x

    def rounded(self, x: Tensor) -> Tensor:
        """Returns changed inputs after the grids, which are the last steps."""
        for step in self.steps:
            x = step(x) if isinstance(step, TokenGrid) else x
        return x

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.rounded(self.changed(input)))


def changed_input(linear: nn.Module, x: Tensor) -> Tensor:
    """Returns what a linear layer's weights meet, before it is rounded."""
    return linear.changed(x) if isinstance(linear, InputLinear) else x


def add_steps(model: nn.Module, name: str, steps: Iterable[Step]) -> InputLinear:
    """Puts steps behind those that a model's linear layer of that name has already; returns what stands in its place.

    Codes and errors that the layer has go with it.
    """
    linear = model.get_submodule(name)
    if not isinstance(linear, nn.Linear):
        raise CheckpointError(f"{name} is no linear layer")
    before = list(linear.steps) if isinstance(linear, InputLinear) else []
    changed = InputLinear([*before, *steps], linear)  # type: ignore[list-item]
    for kept in ("quantized", "errors"):
        if hasattr(linear, kept):
            setattr(changed, kept, getattr(linear, kept))
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, changed.train(linear.training))
    return changed


def described(linear: nn.Module) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Returns a layer's steps as plain data, and their tensors by `<number>.<name>`."""
    steps = list(linear.steps) if isinstance(linear, InputLinear) else []
    assert all(isinstance(step, Step) for step in steps)
    tensors = {f"{n}.{name}": tensor.clone() for n, step in enumerate(steps) for name, tensor in step.named_buffers()}
    return [{"kind": step.kind, **step.settings()} for step in steps], tensors  # type: ignore[union-attr]


def steps_of(entries: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> list[Step]:
    """Returns the steps that `described` described. Raises KeyError, TypeError or ValueError for what is none."""
    found = []
    for number, entry in enumerate(entries):
        own = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{number}.")}
        settings = {key: value for key, value in entry.items() if key != "kind"}
        found.append(STEPS[entry["kind"]](**settings, **own))
    return found
