"""SDAR checkpoints on disk: `config.json` and safetensors in the official names, read strictly, written atomically.

Does not download: a path is a folder. Loading needs every weight in its shape, and a block size and mask token, from
the file or from the caller.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lightningrl import io
from lightningrl.errors import CheckpointError
from lightningrl.models.config_file import config_json, read_config
from lightningrl.models.sdar import SDAR


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
    dtype = next(model.parameters()).dtype
    config = config_json(model.config, dtype, eos_token_id=eos_token_id, pad_token_id=pad_token_id)
    weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    io.write_bytes(folder / "model.safetensors", save(weights, {"format": "pt"}))
    io.write_json(folder / "config.json", config)
