"""Algorithms by name: each is a class like `rl/algorithm.py`'s `Algorithm`. A user's own is `module:attribute`."""

ALGORITHMS = {
    "lightningrl": "lightningrl.rl.algorithms.lightningrl:LightningRL",
    "lightningrl_algorithm1": "lightningrl.rl.algorithms.lightningrl:Algorithm1",
    "lightningrl_plus": "lightningrl.rl.algorithms.lightningrl_plus:LightningRLPlus",
    "published_code": "lightningrl.rl.algorithms.published_code:PublishedCode",
    "grpo_traj": "lightningrl.rl.algorithms.grpo_traj:GRPOTrajectory",
    "dultra": "lightningrl.rl.algorithms.dultra:DUltra",
    "planner_pretraining": "lightningrl.training.supervised.planner_pretraining:PlannerPretraining",
    "tracerl": "lightningrl.rl.algorithms.tracerl:TraceRL",
    "dparallel": "lightningrl.training.distillation.dparallel:DParallel",
    "d2f": "lightningrl.training.distillation.d2f:D2F",
    "d3llm": "lightningrl.training.distillation.d3llm:D3LLM",
    "supervised": "lightningrl.training.supervised.algorithm:Supervised",
}
