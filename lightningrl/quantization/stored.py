"""Quantised checkpoints on disk: codes, scales and zeros in place of weights, and `quantization.json` beside them.

For a quantised layer, `model.safetensors` has `<layer>.codes` (uint8, packed), `<layer>.scale` (O, G) and, where the
grid is asymmetric, `<layer>.zero` (O, G); every other weight is as in a plain checkpoint. What does not know the format
refuses it. config.json and the tokenizer are those of the checkpoint that was quantised.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lightningrl.errors import CheckpointError
from lightningrl.models.checkpoint import WHOLE, empty_model, write_weights
from lightningrl.models.config_file import read_config
from lightningrl.models.transformer import Transformer
from lightningrl.quantization.open import QUANTIZATION
from lightningrl.quantization.uniform import BITS, QuantizedWeight, attach, pack, quantized_of, unpack
from lightningrl.utils import files


def save_quantized(model: Transformer, folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes weights and `quantization.json`; returns what that says: `facts`, and of each layer its grid.

    `bits_per_weight` is the mean over quantised weights, scales and zeros included.
    """
    tensors, layers, bits, count = dict(model.weights()), dict[str, Any](), 0.0, 0
    for name, layer in model.named_modules():
        if (quantized := quantized_of(layer)) is None:
            continue
        weight = tensors.pop(f"{name}.weight")
        if not torch.equal(weight, quantized.values(weight.dtype)):
            raise CheckpointError(f"{name}: its weights are not the values of its codes; it was changed since")
        tensors |= {f"{name}.codes": pack(quantized.codes_OI, quantized.bits), f"{name}.scale": quantized.scale_OG}
        if not quantized.symmetric:
            tensors[f"{name}.zero"] = quantized.zero_OG
        layers[name] = {"bits": quantized.bits, "symmetric": quantized.symmetric, "shape": list(weight.shape)}
        bits, count = bits + quantized.bits_per_weight * weight.numel(), count + weight.numel()
    if not layers:
        raise CheckpointError("the quantizer left every layer as it was: there is nothing quantised to save")
    found = {**facts, "bits_per_weight": bits / count, "layers": layers}
    write_weights(folder, tensors, max_shard_bytes=sys.maxsize)
    files.write_json(folder / QUANTIZATION, found)
    return found


def load(
    folder: Path, *, dtype: torch.dtype | None = torch.float32, device: torch.device | str = "cpu", **given: Any
) -> Transformer:
    """Returns the model of a quantised checkpoint with the values of its codes as weights, in evaluation mode.

    The arguments are those of `models.checkpoint.load_model`; where `dtype` is None, all weights have the one in which
    those are stored that were not quantised. Raises CheckpointError naming the file: missing, damaged, or at odds with
    another.
    """
    model, layers, tensors = empty_model(read_config(folder, **given)), _layers(folder), _tensors(folder)
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    try:
        quantized = {name: _quantized(name, linear[name], entry, tensors) for name, entry in layers.items()}
        kept = _dtype_of(folder, tensors) if dtype is None else dtype  # after codes, scales and zeros are taken out
        weights = {f"{name}.weight": each.values(kept) for name, each in quantized.items()}
        weights |= {name: tensor.to(kept) for name, tensor in tensors.items()}
        model.load_weights({name: tensor.to(device) for name, tensor in weights.items()}, assign=True)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: {WHOLE}, {QUANTIZATION} and config.json are not of one model ({error}). Restore the folder, or "
            "run the stage that makes it."
        ) from None
    for name, each in quantized.items():
        attach(linear[name], each)
    return model.eval()


def _layers(folder: Path) -> dict[str, Any]:
    found = files.read_json(folder / QUANTIZATION)
    layers = found.get("layers") if isinstance(found, dict) else None
    if not isinstance(layers, dict) or not layers:
        raise CheckpointError(f"{folder / QUANTIZATION} is damaged: it names no layers. Restore it.")
    return layers


def _tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WHOLE
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Restore it, or run the stage that makes it.") from None


def _dtype_of(folder: Path, tensors: Mapping[str, Tensor]) -> torch.dtype:
    """Returns the dtype of the weights that were not quantised. Raises CheckpointError where they have several."""
    found = {tensor.dtype for tensor in tensors.values()}
    if len(found) != 1:
        kinds = ", ".join(sorted(map(str, found)))
        raise CheckpointError(
            f"{folder}: plain weights are stored in {len(found)} dtypes ({kinds}), not in one; say which one is wanted"
        )
    return found.pop()


def _quantized(name: str, layer: nn.Linear, entry: Mapping[str, Any], tensors: dict[str, Tensor]) -> QuantizedWeight:
    """Takes a layer's codes, scales and zeros out of `tensors`. Raises KeyError or ValueError where they do not fit."""
    bits, symmetric, shape = entry["bits"], entry["symmetric"], tuple(layer.weight.shape)
    if bits not in BITS or tuple(entry["shape"]) != shape:
        raise ValueError(f"{name} has {bits} bits and shape {entry['shape']}, expected {shape}")
    scale_OG = tensors.pop(f"{name}.scale")
    codes_OI = unpack(tensors.pop(f"{name}.codes"), bits, shape[0] * shape[1]).view(shape)
    zero_OG = torch.full_like(scale_OG, 2 ** (bits - 1)).to(torch.uint8) if symmetric else tensors.pop(f"{name}.zero")
    return QuantizedWeight(codes_OI, scale_OG, zero_OG, bits, symmetric)
