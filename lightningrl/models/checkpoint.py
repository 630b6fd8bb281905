"""Checkpoints on disk: `config.json` and safetensors in their family's names, read strictly, written atomically.

Does not download: a path is a folder. Loading needs every weight in its shape, and a block size and mask token, from
the file or from the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from lightningrl.errors import CheckpointError
from lightningrl.models.config_file import config_json, family_named, read_config
from lightningrl.models.transformer import ModelConfig, Transformer
from lightningrl.models.weight_files import MAX_SHARD_BYTES, Stored, read_weights, stored_weights, write_weights
from lightningrl.utils import files


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    block_size: int | None = None,
    mask_token_id: int | None = None,
) -> Transformer:
    """The model of a folder (one or several safetensors files), in evaluation mode.

    `dtype` None keeps the weights as they are stored. Memory holds one copy of the weights. Raises CheckpointError
    naming the file: missing or damaged, a weight absent, unexpected or of another shape.
    """
    folder = Path(folder)
    model, stored = inspect_model(folder, block_size=block_size, mask_token_id=mask_token_id)
    if dtype is None and len({entry.dtype for entry in stored.values()}) > 1:
        kinds = ", ".join(sorted({str(entry.dtype) for entry in stored.values()}))
        raise CheckpointError(f"{folder}: weights are stored in several dtypes ({kinds}); say which one is wanted")
    model.load_weights(read_weights(stored, dtype, device), assign=True)
    return model.eval()


def inspect_model(
    folder: Path, *, block_size: int | None = None, mask_token_id: int | None = None
) -> tuple[Transformer, dict[str, Stored]]:
    """The model without its weights (on the meta device), and where each of them lies; no weight is read.

    Raises CheckpointError like `load_model`.
    """
    config = read_config(folder, block_size=block_size, mask_token_id=mask_token_id)
    stored = stored_weights(folder)
    if config.num_hidden_layers > len(stored):  # before as many layers are built
        raise CheckpointError(
            f"{folder}: config.json says {config.num_hidden_layers} layers, the checkpoint has {len(stored)} weights"
        )
    model = empty_model(config)
    family, weights = family_named(config.family), model.weights()
    names = {family.stored_name(name): name for name in weights}
    _match(folder, stored, {name: tuple(weights[ours].shape) for name, ours in names.items()})
    return model, {names[name]: entry for name, entry in stored.items()}


def empty_model(config: ModelConfig) -> Transformer:
    """A model without weights, on the meta device."""
    with torch.device("meta"), _Undrawn():
        return Transformer(config)


class _Undrawn(TorchFunctionMode):
    """Modules made here draw no first weights. On the meta device that would draw nothing anyway, but torch imports its
    compiler for it, which takes more than a second."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _match(folder: Path, stored: Mapping[str, Stored], expected: Mapping[str, tuple[int, ...]]) -> None:
    for name, entry in stored.items():
        if name not in expected:
            raise CheckpointError(f"{entry.file}: unexpected weight {name}; config.json is of another model")
        if entry.shape != (shape := expected[name]):
            raise CheckpointError(f"{entry.file}: {name} has shape {entry.shape}, expected {shape} by config.json")
    if missing := sorted(set(expected) - set(stored)):
        raise CheckpointError(
            f"{folder}: {len(missing)} weights are missing, the first is {missing[0]}. Restore the checkpoint."
        )


def save_model(
    model: Transformer, folder: Path, *, eos_token_id: int, pad_token_id: int, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write `config.json` and the weights in the model's dtype: one file, or shards and their index where it is larger.

    An SDAR model's folder is also one that Hugging Face's `Qwen3ForCausalLM` loads, once `model_type` in its config is
    set to `qwen3`.
    """
    dtype = next(model.parameters()).dtype
    family = family_named(model.config.family)
    weights = {family.stored_name(name): weight for name, weight in model.weights().items()}
    write_weights(folder, weights, max_shard_bytes)
    config = config_json(model.config, dtype, eos_token_id=eos_token_id, pad_token_id=pad_token_id)
    files.write_json(folder / "config.json", config)
