"""SDAR checkpoints on disk: `config.json` and safetensors in the official names, read strictly, written atomically.

Does not download: a path is a folder. Loading needs every weight in its shape, and a block size and mask token, from
the file or from the caller.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lightningrl import io
from lightningrl.errors import CheckpointError
from lightningrl.models.sdar import SDAR, ModelConfig

_OURS = ("block_size", "mask_token_id")


def read_config(folder: Path, *, block_size: int | None = None, mask_token_id: int | None = None) -> ModelConfig:
    """The model's shape from `folder/config.json`; `block_size`, `mask_token_id` fill or must equal what it says."""
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is not a checkpoint: config.json is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Restore it from where the checkpoint came.") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} is damaged: expected a mapping of keys, found {type(raw).__name__}")
    if raw.get("model_type") not in ("sdar", "qwen3"):
        raise CheckpointError(f"{path}: model_type is {raw.get('model_type')!r}, expected 'sdar'")
    _refuse_variants(path, raw)
    given = {"block_size": block_size, "mask_token_id": mask_token_id}
    for key, value in given.items():
        if value is None:
            continue
        if raw.get(key) is None:
            raw[key] = value
        if raw[key] != value:
            raise CheckpointError(f"{path} says {key} {raw[key]}, the caller {value}: they must agree")
    missing = [field.name for field in fields(ModelConfig) if raw.get(field.name) is None]
    if missing:
        hint = (
            " (the official files leave block_size and mask_token_id to the caller: give them)"
            if (set(missing) & set(_OURS))
            else ""
        )
        raise CheckpointError(f"{path} lacks {', '.join(missing)}{hint}")
    config = ModelConfig(**{field.name: raw[field.name] for field in fields(ModelConfig)})
    if type(config.block_size) is not int or config.block_size < 1:
        raise CheckpointError(f"{path}: block_size is {config.block_size!r}, expected a whole number of 1 or more")
    if type(config.mask_token_id) is not int or not 0 <= config.mask_token_id < config.vocab_size:
        raise CheckpointError(
            f"{path}: mask token {config.mask_token_id} outside the vocabulary of {config.vocab_size}"
        )
    return config


def _refuse_variants(path: Path, raw: dict[str, Any]) -> None:
    expected = {"tie_word_embeddings": False, "attention_bias": False, "rope_scaling": None, "hidden_act": "silu"}
    for key, value in expected.items():
        if raw.get(key, value) != value:
            raise CheckpointError(f"{path}: {key} is {raw[key]!r}; this model class has {value!r} only")


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    block_size: int | None = None,
    mask_token_id: int | None = None,
) -> SDAR:
    """The model of a folder (one or several safetensors files), in evaluation mode.

    Raises CheckpointError naming the file: missing or damaged, a weight absent, unexpected or of another shape.
    """
    config = read_config(folder, block_size=block_size, mask_token_id=mask_token_id)
    with torch.device("meta"):
        model = SDAR(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state: dict[str, torch.Tensor] = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in file.keys():
                    if name not in expected:
                        raise CheckpointError(f"{path}: unexpected weight {name}; is this an SDAR checkpoint?")
                    tensor = file.get_tensor(name)
                    if tuple(tensor.shape) != expected[name]:
                        raise CheckpointError(
                            f"{path}: {name} has shape {tuple(tensor.shape)}, expected {expected[name]}"
                        )
                    state[name] = tensor.to(dtype)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error}). Restore it, or delete its folder and run again."
            ) from None
    missing = sorted(set(expected) - set(state))
    if missing:
        raise CheckpointError(f"{folder}: {len(missing)} weights are missing, the first is {missing[0]}")
    model.load_state_dict(state, assign=True)
    return model.eval()


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{index} is damaged: {error!r}") from None
    else:
        names = ["model.safetensors"]
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name} is missing. Restore the checkpoint, or run the stage that makes it."
            )
    return [folder / name for name in names]


def save_model(model: SDAR, folder: Path, *, eos_token_id: int, pad_token_id: int) -> None:
    """Write `config.json` and `model.safetensors` (float32 or the model's dtype), each file whole or absent."""
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    config = asdict(model.config) | {
        "architectures": ["SDARForCausalLM"], "model_type": "sdar", "torch_dtype": dtype, "hidden_act": "silu",
        "attention_bias": False, "attention_dropout": 0.0, "rope_scaling": None, "tie_word_embeddings": False,
        "sliding_window": None, "bos_token_id": pad_token_id, "pad_token_id": pad_token_id,
        "eos_token_id": eos_token_id,
    }  # fmt: skip
    weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    io.write_bytes(folder / "model.safetensors", save(weights, {"format": "pt"}))
    io.write_json(folder / "config.json", config)
