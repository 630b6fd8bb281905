"""`config.json` of a checkpoint, read strictly: the official files of the families (models/families/), and ours.

No default stands in for an absent key. Keys that do not change the model (training switches, token ids, dtype) are not
looked at. Variants that the transformer does not compute are refused, not ignored.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch

from lightningrl.errors import CheckpointError
from lightningrl.models.families.protocol import NO_MASK, Family
from lightningrl.models.transformer import ModelConfig
from lightningrl.utils.registry import resolve


def read_config(
    folder: Path, *, block_size: int | None = None, mask_token_id: int | None = None, ignoring: Collection[str] = ()
) -> ModelConfig:
    """The model's shape from `folder/config.json`; `block_size`, `mask_token_id` fill or must equal what it says.

    ignoring: keys that the caller reads by itself.
    Raises CheckpointError naming the file and key: no such folder, damaged, a key absent or out of range, a model
    that this class is not, a contradiction with the caller.
    """
    path, given = folder / "config.json", {"block_size": block_size, "mask_token_id": mask_token_id}
    raw = {key: value for key, value in _read(path).items() if key not in ignoring}
    try:
        family = family_named(raw.get("model_type"), folder)
        shape = family.shape(raw)
    except (ValueError, CheckpointError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    for key, value in given.items():
        if value is not None and shape.setdefault(key, value) != value:
            raise CheckpointError(f"{path} says {key} {shape[key]}, the caller {value}: they must agree")
    shape = {**family.defaults, **shape}
    missing = [field.name for field in fields(ModelConfig) if field.name not in shape and field.default is MISSING]
    if missing:
        ours = " (the official files leave block_size and mask_token_id to the caller: give them)"
        raise CheckpointError(f"{path} lacks {', '.join(missing)}{ours if set(missing) & set(given) else ''}")
    config = ModelConfig(**shape)
    try:
        _check_ranges(config)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return config


def family_named(model_type: Any, folder: Path | None = None) -> Family:
    """The family of a `model_type`. Raises CheckpointError listing those there are, plug-ins' included, with the
    plug-ins that made the checkpoint in `folder`."""
    families: dict[str, str] = resolve("lightningrl.models.families.registry:known")()
    if not isinstance(model_type, str) or model_type not in families:
        known = ", ".join(map(repr, families))
        raise CheckpointError(f"model_type is {model_type!r}, expected one of {known}{_plugins_told(folder)}")
    return resolve(families[model_type])()


def _plugins_told(folder: Path | None) -> str:
    """How to name the plug-in of an unknown family: what the manifest of the stage that wrote the folder says of it. It
    is told, never imported: a checkpoint runs no code."""
    try:
        plugins = [] if folder is None else json.loads((folder / "manifest.json").read_bytes())["run"]["plugins"]
        options = " ".join(f"--plugins {each}" for each in plugins if each.replace(".", "_").isidentifier())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        options = ""
    if options:
        return f". The checkpoint was made with plug-ins: give {options}, or name them in the config's `plugins`"
    return ". The family of another package needs its plug-in: --plugins MODULE, or `plugins` in the config"


def family_of(folder: Path) -> Family:
    """The family of a checkpoint's folder, from `model_type` alone. Raises CheckpointError as `read_config` does."""
    path = folder / "config.json"
    try:
        return family_named(_read(path).get("model_type"), folder)
    except CheckpointError as error:
        raise CheckpointError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def has_planner(folder: Path) -> bool:
    """Whether the config.json of a folder says that its model has a planner; False where it cannot be read whole."""
    try:
        return read_config(folder).has_planner
    except CheckpointError:
        return False


def config_json(
    config: ModelConfig,
    dtype: torch.dtype,
    *,
    eos_token_id: int,
    pad_token_id: int | None,
    bos_token_id: int | None = None,
) -> dict[str, Any]:
    """What `config.json` says of a model whose weights have `dtype`: its family's keys and ours."""
    return family_named(config.family).config_json(config) | {
        "torch_dtype": str(dtype).removeprefix("torch."),
        "bos_token_id": pad_token_id if bos_token_id is None else bos_token_id,
        "pad_token_id": pad_token_id,
        "eos_token_id": eos_token_id,
    }


def _read(path: Path) -> dict[str, Any]:
    folder = path.parent
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is {'a file' if folder.exists() else 'missing'}, expected the folder of a checkpoint. If it is "
            f"a name on the Hugging Face hub, download it first (hf download <name> --local-dir <folder>)."
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise ValueError(f"expected a mapping of keys, found {type(raw).__name__}")
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is not a checkpoint: config.json is missing") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Restore it from where the checkpoint came.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    return raw


def _check_ranges(config: ModelConfig) -> None:
    masked = config.has_mask or config.attention != "causal"
    if type(config.vocab_size) is int and masked and config.mask_token_id not in range(config.vocab_size):
        raise ValueError(f"mask token {config.mask_token_id} outside the vocabulary of {config.vocab_size}")
    for field in fields(config):
        value, least = getattr(config, field.name), 1 if field.name != "mask_token_id" else NO_MASK
        if field.type == "int" and (type(value) is not int or value < least):
            raise ValueError(f"{field.name} is {value!r}, expected a whole number of {least} or more")
        if field.type == "float" and (type(value) not in (int, float) or not 0 < value < float("inf")):
            raise ValueError(f"{field.name} is {value!r}, expected a number above 0")
    if config.num_attention_heads % config.num_key_value_heads:
        raise ValueError(
            f"{config.num_attention_heads} attention heads, {config.num_key_value_heads} key/value heads; expected a "
            "multiple of them"
        )
    if config.head_dim % 2:
        raise ValueError(f"head_dim is {config.head_dim}, expected an even number (rotary pairs)")
