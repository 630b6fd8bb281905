"""`config.json` of a checkpoint: the official SDAR files, Hugging Face's `qwen3`, and ours, read strictly.

No default stands in for an absent key: those of the official configuration class are wrong for every released size.
Keys that do not change the model (training switches, token ids, dtype) are not looked at. Variants that this model
class does not compute are refused, not ignored.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from lightningrl.errors import CheckpointError
from lightningrl.models.transformer import ModelConfig

_VARIANTS = {
    "tie_word_embeddings": False, "attention_bias": False, "rope_scaling": None, "hidden_act": "silu",
    "use_sliding_window": False, "quantization_config": None,
}  # fmt: skip
_OURS = ("block_size", "mask_token_id")
_NUMBERS = ("rms_norm_eps", "rope_theta", "initializer_range")


def read_config(folder: Path, *, block_size: int | None = None, mask_token_id: int | None = None) -> ModelConfig:
    """The model's shape from `folder/config.json`; `block_size`, `mask_token_id` fill or must equal what it says.

    Raises CheckpointError naming the file and key: no such folder, damaged, a key absent or out of range, a model
    that this class is not, a contradiction with the caller.
    """
    path = folder / "config.json"
    raw = _read(path)
    if raw.get("model_type") not in ("sdar", "qwen3"):
        raise CheckpointError(
            f"{path}: model_type is {raw.get('model_type')!r}, expected 'sdar' (or 'qwen3'). Give an SDAR checkpoint."
        )
    _refuse_variants(path, raw)
    _flatten_rope(path, raw)
    for key, value in (("block_size", block_size), ("mask_token_id", mask_token_id)):
        if value is None:
            continue
        if raw.get(key) is None:
            raw[key] = value
        if raw[key] != value:
            raise CheckpointError(f"{path} says {key} {raw[key]}, the caller {value}: they must agree")
    missing = [field.name for field in fields(ModelConfig) if raw.get(field.name) is None]
    if missing:
        ours = "(the official files leave block_size and mask_token_id to the caller: give them)"
        raise CheckpointError(f"{path} lacks {', '.join(missing)}{f' {ours}' if set(missing) & set(_OURS) else ''}")
    config = ModelConfig(**{field.name: raw[field.name] for field in fields(ModelConfig)})
    _check_ranges(path, config)
    return config


def config_json(config: ModelConfig, dtype: torch.dtype, *, eos_token_id: int, pad_token_id: int) -> dict[str, Any]:
    """What `config.json` says of a model whose weights have `dtype`: the official keys and the two facts of ours."""
    return asdict(config) | {
        "architectures": ["SDARForCausalLM"], "model_type": "sdar", "torch_dtype": str(dtype).removeprefix("torch."),
        "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "rope_scaling": None,
        "tie_word_embeddings": False, "sliding_window": None, "bos_token_id": pad_token_id,
        "pad_token_id": pad_token_id, "eos_token_id": eos_token_id,
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


def _refuse_variants(path: Path, raw: dict[str, Any]) -> None:
    for key, value in _VARIANTS.items():
        if raw.get(key, value) != value:
            raise CheckpointError(f"{path}: {key} is {raw[key]!r}; this model class has {value!r} only")
    if raw.get("sliding_window") is not None and "use_sliding_window" not in raw:
        raise CheckpointError(f"{path}: sliding_window is {raw['sliding_window']!r}; this model class has None only")
    layers = raw.get("layer_types") or []
    if not isinstance(layers, list) or any(kind != "full_attention" for kind in layers):
        raise CheckpointError(f"{path}: layer_types is {layers!r}; this model class has 'full_attention' only")


def _flatten_rope(path: Path, raw: dict[str, Any]) -> None:
    """Newer transformers write `rope_parameters` (rope_theta, rope_type) where the official files have `rope_theta`."""
    rope = raw.get("rope_parameters")
    if rope is None:
        return
    if not isinstance(rope, dict) or not set(rope) <= {"rope_theta", "rope_type"} or rope.get("rope_type") != "default":
        raise CheckpointError(f"{path}: rope_parameters is {rope!r}; this model class has rope_type 'default' only")
    theta = rope.get("rope_theta")
    if raw.setdefault("rope_theta", theta) != theta:
        raise CheckpointError(f"{path} says rope_theta {raw['rope_theta']} and, in rope_parameters, {theta}: which?")


def _check_ranges(path: Path, config: ModelConfig) -> None:
    for key, value in asdict(config).items():
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
