"""Quantizers by name. A user's own is given as `module:attribute`; what it must have is in quantization/protocol.py."""

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
