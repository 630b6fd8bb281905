"""The decoder's pieces by name. A user's own is given as `module:attribute`.

A selector is called with the swept parameter (`evaluation.thresholds`, a run's `threshold`) and
`decoding.selector_options`; the others are called without arguments. What each must have: decoding/protocol.py.
"""

SELECTORS = {
    "threshold": "lightningrl.decoding.selectors.threshold:Threshold",
    "quota": "lightningrl.decoding.selectors.quota:Quota",
    "factor": "lightningrl.decoding.selectors.factor:Factor",
    "cumulative_entropy": "lightningrl.decoding.selectors.cumulative_entropy:CumulativeEntropy",
    "scripted": "lightningrl.decoding.selectors.scripted:Scripted",
}
RANKINGS = {
    "confidence": "lightningrl.decoding.rankings.confidence:Confidence",
    "neg_entropy": "lightningrl.decoding.rankings.neg_entropy:NegEntropy",
    "position": "lightningrl.decoding.rankings.position:Position",
}
SCOPES = {
    "block": "lightningrl.decoding.scopes.block:Block",
}
CACHES = {
    "fused": "lightningrl.decoding.caches.fused:FusedCommit",
    "separate": "lightningrl.decoding.caches.separate:SeparateCommit",
    "recompute": "lightningrl.decoding.caches.recompute:Recompute",
}
STOPS = {
    "finish_block": "lightningrl.decoding.stops.finish_block:FinishBlock",
    "inside_block": "lightningrl.decoding.stops.inside_block:InsideBlock",
}
