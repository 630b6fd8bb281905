"""Weights on disk: one `model.safetensors`, or the hub's shards with `model.safetensors.index.json`.

Reading looks at all headers first, so that a checkpoint of another kind is refused before its gigabytes are read.
Where an index lies, the index decides which files are the checkpoint's. Pickles (`*.bin`) are never read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lightningrl.errors import CheckpointError
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
        raise CheckpointError(f"{path} is damaged ({error}). Restore it, or delete its folder and run again.") from None
