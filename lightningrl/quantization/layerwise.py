"""Activations of calibration forwards, one layer at a time: what a quantizer looks at, in bounded memory.

A walk holds the hidden states of all forwards between two layers, and the keys and values of one layer. It replays the
forwards in their order, so that each position sees the keys that it saw when the states were recorded, whatever the
family, the schedule and its cache, stale ones included.

A model keeps the dtype that its weights are stored in; the layer that is looked at is in float32 meanwhile, and so are
the states. Memory beside the model: 2 copies of tokens x hidden size numbers, one cache's pages of one layer, that
layer twice in float32, and what a method gathers of it (bench/quantizing_memory.py). Time: as many forwards of a layer
as a method says, over all layers as many of the model.

Shapes: N positions of a forward; H hidden size; I, O inputs and outputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightningrl.errors import ConfigError
from lightningrl.models.attention import PagedAttention, PagedKV
from lightningrl.models.transformer import Attend, Layer, Transformer
from lightningrl.quantization.inputs import InputLinear, changed_input
from lightningrl.quantization.protocol import Calibration, Copied

GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",),
)  # fmt: skip
"""The linear layers of a layer in the order of the forward; those of a group read one input."""
NAMES = tuple(name for group in GROUPS for name in group)

Observe = Callable[[Tensor], None]
"""Is given the inputs (N, I) of a linear layer, forward by forward."""


class Replayed(NamedTuple):
    """One forward as a layer meets it."""

    hidden_1NH: Tensor
    rotation: tuple[Tensor, Tensor]
    attend: Attend


class LayerWalk:
    """See the module. Raises ConfigError where the calibration has no forwards."""

    def __init__(self, model: Transformer, calibration: Calibration):
        if not calibration.tokens:
            raise ConfigError("there is no data to look at: give the quantizer a `calibration`")
        self.model, self.calibration = model, calibration
        config, device, stored = model.config, model.device, model.lm_head.weight
        self.dtype = torch.promote_types(stored.dtype, torch.float32)
        """Of the states, and of the layer that is looked at."""
        self._cache = PagedKV(
            1, calibration.pages, calibration.page_tokens, config.num_key_value_heads, config.head_dim,
            stored.new_empty(0, dtype=self.dtype),
        )  # fmt: skip
        ids = [None if isinstance(each, Copied) else torch.from_numpy(each.ids_N) for each in calibration.forwards]
        embed = model.model.embed_tokens
        self.hidden = [None if each is None else embed(each.to(device))[None].to(self.dtype) for each in ids]

    def layers(self) -> Iterator[tuple[int, Layer]]:
        """Yields the model's layers with their numbers, each in the walk's dtype until the next one is taken."""
        stored = self.model.lm_head.weight.dtype
        for number, layer in enumerate(self.model.model.layers):
            assert isinstance(layer, Layer)
            _cast(layer, self.dtype)
            try:
                yield number, layer
            finally:
                _cast(layer, stored)

    def replay(self) -> Iterator[tuple[int, Replayed]]:
        """Yields every forward with its number; the layer that it is for must be called before the next is taken."""
        device = self.model.device
        cos_TD, sin_TD = self.model.rotations(self.dtype, device)
        for number, (event, hidden) in enumerate(zip(self.calibration.forwards, self.hidden, strict=True)):
            if isinstance(event, Copied):
                self._cache.copy(event.sources_N, event.targets_N)
                continue
            assert hidden is not None
            positions_1N = torch.from_numpy(event.positions_N).to(device)[None]
            rotation = cos_TD[positions_1N].unsqueeze(1), sin_TD[positions_1N].unsqueeze(1)
            yield number, Replayed(hidden, rotation, _first_layer(PagedAttention(self._cache, event.spans)))

    @torch.no_grad()
    def observe(self, layer: Layer, observers: Mapping[str, Observe]) -> None:
        """Runs the layer over all forwards; each named linear layer's observer sees its inputs, transformed as the
        layer transforms them but not rounded."""
        with observing(layer, observers):
            for _, each in self.replay():
                layer(*each)

    @torch.no_grad()
    def outputs(self, layer: Layer, observers: Mapping[str, Observe] | None = None) -> list[Tensor | None]:
        """Returns the layer's outputs, a forward each: the next layer's inputs."""
        found: list[Tensor | None] = [None] * len(self.hidden)
        with observing(layer, observers or {}):
            for number, each in self.replay():
                found[number] = layer(*each)
        return found


def _cast(layer: nn.Module, dtype: torch.dtype) -> None:
    """Changes the dtype of a layer's weights, and not that of what its steps keep."""
    for weight in layer.parameters():
        weight.data = weight.data.to(dtype)


def _first_layer(attend: PagedAttention) -> Attend:
    """Every layer's keys go where the one layer of the walk's cache has them."""
    return lambda layer, q_BNQD, k_BMQD, v_BMQD: attend(0, q_BNQD, k_BMQD, v_BMQD)


