"""Quantizers by name. A user's own is given as `module:attribute`; what it must have is in quantization/protocol.py.

What else is said of them here, no torch has to be imported for.
"""

from collections.abc import Mapping
from typing import Any

QUANTIZERS = {
    "rtn": "lightningrl.quantization.rtn:RoundToNearest",
    "gptq": "lightningrl.quantization.gptq:GPTQ",
    "awq": "lightningrl.quantization.awq:AWQ",
    "smoothquant": "lightningrl.quantization.smoothquant:SmoothQuant",
    "quarot": "lightningrl.quantization.quarot:QuaRot",
    "duquant": "lightningrl.quantization.duquant:DuQuant",
    "noise": "lightningrl.quantization.noise:RoundingNoise",
}
PASSES = {"rtn": 0, "noise": 0, "gptq": 5, "awq": 35, "smoothquant": 3, "quarot": 5, "duquant": 3}
"""Forwards of each layer over the calibration: a pass for each thing that is gathered, one that measures the errors. Of
AWQ, 7 whole ones, and 21 by each of its searches, most of which run only a part of the layer."""
SECOND_MOMENTS = frozenset({"gptq", "quarot"})
"""Those that sum outer products of inputs, and round column by column."""
CALIBRATED = frozenset(QUANTIZERS) - {"rtn", "noise"}
"""Those that look at data where a config does not say which."""
UNROUNDED = 16
"""The number of bits that means "not rounded"."""
BITS = {
    "rtn": (8, 16), "noise": (8, 16), "gptq": (4, 16), "awq": (4, 16), "smoothquant": (8, 8), "quarot": (8, 8),
    "duquant": (8, 8),
}  # fmt: skip
"""Bits of weights and of inputs where a config does not name any: the defaults of their options."""
COMPAT_ROUNDS_ATTENDED = frozenset({"smoothquant", "duquant"})
"""Those whose published variants (`compat`) round keys and values as they round inputs."""


def bits_of(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `bits`, `activation_bits` and `kv_bits` of a quantizer with these options. Where they do not say, a
    quantizer from outside is taken to round weights to 8 bits, and nothing else.

    >>> bits_of("quarot", {"bits": 4})
    {'bits': 4, 'activation_bits': 8, 'kv_bits': 16}
    """
    bits, inputs = BITS.get(name, (8, UNROUNDED))
    found = {"bits": bits, "activation_bits": inputs, "kv_bits": UNROUNDED}
    found |= {key: options[key] for key in found if key in options}
    if options.get("compat") and name in COMPAT_ROUNDS_ATTENDED:
        found["kv_bits"] = found["activation_bits"]
    return found
