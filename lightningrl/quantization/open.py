"""Opens a checkpoint's folder: plain or quantised weights, or plain ones with an adapter. It knows no format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightningrl.errors import CheckpointError
from lightningrl.models.checkpoint import load_model
from lightningrl.models.transformer import Transformer
from lightningrl.utils.registry import resolve

QUANTIZATION = "quantization.json"
"""What a quantised checkpoint has beside its weights."""
CONFIG_KEY, COMPRESSED = "quantization_config", "compressed-tensors"
"""What a checkpoint in the engines' format says in its config.json, and its value of `quant_method`."""
LOADER = "lightningrl.quantization.stored:load"
COMPRESSED_LOADER = "lightningrl.quantization.compressed:load"
ADAPTED = "lightningrl.models.lora:load_merged"
"""They are looked up when they are needed: what they are made of is in no key of a stage that reads plain weights."""


def is_quantized(folder: Path) -> bool:
    """Whether a folder's checkpoint has codes in place of weights."""
    return (Path(folder) / QUANTIZATION).is_file() or is_compressed(folder)


def is_compressed(folder: Path) -> bool:
    """Whether a folder's checkpoint is one in the format `compressed-tensors`."""
    try:
        said = json.loads((Path(folder) / "config.json").read_bytes())
        return said[CONFIG_KEY]["quant_method"] == COMPRESSED
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False  # what is wrong with it, whoever reads it next says


def check_plain(folder: Path) -> None:
    """Raises CheckpointError for a checkpoint with codes where an experiment's `base` or `checkpoints` name it."""
    if is_quantized(folder):
        raise CheckpointError(
            f"{folder} is quantised, and `base` and `checkpoints` take plain weights, from which an experiment trains, "
            "and which it quantises itself (`systems`): name the checkpoint that it was made from. Verbs that are "
            "given a folder, as `generate` and `evaluate`, read it as it is"
        )


def open_model(folder: Path, *, adapter: Path | str | None = None, **options: Any) -> Transformer:
    """Returns the model of a folder, in evaluation mode; `options` and errors are those of `load_model`.

    adapter: the folder of a LoRA to be merged into its weights (models/lora.py).
    """
    if adapter:
        if is_quantized(folder):
            raise CheckpointError(
                f"{folder} is quantised, and an adapter is merged into plain weights: merge it into the checkpoint "
                "that was quantised, and quantise that"
            )
        return resolve(ADAPTED)(Path(folder), Path(adapter), **options)
    if not is_quantized(folder):
        return load_model(Path(folder), **options)
    return resolve(COMPRESSED_LOADER if is_compressed(folder) else LOADER)(Path(folder), **options)
