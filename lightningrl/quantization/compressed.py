"""The `compressed-tensors` format, which vLLM and SGLang load: weights of 4 or 8 bits with their scales.

`write` makes such a folder of a quantised checkpoint of ours, `load` reads one of ours or of others. For a quantised
layer a file has `<layer>.weight_packed` (int32), `<layer>.weight_scale` (O, G), `<layer>.weight_shape` and, where the
grid is asymmetric, `<layer>.weight_zero_point` (format `pack-quantized`), or `<layer>.weight` as int8
(`int-quantized`); config.json says which in `quantization_config`. Codes and scales are kept, not found anew, so that a
round trip gives the same weights bit for bit. Packing is the library's (extra `ptq`).

What is read are weights alone: integers in groups, or one scale a row, nothing in activations or caches. Names are
those of the checkpoint's family.
"""

from __future__ import annotations

import fnmatch
import importlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.models.checkpoint import INDEX, WHOLE, empty_model, write_weights
from lightningrl.models.config_file import family_named, read_config
from lightningrl.models.transformer import Transformer
from lightningrl.quantization.attended import attention_settings
from lightningrl.quantization.inputs import InputLinear
from lightningrl.quantization.open import COMPRESSED, CONFIG_KEY
from lightningrl.quantization.stored import load as load_stored
from lightningrl.quantization.uniform import QuantizedWeight, attach, quantized_of
from lightningrl.quantization.values import BITS
from lightningrl.tokenization import TOKENIZER_FILES
from lightningrl.utils import files

WRITTEN_BITS = (4, 8)
"""What both engines load."""
FORMATS = ("pack-quantized", "int-quantized")


def write(quantised: Path, folder: Path) -> dict[str, Any]:
    """Writes a quantised checkpoint's folder in the format; returns the `quantization_config`.

    Raises ConfigError for what the format or the engines do not have: other bits, inputs or keys on grids, groups by
    the order of activations; CheckpointError for a folder that is none.
    """
    model, source = load_stored(quantised, dtype=None), json.loads((quantised / "config.json").read_text())
    layers = {name: each for name, layer in model.named_modules() if (each := quantized_of(layer)) is not None}
    _check_writable(model, layers)
    family, tensors = family_named(model.config.family), dict(model.weights())
    for name, each in layers.items():
        del tensors[f"{name}.weight"]
        tensors |= {f"{name}.{part}": tensor for part, tensor in _parts(each).items()}
    stored = {_stored_name(family, name): tensor.contiguous() for name, tensor in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, stored, max_shard_bytes=sys.maxsize)
    first = next(iter(layers.values()))
    group = first.codes_OI.shape[1] // first.scale_OG.shape[1]
    by_row = all(each.scale_OG.shape[1] == 1 for each in layers.values())
    kept = [_stored_name(family, f"{name}.weight").removesuffix(".weight") for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear) and name not in layers]  # fmt: skip
    about = {
        "quant_method": COMPRESSED, "format": "pack-quantized", "quantization_status": "compressed",
        "global_compression_ratio": None, "kv_cache_scheme": None, "ignore": kept,
        "config_groups": {"group_0": {
            "targets": ["Linear"], "input_activations": None, "output_activations": None,
            "weights": {
                "num_bits": first.bits, "type": "int", "symmetric": first.symmetric, "dynamic": False,
                "strategy": "channel" if by_row else "group", "group_size": None if by_row else group,
            },
        }},
    }  # fmt: skip
    files.write_json(folder / "config.json", source | {CONFIG_KEY: about})
    for name in TOKENIZER_FILES:
        if (quantised / name).is_file():
            files.write_bytes(folder / name, (quantised / name).read_bytes())
    return about


