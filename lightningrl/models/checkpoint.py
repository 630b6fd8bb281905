"""Checkpoints on disk: `config.json` and safetensors in their family's names, read strictly, written atomically.

The weights are one `model.safetensors`, or the hub's shards with `model.safetensors.index.json`: where an index lies,
it decides which files are the checkpoint's. Reading looks at all headers first, so that a checkpoint of another kind is
refused before its gigabytes are read. Loading needs every weight in its shape, and a block size and mask token, from
the file or from the caller. Pickles (`*.bin`) are never read, and nothing is downloaded: a path is a folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.overrides import TorchFunctionMode

from lightningrl.errors import CheckpointError
from lightningrl.models.config_file import config_json, family_named, read_config
from lightningrl.models.transformer import ModelConfig, Transformer
from lightningrl.utils import files

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000
"""The hub's default; the official 1.7B, 4B and 8B have 1, 2 and 4 files by it."""
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


@dataclass(frozen=True, slots=True)
class Stored:
    """A weight as a file's header describes it."""

    file: Path
    name: str
    """In the file."""
    shape: tuple[int, ...]
    dtype: torch.dtype


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
    with torch.device("meta"), Undrawn():
        return Transformer(config)


class Undrawn(TorchFunctionMode):
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
    model: Transformer,
    folder: Path,
    *,
    eos_token_id: int,
    pad_token_id: int | None,
    bos_token_id: int | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write `config.json` and the weights in the model's dtype: one file, or shards and their index where it is larger.

    The token ids are those that config.json is to say; where there is no bos it is the pad, as in Qwen's files.
    An SDAR model's folder is also one that Hugging Face's `Qwen3ForCausalLM` loads, once `model_type` in its config is
    set to `qwen3`.
    """
    dtype = next(model.parameters()).dtype
    family = family_named(model.config.family)
    weights = {family.stored_name(name): weight for name, weight in model.weights().items()}
    write_weights(folder, weights, max_shard_bytes)
    ids = {"eos_token_id": eos_token_id, "pad_token_id": pad_token_id, "bos_token_id": bos_token_id}
    config = config_json(model.config, dtype, **ids)
    files.write_json(folder / "config.json", config)


def stored_weights(folder: Path) -> dict[str, Stored]:
    """Every weight of the checkpoint by name, from the headers alone.

    Raises CheckpointError naming the file: missing or damaged, at odds with the index, a weight that is twice there or
    is no floating-point tensor.
    """
    index = _index(folder)
    found: dict[str, Stored] = {}
    for path in _files(folder, index):
        with _opened(path) as file:
            for name in file.keys():
                entry = file.get_slice(name)
                dtype = _DTYPES.get(entry.get_dtype())
                if dtype is None:
                    raise CheckpointError(
                        f"{path}: {name} is {entry.get_dtype()}, expected one of {', '.join(_DTYPES)}. Quantised "
                        "checkpoints are not read: take the one in bfloat16."
                    )
                if name in found:
                    raise CheckpointError(f"{name} is in {found[name].file.name} and in {path}, expected in one")
                found[name] = Stored(path, name, tuple(entry.get_shape()), dtype)
    for name, file in index.items():
        if name not in found or found[name].file.name != file:
            raise CheckpointError(f"{folder / file} lacks {name}, which {INDEX} says it has. Restore the file.")
    return found


def read_weights(
    stored: Mapping[str, Stored], dtype: torch.dtype | None, device: torch.device | str
) -> dict[str, torch.Tensor]:
    """The weights on `device`, under the keys of `stored`, in `dtype` (None: each as it is stored).

    One is read at a time, so memory holds one copy.
    """
    weights = {}
    for path in sorted({entry.file for entry in stored.values()}):
        with _opened(path, str(device)) as file:
            for name, entry in stored.items():
                if entry.file == path:
                    weights[name] = file.get_tensor(entry.name).to(dtype or entry.dtype)
    return weights


def read_rows(stored: Mapping[str, Stored], rows: Mapping[str, slice]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name, rows of that weight) on the CPU, in the stored dtype; nothing else of the files is read.

    One is read at a time. rows: for every name of `stored`.
    """
    for path in sorted({entry.file for entry in stored.values()}):
        with _opened(path) as file:
            for name, entry in stored.items():
                if entry.file == path and rows[name].start < rows[name].stop:
                    yield name, file.get_slice(entry.name)[rows[name]]


def write_weights(folder: Path, weights: Mapping[str, torch.Tensor], max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write one file, or shards of at most `max_shard_bytes` and their index; files of an earlier save go.

    Each file is whole or absent. Killed in between, the folder holds the earlier weights, or the new ones, or it is
    refused as incomplete; it never passes with weights of both. Memory: twice the largest file beside the model.
    Raises StageError on a full disk or a folder that cannot be written.
    """
    split = into_files(weights, max_shard_bytes)
    if split.is_sharded:
        _remove(folder / INDEX)  # first: the shards of two saves may bear the same names
    for file, names in split.filename_to_tensors.items():
        shard = {name: weights[name].detach().cpu().contiguous() for name in names}
        files.write_bytes(folder / file, save(shard, {"format": "pt"}))
    if split.is_sharded:
        files.write_json(folder / INDEX, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})
    else:
        _remove(folder / INDEX)
    for path in (folder / WHOLE, *folder.glob("model-?????-of-?????.safetensors")):
        if path.name not in split.filename_to_tensors:
            _remove(path)


def into_files(weights: Mapping[str, torch.Tensor], max_shard_bytes: int = MAX_SHARD_BYTES) -> StateDictSplit:
    """Which weight goes to which file, filled in order; a weight larger than the limit has a file of its own."""
    return split_state_dict_into_shards_factory(
        dict(weights),
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_bytes,
    )


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise files.disk_error(path, error) from error


def _index(folder: Path) -> dict[str, str]:
    """Weight name to file name; empty where the folder has no index."""
    path = folder / INDEX
    if not path.exists():
        return {}
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if not names or not all(isinstance(name, str) and name == Path(name).name for name in names.values()):
            raise ValueError("its weight_map must name files of this folder")
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}. Restore it from where the checkpoint came.") from None
    return names


def _files(folder: Path, index: dict[str, str]) -> list[Path]:
    paths = [folder / name for name in sorted(set(index.values()) or {WHOLE})]
    for path in paths:
        if not path.is_file():
            why = f", which {INDEX} names" if index else ""
            raise CheckpointError(f"{path} is missing{why}. Restore the checkpoint, or run the stage that makes it.")
    return paths


@contextmanager
def _opened(path: Path, device: str = "cpu") -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device=device) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). {files.remedy(path)}") from None
