"""Opens a checkpoint's folder: plain or quantised weights, or plain ones with an adapter. It knows no format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightningrl.errors import CheckpointError
from lightningrl.models.checkpoint import load_model
from lightningrl.models.transformer import Transformer
from lightningrl.utils.registry import resolve

QUANTIZATION = "quantization.json"
"""What a quantised checkpoint has beside its weights."""
LOADER = "lightningrl.quantization.stored:load"
ADAPTED = "lightningrl.models.lora:load_merged"
"""Both are looked up when they are needed: what they are made of is in no key of a stage that reads plain weights."""


def is_quantized(folder: Path) -> bool:
    """Whether a folder's checkpoint has codes in place of weights."""
    return (Path(folder) / QUANTIZATION).is_file()


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
    return (resolve(LOADER) if is_quantized(folder) else load_model)(Path(folder), **options)
