"""Selectors by name. A user's own is given as `module:attribute`; it is called with tau."""

SELECTORS = {
    "threshold": "lightningrl.decoding.selectors.threshold:Threshold",
}
