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
    "entropy": "lightningrl.decoding.selectors.entropy:Entropy",
    "skip_threshold": "lightningrl.decoding.selectors.skip_threshold:SkipThreshold",
    "timestep": "lightningrl.decoding.selectors.timestep:Timestep",
    "random_timestep": "lightningrl.decoding.selectors.random_timestep:RandomTimestep",
    "quota_threshold": "lightningrl.decoding.selectors.quota_threshold:QuotaThreshold",
    "bernoulli": "lightningrl.decoding.selectors.bernoulli:Bernoulli",
    "top_sum": "lightningrl.decoding.selectors.top_sum:TopSum",
    "scripted": "lightningrl.decoding.selectors.scripted:Scripted",
}
RANKINGS = {
    "confidence": "lightningrl.decoding.rankings:Confidence",
    "margin": "lightningrl.decoding.rankings:Margin",
    "neg_entropy": "lightningrl.decoding.rankings:NegEntropy",
    "planner": "lightningrl.decoding.rankings:Planned",
    "position": "lightningrl.decoding.rankings:Position",
    "random": "lightningrl.decoding.rankings:Random",
}
SCHEDULES = {
    "fused": "lightningrl.decoding.schedules.block:FusedCommit",
    "separate": "lightningrl.decoding.schedules.block:SeparateCommit",
    "recompute": "lightningrl.decoding.schedules.block:Recompute",
    "autoregressive": "lightningrl.decoding.schedules.autoregressive:Autoregressive",
    "full_sequence": "lightningrl.decoding.schedules.full_sequence:FullSequence",
    "whole_sequence": "lightningrl.decoding.schedules.full_sequence:WholeSequence",
    "prefix_cache": "lightningrl.decoding.schedules.full_sequence:PrefixCache",
    "dual_cache": "lightningrl.decoding.schedules.full_sequence:DualCache",
    "block_buffer": "lightningrl.decoding.schedules.multi_block:BlockBuffer",
    "block_pipeline": "lightningrl.decoding.schedules.multi_block:BlockPipeline",
    "multi_block": "lightningrl.decoding.schedules.multi_block:MultiBlock",
    "sub_block": "lightningrl.decoding.schedules.sub_block:SubBlocks",
}
STOPS = {
    "finish_block": "lightningrl.decoding.stops:FinishBlock",
    "finish_block_behind_commits": "lightningrl.decoding.stops:FinishBlockBehindCommits",
    "inside_block": "lightningrl.decoding.stops:InsideBlock",
    "whole_canvas": "lightningrl.decoding.stops:WholeCanvas",
}