@contextmanager
def observing(layer: nn.Module, observers: Mapping[str, Observe]) -> Iterator[None]:
    """While it lasts, each named linear layer's observer sees its inputs (see `LayerWalk.observe`)."""

    def hook(observe: Observe) -> Callable[[nn.Module, tuple[Tensor]], None]:
        return lambda module, inputs: observe(changed_input(module, inputs[0]).flatten(0, -2))

    with ExitStack() as stack:
        for name, observe in observers.items():
            handle = layer.get_submodule(name).register_forward_pre_hook(hook(observe))
            stack.callback(handle.remove)
        yield


def inner_linears(model: Transformer) -> Iterator[tuple[str, nn.Linear]]:
    """Yields the linear layers inside the transformer's layers, which are what is quantised, by name."""
    for number, layer in enumerate(model.model.layers):
        for each in NAMES:
            linear = layer.get_submodule(each)
            assert isinstance(linear, nn.Linear)
            yield f"model.layers.{number}.{each}", linear


Quantise = Callable[[LayerWalk, Layer, str], None]
"""Quantises a layer, whose name is given; what it makes of the layer's weights in floating point before it rounds them
(folded scales, rotations) it does before."""


@torch.no_grad()
def layer_by_layer(
    model: Transformer, calibration: Calibration, quantise: Quantise, *,
    prepare: Quantise = lambda walk, layer, name: None, inputs: Literal["quantised", "exact"] = "quantised",
) -> None:  # fmt: skip
    """Takes the model's layers one after another: `prepare`, then `quantise`; and notes each linear layer's error.

    prepare: changes the layer without changing what it computes, as folding does; errors are against what it leaves.
    inputs: what later layers are shown is what the quantised layers before them give, or what exact ones give.
    """
    walk = LayerWalk(model, calibration)
    for number, layer in walk.layers():
        name = f"model.layers.{number}"
        prepare(walk, layer, name)
        exact = {each: layer.get_parameter(f"{each}.weight").detach().clone() for each in NAMES}
        kept = walk.outputs(layer) if inputs == "exact" else None
        quantise(walk, layer, name)
        errors = {each: _OutputError(layer.get_submodule(each), weight) for each, weight in exact.items()}
        observers = {each: error.observe for each, error in errors.items()}
        if kept is None:
            walk.hidden = walk.outputs(layer, observers)
        else:
            walk.observe(layer, observers)
            walk.hidden = kept
        for each, error in errors.items():
            linear = layer.get_submodule(each)
            linear.errors = {**getattr(linear, "errors", {}), "output": error.relative}  # type: ignore[assignment]


class _OutputError:
    """The squared error of a linear layer's outputs relative to their squares, biases left out."""

    def __init__(self, linear: nn.Module, exact_OI: Tensor):
        self.linear, self.exact_OI = linear, exact_OI
        self.error = self.size = 0.0

    def observe(self, x_NI: Tensor) -> None:
        exact_NO = F.linear(x_NI, self.exact_OI).float()
        rounded_NI = self.linear.rounded(x_NI) if isinstance(self.linear, InputLinear) else x_NI
        found_NO = F.linear(rounded_NI, self.linear.weight).float()  # type: ignore[arg-type]
        self.error += float((found_NO - exact_NO).square().sum(dtype=torch.float64))
        self.size += float(exact_NO.square().sum(dtype=torch.float64))

    @property
    def relative(self) -> float:
        return self.error / self.size if self.size else 0.0


class Gram:
    """Sums of outer products of a linear layer's inputs: 2 / rows times them is the Hessian of its squared error."""

    def __init__(self, inputs: int, device: torch.device):
        self.sum_II = torch.zeros(inputs, inputs, device=device)
        self.rows = 0

    def observe(self, x_NI: Tensor) -> None:
        x_NI = x_NI.float()
        self.sum_II.addmm_(x_NI.T, x_NI)
        self.rows += len(x_NI)

    @property
    def hessian_II(self) -> Tensor:
        """(I, I) float32; a common factor changes nothing."""
        return self.sum_II * (2 / max(1, self.rows))


def grams(walk: LayerWalk, layer: Layer, groups: Iterable[Sequence[str]]) -> dict[str, Gram]:
    """Returns the sums of each group's input, by the name of the group's first linear layer, from one pass."""
    found = {}
    for first, *_ in groups:
        linear = layer.get_submodule(first)
        assert isinstance(linear, nn.Linear)
        found[first] = Gram(linear.in_features, walk.model.device)
    walk.observe(layer, {name: each.observe for name, each in found.items()})
    return found


class SampledRows:
    """Every so many-th of the rows that it is shown."""

    def __init__(self, every: int):
        self.every, self._seen, self._parts = every, 0, list[Tensor]()

    def observe(self, x_NI: Tensor) -> None:
        self._parts.append(x_NI[-self._seen % self.every :: self.every].clone())
        self._seen += len(x_NI)

    @property
    def rows(self) -> Tensor:
        """(rows, I)."""
        return torch.cat(self._parts)