def _check_writable(model: Transformer, layers: Mapping[str, QuantizedWeight]) -> None:
    changed = [name for name, layer in model.named_modules() if isinstance(layer, InputLinear)]
    if changed or attention_settings(model) is not None:
        raise ConfigError(
            f"{changed[0] if changed else 'attention'}: its inputs are changed when they are computed, which engines "
            "do not do: export weights quantised alone, by rtn, gptq or awq"
        )
    if not layers:
        raise ConfigError("no layer has codes: quantise it with 4 or 8 bits")
    kinds = {(each.bits, each.symmetric, each.codes_OI.shape[1] // each.scale_OG.shape[1]) for each in layers.values()}
    by_row = all(each.scale_OG.shape[1] == 1 for each in layers.values())
    if len({(bits, symmetric, by_row or group) for bits, symmetric, group in kinds}) > 1:
        raise ConfigError("its layers have different grids, and one was expected for all")
    if (bits := next(iter(layers.values())).bits) not in WRITTEN_BITS:
        raise ConfigError(f"it has {bits} bits, and engines load {' and '.join(map(str, WRITTEN_BITS))}")
    if any(each.order_I is not None for each in layers.values()):
        raise ConfigError(
            "its groups follow the order of activations: quantise it with static_groups: true, or without "
            "activation_order"
        )


def _parts(quantized: QuantizedWeight) -> dict[str, Tensor]:
    """What the format has of a layer."""
    pack_to_int32, _ = _packing()
    middle = 2 ** (quantized.bits - 1)
    codes_OI = (quantized.codes_OI.to(torch.int16) - middle).to(torch.int8)
    found = {
        "weight_packed": pack_to_int32(codes_OI, quantized.bits),
        "weight_scale": quantized.scale_OG,
        "weight_shape": torch.tensor(codes_OI.shape),
    }
    if not quantized.symmetric:
        zero_OG = (quantized.zero_OG.to(torch.int16) - middle).to(torch.int8)
        found["weight_zero_point"] = pack_to_int32(zero_OG, quantized.bits, packed_dim=0)
    return found


def load(
    folder: Path, *, dtype: torch.dtype | None = torch.float32, device: torch.device | str = "cpu", **given: Any
) -> Transformer:
    """Returns the model of a folder in the format, with the values of its codes as weights, in evaluation mode.

    The arguments are those of `models.checkpoint.load_model`; where `dtype` is None, weights have the one in which
    those are stored that were not quantised. Raises CheckpointError naming what is not read, or does not fit.
    """
    about = _checked(folder, json.loads((folder / "config.json").read_text())[CONFIG_KEY])
    model, tensors = empty_model(read_config(folder, ignoring=(CONFIG_KEY,), **given)), _tensors(folder)
    family = family_named(model.config.family)
    names = {family.stored_name(name): name for name in model.weights()}
    quantized, weights = dict[str, QuantizedWeight](), dict[str, Tensor]()
    for stored, name in names.items():
        layer, scheme = stored.removesuffix(".weight"), None
        if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear) and name.endswith(".weight"):
            scheme = _scheme(folder, about, layer)
        if scheme is None:
            if stored not in tensors:
                raise CheckpointError(f"{folder}: {stored} is missing. Restore the checkpoint.")
            weights[name] = tensors.pop(stored)
            continue
        outputs, inputs = model.get_parameter(name).shape
        try:
            quantized[name.removesuffix(".weight")] = _quantized(
                layer, tensors, scheme, about["format"], (outputs, inputs)
            )
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{folder}: {layer} and its {CONFIG_KEY} do not fit ({error})") from None
    if tensors:
        raise CheckpointError(f"{folder}: unexpected weight {min(tensors)}; config.json is of another model")
    kept = dtype or next(iter(weights.values())).dtype
    weights |= {f"{name}.weight": each.values(kept) for name, each in quantized.items()}
    try:
        model.load_weights({name: tensor.to(kept).to(device) for name, tensor in weights.items()}, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: its weights are not those of its config.json ({error})") from None
    for name, each in quantized.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        attach(layer, each)
    return model.eval()


def _checked(folder: Path, about: Any) -> Mapping[str, Any]:
    """Returns a `quantization_config` that is built as the format says. Raises CheckpointError naming what is not."""
    found, groups = f"{folder}: {CONFIG_KEY} is damaged:", about.get("config_groups") or {}
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        raise CheckpointError(f"{found} config_groups is {groups!r}, expected groups by name")
    lists = {"ignore": about.get("ignore") or []}
    lists |= {f"config_groups.{name}.targets": group.get("targets") for name, group in groups.items()}
    for where, patterns in lists.items():
        if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
            raise CheckpointError(f"{found} {where} is {patterns!r}, expected a list of names")
        for each in patterns:
            try:
                _matches(each, "")
            except re.error as error:
                raise CheckpointError(f"{found} {where} has {each!r}, no regular expression ({error})") from None
    for name, group in groups.items():
        weights = group.get("weights") or {}
        if not isinstance(weights, dict) or not isinstance(weights.get("num_bits", 0), int):
            raise CheckpointError(f"{found} config_groups.{name}.weights is {weights!r}, expected keys like num_bits")
    return about


def _scheme(folder: Path, about: Mapping[str, Any], layer: str) -> Mapping[str, Any] | None:
    """Returns how a layer's weights are quantised; None where they are not. Raises CheckpointError for what is not
    read."""
    if any(_matches(pattern, layer) for pattern in about.get("ignore") or []):
        return None
    for group in (about.get("config_groups") or {}).values():
        if not any(target == "Linear" or _matches(target, layer) for target in group["targets"]):
            continue
        weights, where = group.get("weights") or {}, f"{folder}: {CONFIG_KEY}"
        if group.get("input_activations") or about.get("kv_cache_scheme"):
            raise CheckpointError(f"{where} quantises activations or caches, and weights alone are read")
        if about.get("format") not in FORMATS or weights.get("type") != "int" or weights.get("num_bits") not in BITS:
            found = f"{about.get('format')} of {weights.get('num_bits')} bits, type {weights.get('type')}"
            raise CheckpointError(f"{where} is {found}, expected {' or '.join(FORMATS)}, integers of 2 to 8 bits")
        if weights.get("strategy") not in ("group", "channel") or weights.get("actorder") in ("group", True):
            raise CheckpointError(f"{where} has strategy {weights.get('strategy')}, actorder {weights.get('actorder')}")
        return weights
    return None


def _matches(pattern: str, layer: str) -> bool:
    """Whether a pattern of the format, `re:` before an expression, names a layer or its last part."""
    if pattern.startswith("re:"):
        return re.match(pattern[3:], layer) is not None
    return fnmatch.fnmatchcase(layer, pattern) or layer == pattern


def _quantized(
    layer: str, tensors: dict[str, Tensor], scheme: Mapping[str, Any], form: str, shape: tuple[int, int]
) -> QuantizedWeight:
    """Takes a layer's codes, scales and zeros out of `tensors`."""
    _, unpack_from_int32 = _packing()
    bits, symmetric = scheme["num_bits"], scheme.get("symmetric", True)
    scale_OG, middle = tensors.pop(f"{layer}.weight_scale").float().view(shape[0], -1), 2 ** (bits - 1)
    if shape[1] % scale_OG.shape[1]:
        raise ValueError(f"{scale_OG.shape[1]} scales a row of {shape[1]} inputs")
    zero_OG = torch.zeros_like(scale_OG, dtype=torch.int8)
    if form == "pack-quantized":
        if tuple(tensors.pop(f"{layer}.weight_shape").tolist()) != shape:
            raise ValueError(f"its shape is not {shape}")
        codes_OI = unpack_from_int32(tensors.pop(f"{layer}.weight_packed"), bits, torch.Size(shape))
        if not symmetric:
            packed = tensors.pop(f"{layer}.weight_zero_point")
            zero_OG = unpack_from_int32(packed, bits, torch.Size(scale_OG.shape), packed_dim=0)
    else:
        codes_OI = tensors.pop(f"{layer}.weight")
        if codes_OI.dtype != torch.int8 or tuple(codes_OI.shape) != shape:
            raise ValueError(f"its codes are {codes_OI.dtype} {tuple(codes_OI.shape)}, expected int8 {shape}")
        if not symmetric:
            zero_OG = tensors.pop(f"{layer}.weight_zero_point").view_as(scale_OG)
    codes_OI, zero_OG = (each.to(torch.int16) + middle for each in (codes_OI, zero_OG))
    return QuantizedWeight(codes_OI.to(torch.uint8), scale_OG, zero_OG.to(torch.uint8), bits, symmetric)


def _tensors(folder: Path) -> dict[str, Tensor]:
    index = folder / INDEX
    try:
        names = {WHOLE} if not index.is_file() else {str(each) for each in _read_index(index).values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is damaged: {error!r}. Restore it from where the checkpoint came.") from None
    found: dict[str, Tensor] = {}
    for name in sorted(names):
        try:
            found |= load_file(folder / name)
        except Exception as error:
            raise CheckpointError(f"{folder / name} cannot be read ({error}). Restore it.") from None
    return found


def _read_index(index: Path) -> Mapping[str, Any]:
    return json.loads(index.read_text())["weight_map"]


def _stored_name(family: Any, name: str) -> str:
    """The family's name of a layer's part: that of its weight, with another ending."""
    module, _, part = name.rpartition(".")
    return family.stored_name(name) if part in ("weight", "bias") else _of_layer(family, module) + f".{part}"


def _of_layer(family: Any, module: str) -> str:
    return family.stored_name(f"{module}.weight").removesuffix(".weight")


def _packing() -> tuple[Any, Any]:
    """The library's two functions. Raises ConfigError where it is not installed."""
    try:
        helpers = importlib.import_module("compressed_tensors.compressors.pack_quantized.helpers")
    except ImportError:
        raise ConfigError(
            "the format compressed-tensors needs the package of that name: pip install 'lightningrl[ptq]'"
        ) from None
    return helpers.pack_to_int32, helpers.unpack_from_int32
