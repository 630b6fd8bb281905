"""LoRA in training (arXiv 2106.09685): the frozen weights of chosen matrices, and beside each two small trained ones.

A matrix W becomes `W x + scale * B (A x)` with `scale = alpha / rank`; B begins at 0, so training begins at the base's
own weights. Whoever decodes or ships the model takes it merged (`merged_weights`), so that no other part of the package
knows of adapters. `write_adapter` leaves the factors in peft's format, which `models/lora.py` and peft itself read.
peft's own modules would rename every weight that they wrap, which sharding, saved states and checkpoints go by.

Shapes: O, I output and input features of a matrix; R rank.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from lightningrl.errors import ConfigError
from lightningrl.models.config_file import family_named
from lightningrl.models.linear import Linear
from lightningrl.models.lora import CONFIG, PREFIX, TENSORS
from lightningrl.models.transformer import Transformer
from lightningrl.utils import files

FACTORS = ("lora_A", "lora_B")
"""The names of the two trained matrices of a module, as peft's."""
MATRICES = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj")
"""The modules that may have an adapter: the seven matrices of each layer."""


class AdaptedLinear(Linear):
    """A linear layer whose own weight is frozen, with an adapter. It takes over the weight and bias of `layer`."""

    def __init__(self, layer: nn.Linear, rank: int, scale: float):
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias, self.scale, self.is_on = layer.weight, layer.bias, scale, True
        self.lora_A = nn.Parameter(layer.weight.new_zeros(rank, self.in_features))
        self.lora_B = nn.Parameter(layer.weight.new_zeros(self.out_features, rank))

    def forward(self, input: Tensor) -> Tensor:
        found = super().forward(input)
        return found + self.scale * F.linear(F.linear(input, self.lora_A), self.lora_B) if self.is_on else found


def add_adapters(model: Transformer, rank: int, alpha: float, targets: Sequence[str] = ()) -> list[str]:
    """Freezes the model, gives the targeted matrices adapters of zeros, and returns the new weights' names.

    targets: ends of modules' names as the checkpoint's files have them, which is what peft compares; none: all seven
    matrices of each layer. A target that names no module is passed over as peft does, which is how the published list
    of dParallel reaches only q, k, v and up of LLaDA. A planner has no adapters: what a target reaches of it is passed
    over, too. Raises ConfigError when no matrix is reached, or the head is.
    """
    model.requires_grad_(False)
    family, added, of_planner = family_named(model.config.family), [], ""
    for name, layer in [(name, each) for name, each in model.named_modules() if isinstance(each, nn.Linear)]:
        stored = family.stored_name(f"{name}.weight").removesuffix(".weight")
        is_matrix = MATRICES.fullmatch(name) is not None
        if targets and not any(stored == target or stored.endswith(f".{target}") for target in targets):
            continue
        if not is_matrix:
            if name.startswith("planner."):
                of_planner = stored
            elif targets:
                raise ConfigError(f"adapter.targets: one of {list(targets)} is the head, {stored}; leave it out")
            continue
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, AdaptedLinear(layer, rank, alpha / rank))
        added += [f"{name}.{factor}" for factor in FACTORS]
    if not added:
        found = f"only of the planner ({of_planner}), which has no adapters" if of_planner else "no modules"
        raise ConfigError(
            f"adapter.targets: found {list(targets)}, which are {found} of a {model.config.family} model; leave them "
            "out for all matrices of its layers"
        )
    return added


def start_adapters(model: Transformer, seed: int, own_part: Callable[[Tensor], tuple[Tensor, slice]]) -> None:
    """Draws each A as peft does, uniform within 1 / sqrt(I), keyed by seed and place: the same however it is sharded.

    own_part: this process's part of a weight, and which rows it has (`training.shards.own_part`).
    """
    for number, (_, layer) in enumerate(adapted(model)):
        generator = torch.Generator().manual_seed(seed * 100_003 + number)
        bound = 1 / math.sqrt(layer.in_features)
        whole_RI = torch.empty(layer.lora_A.shape, dtype=torch.float64).uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            local, rows = own_part(layer.lora_A)
            local.copy_(whole_RI[rows])


def adapted(model: nn.Module) -> list[tuple[str, AdaptedLinear]]:
    """Returns the modules that have adapters, with their names."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, AdaptedLinear)]


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Computes with the frozen weights alone for a while: the model before its training, without a second one."""
    layers = [layer for _, layer in adapted(model)]
    for layer in layers:
        layer.is_on = False
    try:
        yield
    finally:
        for layer in layers:
            layer.is_on = True


def is_factor(name: str) -> bool:
    """Whether a parameter of this name is one of an adapter's."""
    return name.rpartition(".")[2] in FACTORS


def merged_weights(
    model: nn.Module, whole: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yields the weights of the plain model, adapters merged, by name; one of them is in memory at a time.

    whole: gathers a sharded tensor; dtype: what weights are cast to, before they are gathered where nothing is merged.
    """
    layers = dict(adapted(model))
    for name, parameter in model.named_parameters():
        if is_factor(name):
            continue
        module, _, kind = name.rpartition(".")
        weight = parameter.detach()
        if kind != "weight" or module not in layers:
            yield name, whole(weight.to(dtype or weight.dtype))
            continue
        layer = layers[module]
        a_RI, b_OR = whole(layer.lora_A.detach()), whole(layer.lora_B.detach())
        yield name, (whole(weight) + layer.scale * (b_OR @ a_RI)).to(dtype or weight.dtype)


def split_factors(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the plain model's weights, and the adapters' factors, of a mapping that has both."""
    factors = {name: tensor for name, tensor in weights.items() if is_factor(name)}
    return {name: tensor for name, tensor in weights.items() if name not in factors}, factors


def write_adapter(folder: Path, family: str, factors: Mapping[str, Tensor], alpha: float, base: str = "") -> None:
    """Writes the factors as `adapter_config.json` and `adapter_model.safetensors`, peft's format.

    The config targets just the modules that have factors, by their names in the checkpoint's files: by their ends,
    or by a pattern where an end would reach another module, as LLaDA's `ff_out` would reach the head.
    """
    named = family_named(family)
    stored = {name: named.stored_name(f"{name.rpartition('.')[0]}.weight").removesuffix(".weight") for name in factors}
    tensors = {f"{PREFIX}{stored[name]}.{name.rpartition('.')[2]}.weight": value for name, value in factors.items()}
    ends = sorted({module.rpartition(".")[2] for module in stored.values()})
    head = named.stored_name("lm_head.weight").removesuffix(".weight").rpartition(".")[2]
    targets: list[str] | str = ends
    if head in ends:
        layers = {re.sub(r"\d+", r"\\d+", module.rpartition(".")[0].replace(".", r"\.")) for module in stored.values()}
        targets = f"({'|'.join(sorted(layers))})\\.({'|'.join(ends)})"
    rank = next(len(value) for name, value in factors.items() if name.endswith("lora_A"))
    config = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": base, "r": rank, "lora_alpha": alpha,
        "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "layers_to_transform": None, "modules_to_save": None, "rank_pattern": {},
        "alpha_pattern": {}, "target_modules": targets, "use_dora": False, "use_rslora": False,
    }  # fmt: skip
    files.write_bytes(folder / TENSORS, save({name: value.contiguous() for name, value in sorted(tensors.items())}))
    files.write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
