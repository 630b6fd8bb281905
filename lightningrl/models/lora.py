"""LoRA adapters in peft's format, merged into a model's weights as it is loaded: `W + scale * B A` (arXiv 2106.09685).

The folder has `adapter_config.json` and `adapter_model.safetensors`. Everything is read strictly before the base's
gigabytes are: each tensor must belong to a weight of this model, each module that the config targets must have both of
its tensors, and what is no plain LoRA (DoRA, trained biases or embeddings, first weights that change the base) is
refused by name. The scale is `lora_alpha / r`, or `lora_alpha / sqrt(r)` with `use_rslora`.

Shapes: O, I output and input features of a matrix; R rank.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lightningrl.errors import CheckpointError
from lightningrl.models.checkpoint import inspect_model, load_model
from lightningrl.models.config_file import family_named
from lightningrl.models.transformer import Transformer

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft puts before the name of each module."""
SAFE_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` with which training began at the base's own weights. The others (PiSSA, OLoRA, CorDA,
LoftQ) change the base first."""
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",), "bias": ("none", None), "fan_in_fan_out": (False, None), "use_dora": (False, None),
    "lora_bias": (False, None), "use_qalora": (False, None), "modules_to_save": (None, []),
    "rank_pattern": (None, {}), "alpha_pattern": (None, {}), "layer_replication": (None, []),
    "target_parameters": (None, []), "trainable_token_indices": (None, [], {}), "exclude_modules": (None, [], ""),
    "alora_invocation_tokens": (None, []), "init_lora_weights": SAFE_STARTS,
}  # fmt: skip
"""Keys of adapter_config.json that would change what is computed -> the values of a plain LoRA."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a folder says, before its tensors are read."""

    folder: Path
    rank: int
    scale: float
    targets: str | tuple[str, ...]
    """As in peft: one pattern for whole names of modules, or ends of names."""
    layers: tuple[int, ...] | None
    """`layers_to_transform`: numbers of the layers that are targeted; None: all."""
    base: str
    """What it was trained from, by its own word; for messages."""
    shapes: Mapping[str, tuple[int, ...]]
    """Tensor's name in the file -> its shape."""

    def is_target(self, module: str) -> bool:
        """Whether the config names a module of the base."""
        if self.layers is not None:
            number = re.search(r"\.(\d+)\.", module)
            if number is None or int(number[1]) not in self.layers:
                return False
        if isinstance(self.targets, str):
            return self.targets == "all-linear" or re.fullmatch(self.targets, module) is not None
        return any(module == each or module.endswith(f".{each}") for each in self.targets)


def load_merged(folder: Path, adapter: Path, **options: Any) -> Transformer:
    """The model of a checkpoint's folder with an adapter merged into its weights, in evaluation mode.

    options: those of `models.checkpoint.load_model`. Sums are float32 at least, rounded once to the model's dtype.
    Raises CheckpointError for either folder before a weight is read.
    """
    found = read_adapter(Path(adapter))
    given = {key: value for key, value in options.items() if key in ("block_size", "mask_token_id")}
    pairs = match(found, inspect_model(Path(folder), **given)[0], Path(folder))
    model = load_model(folder, **options)
    merge(model, found, pairs)
    return model


def read_adapter(folder: Path) -> Adapter:
    """What the adapter's config and the header of its tensors say. Raises CheckpointError naming file and key."""
    path = folder / CONFIG
    if not path.is_file():
        what = "is no adapter: adapter_config.json is missing" if folder.is_dir() else "does not exist"
        raise CheckpointError(
            f"the adapter {folder} {what}. Give the folder of a LoRA in peft's format. If it is a name on the Hugging "
            f"Face hub, download it first (hf download <name> --local-dir <folder>)."
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise ValueError("expected a mapping of keys")
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Restore it from where the adapter came.") from None
    for key, plain in PLAIN.items():
        if raw.get(key, None if key == "peft_type" else plain[0]) not in plain:
            raise CheckpointError(f"{path}: {key} is {raw.get(key)!r}; only plain LoRA is merged, with {plain[0]!r}")
    rank, alpha, targets = raw.get("r"), raw.get("lora_alpha"), raw.get("target_modules")
    if type(rank) is not int or rank < 1:
        raise CheckpointError(f"{path}: r is {rank!r}, expected a whole number of 1 or more")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise CheckpointError(f"{path}: lora_alpha is {alpha!r}, expected a number")
    is_list = isinstance(targets, list) and all(isinstance(each, str) for each in targets)
    if not targets or not (is_list or isinstance(targets, str)):
        raise CheckpointError(f"{path}: target_modules is {targets!r}, expected names of modules or one pattern")
    layers = raw.get("layers_to_transform")
    layers = [layers] if type(layers) is int else layers
    if layers is not None and not (isinstance(layers, list) and all(type(each) is int for each in layers)):
        raise CheckpointError(f"{path}: layers_to_transform is {layers!r}, expected numbers of layers")
    return Adapter(
        folder=folder,
        rank=rank,
        scale=alpha / math.sqrt(rank) if raw.get("use_rslora") else alpha / rank,
        targets=targets if isinstance(targets, str) else tuple(targets),
        layers=None if layers is None else tuple(layers),
        base=str(raw.get("base_model_name_or_path") or "not said"),
        shapes=_shapes(folder / TENSORS),
    )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; pickles (*.bin) are never read. Restore the adapter.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Restore it from where the adapter came.") from None


def match(adapter: Adapter, model: Transformer, folder: Path) -> dict[str, tuple[str, str]]:
    """Name of each weight that is changed -> the names of its A and B in the adapter's file; nothing else is in it.

    folder: the base's, for messages. Raises CheckpointError: a tensor of no module of this model or of another shape,
    half of a pair, a targeted module without tensors, a target that is no module.
    """
    family, path = family_named(model.config.family), adapter.folder / TENSORS
    hint = f"The adapter's base is {adapter.base!r}; is {folder} that?"
    modules = {
        family.stored_name(f"{name}.weight").removesuffix(".weight"): (f"{name}.weight", tuple(layer.weight.shape))
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    found: dict[str, dict[str, str]] = {}
    for name, shape in adapter.shapes.items():
        parts = re.fullmatch(r"(.+)\.lora_([AB])(?:\.default)?\.weight", name.removeprefix(PREFIX))
        if parts is None:
            raise CheckpointError(f"{path}: {name} is no lora_A or lora_B of a module; only plain LoRA is merged")
        module, half = parts[1], parts[2]
        if module not in modules:
            raise CheckpointError(f"{path}: {name} belongs to no module of the base. {hint}")
        rows, columns = modules[module][1]
        expected = (adapter.rank, columns) if half == "A" else (rows, adapter.rank)
        if shape != expected:
            raise CheckpointError(f"{path}: {name} has shape {shape}, expected {expected}. {hint}")
        if not adapter.is_target(module):
            raise CheckpointError(f"{path}: {name} is of a module that target_modules in {CONFIG} does not name")
        if found.setdefault(module, {}).setdefault(half, name) != name:
            raise CheckpointError(f"{path}: {module} has two tensors lora_{half}")
    targeted = [module for module in modules if adapter.is_target(module)]
    if adapter.targets == "all-linear":  # peft leaves the head out
        targeted = [module for module in targeted if modules[module][0] != "lm_head.weight"]
    lacking = [f"{module}.lora_{half}" for module in targeted for half in "AB" if half not in found.get(module, {})]
    if lacking or not targeted:
        what = f"{len(lacking)} tensors are missing, the first is {lacking[0]}" if lacking else "no module is targeted"
        raise CheckpointError(f"{path}: {what}. {hint} Else restore the adapter.")
    if not isinstance(adapter.targets, str):
        for target in adapter.targets:
            if not any(module == target or module.endswith(f".{target}") for module in targeted):
                raise CheckpointError(f"{adapter.folder / CONFIG}: target {target!r} is no module of the base. {hint}")
    if model.config.tie_word_embeddings and family.stored_name("lm_head.weight").removesuffix(".weight") in found:
        raise CheckpointError(f"{path}: it changes the head, which is the embedding's weight here. {hint}")
    return {modules[module][0]: (halves["A"], halves["B"]) for module, halves in found.items()}


@torch.no_grad()
def merge(model: Transformer, adapter: Adapter, pairs: Mapping[str, tuple[str, str]]) -> None:
    """Adds `scale * B A` to each weight of `pairs` (from `match`), in float32 at least. One product is in memory at a
    time. Raises CheckpointError for numbers that are not finite, when earlier weights are changed already."""
    path = adapter.folder / TENSORS
    with safe_open(path, framework="pt") as file:
        for name, (a, b) in pairs.items():
            weight_OI = model.get_parameter(name)
            wide = torch.promote_types(weight_OI.dtype, torch.float32)
            a_RI, b_OR = (file.get_tensor(each).to(weight_OI.device, wide) for each in (a, b))
            merged_OI: Tensor = weight_OI.to(wide) + adapter.scale * (b_OR @ a_RI)
            if not merged_OI.isfinite().all():
                raise CheckpointError(f"{path}: {a} and {b} are not finite numbers. Restore the adapter.")
            weight_OI.copy_(merged_OI)
