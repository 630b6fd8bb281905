"""What a quantised system is compared with: its weights as they were, and the same setting of the policy behind them.

A setting is a quantizer with its options and its calibration. Systems are compared that decode alike: by the same
pieces, with answers of the same length. A setting is called as its entry is, without the policy's name: `w4` of
`lightningrl-w4`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lightningrl.config.systems import System
from lightningrl.config.tasks import Benchmark
from lightningrl.utils.registry import resolve

FLOAT = "float"
"""The setting of weights as they are."""
BITS_OF, UNROUNDED = (f"lightningrl.quantization.registry:{name}" for name in ("bits_of", "UNROUNDED"))
"""Looked up and not imported: the settings know no quantizer."""


def counterparts(systems: Iterable[System], benchmarks: Sequence[Benchmark]) -> dict[str, dict[str, Any]]:
    """Returns, of each system that is quantised or is what such a one is compared with, by its name:

    `weights`, its policy; `setting`, its name; `exact`, the system with the same weights and decoder and no quantizer,
    empty where there is none; `counterpart`, the system with the same quantizer and decoder of the policy that its own
    is compared with, empty where there is none or it is that policy; `quantizer`, `bits`, `activation_bits`, `kv_bits`
    and `calibration`. Of several such systems, it is the one that shares most thresholds, the first of equals.
    """
    known = [system for system in systems if system.endpoint is None]
    by_name, found = {system.name: system for system in known}, dict[str, dict[str, Any]]()

    def like(system: System, policy: str, setting: object) -> str:
        """Returns the system of these weights in a setting that is decoded as this one; empty: there is none."""
        decoded = _decoded(system, benchmarks)
        alike = [
            each for each in known
            if each.policy == policy and _setting(each) == setting and _decoded(each, benchmarks) == decoded
        ]  # fmt: skip
        shared = [len({*each.thresholds} & {*system.thresholds}) for each in alike]
        return alike[shared.index(max(shared))].name if alike else ""

    exact = {each.name: like(each, each.policy, None) for each in known if each.quantizer is not None}
    for system in known:
        if system.name not in exact and system.name not in exact.values():
            continue
        base = by_name[system.base].policy if system.base in by_name else system.policy
        setting = FLOAT if system.quantizer is None else system.setting
        found[system.name] = {
            "weights": system.policy, "setting": setting, "exact": exact.get(system.name, system.name),
            "counterpart": "" if base == system.policy else like(system, base, _setting(system)), **_about(system),
        }  # fmt: skip
    return found


def _decoded(system: System, benchmarks: Sequence[Benchmark]) -> object:
    """Returns how a system decodes, but for its thresholds: the pieces, and its longest answer on each benchmark."""
    return system.decoding.science(), [system.longest(each) for each in benchmarks]


def _setting(system: System) -> object:
    """Returns what was done to a system's weights; None: nothing. What calibration looks at depends on the threshold
    where it looks at states that the decoder visits."""
    if (quantizer := system.quantizer) is None:
        return None
    visits = quantizer.calibration is not None and quantizer.calibration.source == "decode"
    return quantizer, system.primary_threshold if visits else None


def _about(system: System) -> dict[str, Any]:
    if (quantizer := system.quantizer) is None:
        unrounded = resolve(UNROUNDED)
        return {"quantizer": "", "calibration": ""} | dict.fromkeys(("bits", "activation_bits", "kv_bits"), unrounded)
    source = quantizer.calibration.source if quantizer.calibration else ""
    return {"quantizer": quantizer.name, "calibration": source} | resolve(BITS_OF)(quantizer.name, quantizer.options)
