"""The decoder's pieces by name. A user's own is given as `module:attribute`.

A selector is called with the swept parameter (`evaluation.thresholds`, a run's `threshold`) and
`decoding.selector_options`, a schedule with `decoding.schedule_options`, the others without arguments. What each must
have is in decoding/protocol.py, what a schedule may change in decoding/canvas.py.
"""

SELECTORS = {
    "threshold": "lightningrl.decoding.selectors.threshold:Threshold",
    "quota": "lightningrl.decoding.selectors.quota:Quota",
    "factor": "lightningrl.decoding.selectors.factor:Factor",
    "cumulative_entropy": "lightningrl.decoding.selectors.cumulative_entropy:CumulativeEntropy",
    "scripted": "lightningrl.decoding.selectors.scripted:Scripted",
}
RANKINGS = {
    "confidence": "lightningrl.decoding.rankings:Confidence",
    "neg_entropy": "lightningrl.decoding.rankings:NegEntropy",
    "position": "lightningrl.decoding.rankings:Position",
}
SCHEDULES = {
    "fused": "lightningrl.decoding.schedules.block:FusedCommit",
    "separate": "lightningrl.decoding.schedules.block:SeparateCommit",
    "recompute": "lightningrl.decoding.schedules.block:Recompute",
    "autoregressive": "lightningrl.decoding.schedules.autoregressive:Autoregressive",
    "full_sequence": "lightningrl.decoding.schedules.full_sequence:FullSequence",
}
STOPS = {
    "finish_block": "lightningrl.decoding.stops:FinishBlock",
    "inside_block": "lightningrl.decoding.stops:InsideBlock",
}
