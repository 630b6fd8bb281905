"""Quantised checkpoints on disk: codes, scales and zeros in place of weights, and `quantization.json` beside them.

For a quantised layer, `model.safetensors` has `<layer>.codes` (uint8, packed), `<layer>.scale` (O, G) and, where the
grid is asymmetric, `<layer>.zero` (O, G), where its groups are no runs of inputs, `<layer>.order` (I); a layer whose
inputs are changed first has its steps in the JSON file and their tensors as `<layer>.input.<step>.<name>`. Every other
weight is as in a plain checkpoint: folded or rotated where the method does that, or with noise. What does not know the
format refuses it. config.json and the tokenizer are those of the checkpoint that was quantised.
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
from lightningrl.quantization.attended import attention_settings, round_attention
from lightningrl.quantization.inputs import Step, add_steps, described, steps_of
from lightningrl.quantization.open import QUANTIZATION
from lightningrl.quantization.uniform import QuantizedWeight, attach, pack, quantized_of, unpack
from lightningrl.quantization.values import BITS
from lightningrl.utils import files


def save_quantized(model: Transformer, folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes weights and `quantization.json`; returns what that says: `facts`, and of each layer its grid and errors.

    `bits_per_weight` is the mean over quantised weights, scales and zeros included as they are stored here,
    `effective_bits` as engines store them (`QuantizedWeight`).
    """
    tensors, layers, stored, effective, count = dict(model.weights()), dict[str, Any](), 0.0, 0.0, 0
    for name, layer in model.named_modules():
        quantized = quantized_of(layer)
        steps, found = described(layer)
        errors = getattr(layer, "errors", None)
        if quantized is None and not steps and not errors:
            continue
        entry: dict[str, Any] = {"shape": list(tensors[f"{name}.weight"].shape)}
        if quantized is not None:
            weight = tensors.pop(f"{name}.weight")
            if not torch.equal(weight, quantized.values(weight.dtype).to(weight.device)):
                raise CheckpointError(f"{name}: its weights are not the values of its codes; it was changed since")
            tensors |= {f"{name}.codes": pack(quantized.codes_OI, quantized.bits), f"{name}.scale": quantized.scale_OG}
            if not quantized.symmetric:
                tensors[f"{name}.zero"] = quantized.zero_OG
            if quantized.order_I is not None:
                tensors[f"{name}.order"] = quantized.order_I
            entry |= {"bits": quantized.bits, "symmetric": quantized.symmetric}
            stored += quantized.bits_per_weight * weight.numel()
            effective += quantized.effective_bits * weight.numel()
            count += weight.numel()
        if steps:
            entry["input"] = steps
            tensors |= {f"{name}.input.{each}": tensor for each, tensor in found.items()}
        if errors:
            entry["errors"] = errors
        layers[name] = entry
    attention = attention_settings(model)
    if not layers and attention is None:
        raise CheckpointError("the quantizer left every layer as it was: there is nothing quantised to save")
    bits = {"bits_per_weight": stored / count, "effective_bits": effective / count} if count else {}
    about = {} if attention is None else {"attention": attention}
    written = {**facts, **bits, **about, "layers": layers}
    write_weights(folder, tensors, max_shard_bytes=sys.maxsize)
    files.write_json(folder / QUANTIZATION, written)
    return written


def load(
    folder: Path, *, dtype: torch.dtype | None = torch.float32, device: torch.device | str = "cpu", **given: Any
) -> Transformer:
    """Returns the model of a quantised checkpoint with the values of its codes as weights, in evaluation mode.

    The arguments are those of `models.checkpoint.load_model`; where `dtype` is None, all weights have the one in which
    those are stored that were not quantised. Raises CheckpointError naming the file: missing, damaged, or at odds with
    another.
    """
    model, (layers, attention), tensors = empty_model(read_config(folder, **given)), _noted(folder), _tensors(folder)
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    try:
        changed = {name: _steps(name, entry, tensors) for name, entry in layers.items() if "input" in entry}
        with_codes = {name: entry for name, entry in layers.items() if "bits" in entry}
        quantized = {name: _quantized(name, linear[name], entry, tensors) for name, entry in with_codes.items()}
        kept = _dtype_of(folder, tensors) if dtype is None else dtype  # after codes, scales and zeros are taken out
        weights = {f"{name}.weight": each.values(kept) for name, each in quantized.items()}
        weights |= {name: tensor.to(kept) for name, tensor in tensors.items()}
        model.load_weights({name: tensor.to(device) for name, tensor in weights.items()}, assign=True)
        round_attention(model, attention)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: {WHOLE}, {QUANTIZATION} and config.json are not of one model ({error}). Restore the folder, or "
            "run the stage that makes it."
        ) from None
    for name, each in quantized.items():
        attach(linear[name], each)
    for name, steps in changed.items():
        add_steps(model, name, [step.to(device) for step in steps])
    for name, entry in layers.items():
        model.get_submodule(name).errors = entry.get("errors")  # type: ignore[assignment]
    return model.eval()


def _noted(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What the JSON file says of layers, and of attention."""
    found = files.read_json(folder / QUANTIZATION)
    layers = found.get("layers") if isinstance(found, dict) else None
    if not isinstance(layers, dict) or not (layers or found.get("attention")):
        raise CheckpointError(f"{folder / QUANTIZATION} is damaged: it names no layers. Restore it.")
    return layers, found.get("attention")


def _steps(name: str, entry: Mapping[str, Any], tensors: dict[str, Tensor]) -> list[Step]:
    """Takes the tensors of a layer's steps out of `tensors`."""
    prefix = f"{name}.input."
    own = {each.removeprefix(prefix): tensors.pop(each) for each in list(tensors) if each.startswith(prefix)}
    return steps_of(entry["input"], own)


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
    return QuantizedWeight(codes_OI, scale_OG, zero_OG, bits, symmetric, tensors.pop(f"{name}.order", None))
