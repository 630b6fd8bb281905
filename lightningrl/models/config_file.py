"""`config.json` of a checkpoint, read strictly: the official files of the families (models/families/), and ours.

No default stands in for an absent key. Keys that do not change the model (training switches, token ids, dtype) are not
looked at. Variants that the transformer does not compute are refused, not ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch

from lightningrl.errors import CheckpointError
from lightningrl.models.families.protocol import Family
from lightningrl.models.transformer import ModelConfig
from lightningrl.utils.registry import resolve

_OURS = ("block_size", "mask_token_id")
_FAMILY = ("family", "attention", "qk_norm", "qkv_bias", "tie_word_embeddings")
"""Facts of the family, which no file states."""
_NUMBERS = ("rms_norm_eps", "rope_theta", "initializer_range")


def read_config(folder: Path, *, block_size: int | None = None, mask_token_id: int | None = None) -> ModelConfig:
    """The model's shape from `folder/config.json`; `block_size`, `mask_token_id` fill or must equal what it says.

    Raises CheckpointError naming the file and key: no such folder, damaged, a key absent or out of range, a model
    that this class is not, a contradiction with the caller.
    """
    path = folder / "config.json"
    raw = _read(path)
    try:
        shape = family_of(raw, path).shape(raw)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    for key, value in (("block_size", block_size), ("mask_token_id", mask_token_id)):
        if value is not None and shape.setdefault(key, value) != value:
            raise CheckpointError(f"{path} says {key} {shape[key]}, the caller {value}: they must agree")
    missing = [field.name for field in fields(ModelConfig) if field.name not in shape and field.default is MISSING]
    if missing:
        ours = "(the official files leave block_size and mask_token_id to the caller: give them)"
        raise CheckpointError(f"{path} lacks {', '.join(missing)}{f' {ours}' if set(missing) & set(_OURS) else ''}")
    config = ModelConfig(**shape)
    _check_ranges(path, config)
    return config


def family_of(raw: Mapping[str, Any], path: Path) -> Family:
    """The family of a config.json. Raises CheckpointError listing the model types there are."""
    families: Mapping[str, str] = resolve("lightningrl.models.families.registry:FAMILIES")
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in families:
        known = ", ".join(map(repr, families))
        raise CheckpointError(f"{path}: model_type is {model_type!r}, expected one of {known}")
    return resolve(families[model_type])()


def config_json(config: ModelConfig, dtype: torch.dtype, *, eos_token_id: int, pad_token_id: int) -> dict[str, Any]:
    """What `config.json` says of a model whose weights have `dtype`: its family's keys and ours."""
    family = family_of({"model_type": config.family}, Path("config.json"))
    return family.config_json(config) | {
        "torch_dtype": str(dtype).removeprefix("torch."), "bos_token_id": pad_token_id, "pad_token_id": pad_token_id,
        "eos_token_id": eos_token_id,
    }  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    folder = path.parent
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is {'a file' if folder.exists() else 'missing'}, expected the folder of a checkpoint. If it is "
            f"a name on the Hugging Face hub, download it first (hf download <name> --local-dir <folder>)."
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is not a checkpoint: config.json is missing") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Restore it from where the checkpoint came.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} is damaged: expected a mapping of keys, found {type(raw).__name__}")
    return raw


def _check_ranges(path: Path, config: ModelConfig) -> None:
    for key, value in asdict(config).items():
        if key in _FAMILY:
            continue
        whole = type(value) is int and value >= 1
        if key == "mask_token_id":
            if type(value) is not int or not 0 <= value < config.vocab_size:
                raise CheckpointError(f"{path}: mask token {value} outside the vocabulary of {config.vocab_size}")
        elif key in _NUMBERS:
            if type(value) not in (int, float) or not 0 < value < float("inf"):
                raise CheckpointError(f"{path}: {key} is {value!r}, expected a number above 0")
        elif not whole:
            raise CheckpointError(f"{path}: {key} is {value!r}, expected a whole number of 1 or more")
    if config.num_attention_heads % config.num_key_value_heads:
        raise CheckpointError(
            f"{path}: {config.num_attention_heads} attention heads, {config.num_key_value_heads} key/value heads; "
            "expected a multiple of them"
        )
    if config.head_dim % 2:
        raise CheckpointError(f"{path}: head_dim is {config.head_dim}, expected an even number (rotary pairs)")
