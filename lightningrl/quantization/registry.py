"""Quantizers by name. A user's own is given as `module:attribute`; what it must have is in quantization/protocol.py."""

QUANTIZERS = {
    "rtn": "lightningrl.quantization.rtn:RoundToNearest",
    "gptq": "lightningrl.quantization.gptq:GPTQ",
    "awq": "lightningrl.quantization.awq:AWQ",
    "smoothquant": "lightningrl.quantization.smoothquant:SmoothQuant",
    "quarot": "lightningrl.quantization.quarot:QuaRot",
    "duquant": "lightningrl.quantization.duquant:DuQuant",
}
CALIBRATED = frozenset(QUANTIZERS) - {"rtn"}
"""Those that look at data where a config does not say which."""
