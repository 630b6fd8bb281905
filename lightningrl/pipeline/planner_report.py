"""The stages that show what was measured: collections, tables, figures, replays, the release."""

from __future__ import annotations

from typing import Any

from lightningrl.config.counterparts import counterparts
from lightningrl.config.systems import System
from lightningrl.pipeline.kinds import measured_in
from lightningrl.pipeline.planner_base import PlannerBase, slug
from lightningrl.pipeline.requested import ALL, tables_behind
from lightningrl.pipeline.stage import Stage
from lightningrl.pipeline.stages.release import copy_of
from lightningrl.report.registry import NEEDS, concerns


class ReportPlanner(PlannerBase):
    """Plans what is shown."""

    def collect(self, name: str) -> Stage:
        """Plans the stage of what one of `NEEDS` asks for, or of all that was made (`ALL`) but speeds."""
        experiment, need = self.experiment, NEEDS.get(name)
        keys = ("name", "role", "algorithm", "published", "base", "primary_threshold", "series", "seed")
        systems = list(self.requested.systems.values())
        kinds = {"evaluate", "train", "probe"}
        if need is not None:
            systems = [system for system in systems if concerns(need["rows"], system.published)]
            kinds = {{"evaluations": "evaluate", "training": "train", "speed": "speed"}[part] for part in need["of"]}
        names, inputs = {system.name for system in systems}, dict[str, Stage]()
        for stage in (stage for stage in self.planned if stage.kind in kinds):
            is_run = stage.kind == "train"
            system = stage.name if is_run else stage.config["policy"]
            benchmark = stage.config["run"].benchmark if is_run else stage.config["benchmark"]
            if need is None or (system in names and (stage.kind == "speed" or concerns(need["benchmarks"], benchmark))):
                inputs[stage.label if is_run else f"{stage.kind}/{system}/{benchmark}"] = stage
        compared = counterparts(systems, experiment.benchmarks) if need is None else {}
        inputs |= {f"quantize/{name}": stage for name, stage in self.weights.items()
                   if name in compared and stage.kind == "quantize"}  # fmt: skip
        config = {
            "experiment": experiment.experiment,
            "counterparts": compared,
            "bootstrap": experiment.report.bootstrap,
            "primary_threshold": experiment.evaluation.primary_threshold,
            "seed": experiment.seed,
            "policies": [
                {key: getattr(s, key) for key in keys} | {"benchmark": s.trained_on} | self._earlier(s) for s in systems
            ],
            "benchmarks": list(self.benchmarks),
        }
        return self.note("collect", slug(name), config, {}, inputs)

    def _earlier(self, system: System) -> dict[str, list[str]]:
        """The runs through which the base of a run came to be, where it begins from one."""
        runs = [run for run in self.experiment.runs if run.name == system.name]
        found = [each.name for run in runs for each in self.experiment.earlier_runs(run)]
        return {"earlier": found} if found else {}

    def draw(self, kind: str, name: str, collect: Stage) -> Stage:
        """Plans a `table` or a `figure`."""
        members = {kind: self.member(kind, name, f"report.{kind}s")}
        tables = tables_behind(kind, name, members[kind])
        config: dict[str, Any] = {"name": slug(name), "collected": tables}
        if kind == "table":
            config["measured"] = measured_in(tables)
        else:
            policies = [policy["name"] for policy in collect.config["policies"]]
            config |= {"plot": self.experiment.report.plot, "policies": policies}
        return self.note(kind, slug(name), config, members, {"collect": collect})

    def replay(self, system: System) -> Stage:
        assert system.trained_on is not None
        benchmark = self.experiment.benchmark(system.trained_on)
        config: dict[str, Any] = {
            "problems": self.experiment.report.replayed_problems,
            "precision": self.precision,
            "prompt": benchmark.prompt,
        }
        members, inputs = {"benchmark": self.benchmarks[benchmark.name]}, {"data": self.data[benchmark.name]}
        for role, each in (("base", self.requested.systems[system.base]), ("policy", system)):
            config[role] = {
                "name": each.name, "threshold": each.primary_threshold, "decoding": each.decoding,
                "max_new_tokens": each.longest(benchmark),
            }  # fmt: skip
            members |= {f"{role}/{piece}": reference for piece, reference in self.members_of(each).items()}
            inputs[role] = self.weights[each.name]
        return self.note("replay", system.name, config, members, inputs, size=inputs["policy"].size)

    def release(self, own: tuple[Stage, ...]) -> Stage:
        """Plans the stages from outside, and the one that copies what is shown. It reads all of those from outside, so
        that they belong to the experiment as everything else does."""
        for kind in self.kinds.values():
            for each in () if kind.plan is None else kind.plan(self.experiment, own):
                self.note(kind.name, each.name, each.config, each.members, each.inputs)
        drawn = [stage for stage in self.planned if stage.spec.released]
        inputs = {stage.label: stage for stage in (*drawn, *self.planned[len(own) :])}
        inputs["collect"] = next(stage for stage in own if stage.label == f"collect/{ALL}")
        copies = tuple(copy_of(stage.kind, stage.name, file) for stage in drawn for file in stage.files)
        kinds = [kind.name for kind in self.kinds.values() if kind.released]
        config = {f"{kind}s": [stage.name for stage in drawn if stage.kind == kind] for kind in kinds}
        return self.note("release", "release", config, {}, inputs, more_files=copies)
