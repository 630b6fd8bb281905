"""Algorithms by name: each is a function TrainSetup -> Trainer. A user's own is given as `module:attribute`."""

ALGORITHMS = {
    "lightningrl": "lightningrl.rl.algorithms.lightningrl:trainer",
    "lightningrl_algorithm1": "lightningrl.rl.algorithms.lightningrl:algorithm1",
    "lightningrl_plus": "lightningrl.rl.algorithms.lightningrl_plus:trainer",
    "published_code": "lightningrl.rl.algorithms.published_code:trainer",
    "grpo_traj": "lightningrl.rl.algorithms.grpo_traj:trainer",
    "tracerl": "lightningrl.rl.algorithms.tracerl:trainer",
    "supervised": "lightningrl.training.supervised.control:trainer",
}
