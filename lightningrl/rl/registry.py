"""Algorithms by name: each is a function TrainSetup -> Trainer. A user's own is given as `module:attribute`."""

ALGORITHMS = {
    "lightningrl": "lightningrl.rl.algorithms.lightningrl:trainer",
    "grpo_traj": "lightningrl.rl.algorithms.grpo_traj:trainer",
    "supervised": "lightningrl.pretraining.control:trainer",
}
