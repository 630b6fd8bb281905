"""Opens a checkpoint's folder, whether its weights are plain or quantised. It knows no quantizer and no format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightningrl.models.checkpoint import load_model
from lightningrl.models.transformer import Transformer
from lightningrl.utils.registry import resolve

QUANTIZATION = "quantization.json"
"""What a quantised checkpoint has beside its weights."""
LOADER = "lightningrl.quantization.stored:load"
"""Looked up when it is needed: what it is made of is in no key of a stage that reads plain weights."""


def is_quantized(folder: Path) -> bool:
    """Whether a folder's checkpoint has codes in place of weights."""
    return (Path(folder) / QUANTIZATION).is_file()


def open_model(folder: Path, **options: Any) -> Transformer:
    """Returns the model of a folder, in evaluation mode; `options` and errors are those of `load_model`."""
    return (resolve(LOADER) if is_quantized(folder) else load_model)(Path(folder), **options)
