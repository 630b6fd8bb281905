"""What families refuse and read alike in a config.json: windows of attention, and how RoPE is spelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightningrl.models.rope import LLAMA3_KEYS, Llama3Rope


def refuse_windows(raw: Mapping[str, Any]) -> None:
    """Raises ValueError naming the key where some layer would not attend to everything that the family attends to."""
    if raw.get("sliding_window") is not None and "use_sliding_window" not in raw:
        raise ValueError(f"sliding_window is {raw['sliding_window']!r}; this model class has None only")
    layers = raw.get("layer_types") or []
    if not isinstance(layers, list) or any(kind != "full_attention" for kind in layers):
        raise ValueError(f"layer_types is {layers!r}; this model class has 'full_attention' only")


def rope_theta(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Newer transformers write `rope_parameters` (rope_theta, rope_type) where the official files have `rope_theta`."""
    rope = raw.get("rope_parameters")
    if rope is None:
        return {}
    if not isinstance(rope, dict) or not set(rope) <= {"rope_theta", "rope_type"} or rope.get("rope_type") != "default":
        raise ValueError(f"rope_parameters is {rope!r}; this model class has rope_type 'default' only")
    return one_theta(raw, rope)


def one_theta(raw: Mapping[str, Any], rope: Mapping[str, Any]) -> dict[str, Any]:
    """The field `rope_theta`, which the file and its `rope_parameters` may both say. Raises ValueError if they
    differ."""
    theta = rope.get("rope_theta")
    if raw.get("rope_theta", theta) != theta:
        raise ValueError(f"says rope_theta {raw['rope_theta']} and, in rope_parameters, {theta}: which?")
    return {} if theta is None else {"rope_theta": theta}


def llama3_rope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields `rope_theta` and `rope_scaling` of a Llama: plain RoPE, or frequencies scaled as Llama 3.1 does.

    The official files say it in `rope_scaling`, newer transformers with the base in `rope_parameters`. Raises
    ValueError naming the key for every other kind of scaling.
    """
    key = "rope_scaling" if raw.get("rope_parameters") is None else "rope_parameters"
    rope = raw.get(key)
    if rope is None:
        return {}
    kind = rope.get("rope_type") if isinstance(rope, dict) else None
    if key == "rope_parameters" and kind == "default":
        return rope_theta(raw)
    keys = {"rope_type", *LLAMA3_KEYS}
    if kind != "llama3" or set(rope) - {"rope_theta"} != keys or (key == "rope_scaling" and "rope_theta" in rope):
        raise ValueError(f"{key} is {rope!r}; this model class has None, and rope_type 'llama3' with its four numbers")
    numbers = {name: rope[name] for name in LLAMA3_KEYS}
    if any(type(number) not in (int, float) or not 0 < number < float("inf") for number in numbers.values()):
        raise ValueError(f"{key} is {rope!r}, expected four numbers above 0")
    scaling = Llama3Rope(**numbers)
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise ValueError(f"{key} is {rope!r}, expected a high_freq_factor above the low_freq_factor")
    theta = one_theta(raw, rope) if key == "rope_parameters" else {}
    return theta | {"rope_scaling": scaling}
