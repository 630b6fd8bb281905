"""The stages of an experiment, made one after the other, upstream first.

What a stage finds in its context's `config`, beside `members`, is what the method of its kind puts there
(`planner_policies`, `planner_systems`, `planner_report`); everything else that is known of a kind is in `kinds`. Kinds
from outside plan their own stages, after all others.

What judges a benchmark's answers runs after that benchmark's selfcheck, which is not part of its key.
"""

from __future__ import annotations

from lightningrl.pipeline.planner_policies import PolicyPlanner
from lightningrl.pipeline.planner_report import ReportPlanner
from lightningrl.pipeline.planner_systems import SystemPlanner
from lightningrl.pipeline.requested import ALL
from lightningrl.pipeline.stage import Stage


class Planner(PolicyPlanner, SystemPlanner, ReportPlanner):
    """Plans an experiment's stages; each method plans one, or those of one kind, and notes them in `planned`."""

    def stages(self) -> list[Stage]:
        """Plans all stages of the experiment, each after those that it reads."""
        experiment, requested = self.experiment, self.requested
        self.data = {name: self.plan_data(name) for name in self.benchmarks}
        self.checks = {name: self.selfcheck(name) for name in self.benchmarks}
        self.policies["base"] = self.pretrain() if experiment.base is None else self.checkpoint("base", experiment.base)
        for base in experiment.bases:
            self.policies[base.name] = self.pretrain(base)
        self.policies |= {each.name: self.checkpoint(each.name, each) for each in experiment.checkpoints}
        for run in experiment.runs_in_order():
            self.policies[run.name] = self.train(run)
        for system in sorted(requested.systems.values(), key=lambda each: each.name):  # the first names what is shared
            if system.endpoint is not None:
                continue
            policy = self.policies[system.policy]
            self.weights[system.name] = policy if system.quantizer is None else self.quantize(system, policy)
        for plan, pairs in (
            (self.evaluate, requested.evaluated()), (self.speed, requested.measured()), (self.probe, requested.probed())
        ):  # fmt: skip
            for system, benchmark in pairs:
                plan(system, benchmark)
        collects = {name: self.collect(name) for name in requested.collected()}
        for kind in ("table", "figure"):
            for name in getattr(experiment.report, f"{kind}s"):
                self.draw(kind, name, collects.get(name, collects[ALL]))
        for name in experiment.report.replays:
            self.replay(requested.systems[name])
        self.release(tuple(self.planned))
        return self.planned
