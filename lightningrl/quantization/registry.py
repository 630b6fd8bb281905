"""Quantizers by name. A user's own is given as `module:attribute`; what it must have is in quantization/protocol.py."""

QUANTIZERS = {
    "rtn": "lightningrl.quantization.rtn:RoundToNearest",
}
