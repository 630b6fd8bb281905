"""What a quantised system is compared with: its weights as they were, and the same setting of the policy behind them.

A setting is a quantizer with its options and its calibration. A system is called after its policy and its setting, as
`lightningrl-w4`, so that the setting's name is what is left without the policy's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lightningrl.config.systems import System

FLOAT = "float"
"""The setting of weights as they are."""
UNROUNDED = 16
"""The number of bits that means "not rounded"."""
USUAL_BITS = {"gptq": 4, "awq": 4}
"""Bits of the weights where a config does not name any; other quantizers take 8."""
WITH_INPUTS = ("smoothquant", "quarot", "duquant")
"""Quantizers that round inputs to 8 bits, where a config does not say otherwise."""


def counterparts(systems: Iterable[System]) -> dict[str, dict[str, Any]]:
    """Returns, of each system that is quantised or is what such a one is compared with, by its name:

    `weights`, its policy; `setting`, its name; `exact`, the system with the same weights and decoder and no quantizer,
    empty where there is none; `counterpart`, the system with the same quantizer and decoder of the policy that its own
    is compared with, empty where there is none or it is that policy; `quantizer`, `bits`, `activation_bits`, `kv_bits`
    and `calibration`.
    """
    known = [system for system in systems if system.endpoint is None]
    by_name, found = {system.name: system for system in known}, dict[str, dict[str, Any]]()
    exact = {each.name: _like(each, each.policy, None, known) for each in known if each.quantizer is not None}
    for system in known:
        if system.name not in exact and system.name not in exact.values():
            continue
        base = by_name[system.base].policy if system.base in by_name else system.policy
        other = "" if base == system.policy else _like(system, base, system.quantizer, known)
        setting = FLOAT if system.quantizer is None else system.name.removeprefix(f"{system.policy}-")
        found[system.name] = {
            "weights": system.policy, "setting": setting, "exact": exact.get(system.name, system.name),
            "counterpart": other, **_about(system),
        }  # fmt: skip
    return found


def _like(system: System, policy: str, quantizer: Any, known: Sequence[System]) -> str:
    """Returns the first system of these weights and quantizer with this system's decoder; empty: there is none."""
    alike = (
        each.name for each in known
        if (each.policy, each.quantizer, each.decoding) == (policy, quantizer, system.decoding)
    )  # fmt: skip
    return next(alike, "")


def _about(system: System) -> dict[str, Any]:
    if (quantizer := system.quantizer) is None:
        return {"quantizer": "", "calibration": ""} | dict.fromkeys(("bits", "activation_bits", "kv_bits"), UNROUNDED)
    usual = {
        "bits": USUAL_BITS.get(quantizer.name, 8), "activation_bits": 8 if quantizer.name in WITH_INPUTS else UNROUNDED,
        "kv_bits": UNROUNDED,
    }  # fmt: skip
    return {
        "quantizer": quantizer.name, "calibration": quantizer.calibration.source if quantizer.calibration else "",
        **{key: quantizer.options.get(key, value) for key, value in usual.items()},
    }  # fmt: skip
