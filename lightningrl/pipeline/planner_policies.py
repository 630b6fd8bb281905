"""The stages that make policies: data, tokenizer, checkpoints and bases, trainings, quantised weights."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from lightningrl.config.base import Base, Checkpoint
from lightningrl.config.distillation import DistillData
from lightningrl.config.model import PretrainedBase
from lightningrl.config.systems import System
from lightningrl.config.train import Learners, Run
from lightningrl.errors import ConfigError
from lightningrl.pipeline.planner_base import PlannerBase, slug
from lightningrl.pipeline.stage import Stage

ADAPTED = "lightningrl.models.lora:load_merged"
"""What merges an adapter into a checkpoint: a member of the stage that imports both."""


class PolicyPlanner(PlannerBase):
    """Plans what systems have their weights from."""

    def plan_data(self, name: str) -> Stage:
        config = {"benchmark": self.experiment.benchmark(name).data_science(), "seed": self.experiment.seed}
        return self.note("data", slug(name), config, {"benchmark": self.benchmarks[name]})

    def selfcheck(self, name: str) -> Stage:
        members = {"benchmark": self.benchmarks[name], "judge": self.judges[name]}
        return self.note("selfcheck", slug(name), {"benchmark": name}, members, {"data": self.data[name]})

    @cached_property
    def tokenizer(self) -> Stage:
        """The tokenizer's stage, which is planned where a base needs it."""
        names = self.requested.having("train", "validation")
        return self.note("tokenizer", "tokenizer", {"tokenizer": self.experiment.tokenizer}, {}, self.data_of(names))

    def checkpoint(self, name: str, found: Base | Checkpoint) -> Stage:
        base = Base.model_validate(found.model_dump(include=set(Base.model_fields)))
        members = {"adapter": ADAPTED} if base.adapter else {}
        return self.note("checkpoint", name, {"base": base}, members, size=found.size_label)

    def pretrain(self, other: PretrainedBase | None = None) -> Stage:
        """Plans the experiment's own base, or another one, which is validated as its own row of the tables decodes."""
        experiment, names = self.experiment, self.requested.having("train", "validation")
        if not names:
            raise ConfigError("benchmarks: none has both train and validation problems, so there is nothing to learn")
        name, model, pretrain, family = "base", experiment.model, experiment.pretrain, "sdar"
        decoding, members, primary = experiment.decoding, self.decoder, experiment.evaluation.primary_threshold
        lengths = {each: experiment.benchmark(each).max_new_tokens for each in sorted(names)}
        inputs = self.data_of(names) | {"tokenizer": self.tokenizer}
        if other is not None:
            name, model, pretrain, family = other.name, other.model, other.pretrain, other.family
            row = self.requested.systems[name]
            lengths = {each: row.longest(experiment.benchmark(each)) for each in lengths}
            decoding, primary = row.decoding, row.primary_threshold
            members = decoding.members(f"{row.where}.", experiment.plugins) | self.families
            if other.match_compute is not None:
                inputs["matched"] = self.policies[other.match_compute]
        assert model is not None and pretrain is not None
        config = {
            "model": model,
            "family": family,
            "pretrain": pretrain,
            "decoding": decoding,
            "seed": experiment.seed,
            "primary_threshold": primary,
            "max_new_tokens": lengths,
        }
        members = members | {f"judge/{each}": self.judges[each] for each in names}
        for phase, plan in pretrain.phases.items():
            members[f"objective/{phase}"] = self.member("objective", plan.objective, f"pretrain.{phase}.objective")
        return self.note("pretrain", name, config, members, inputs, judged=names)

    def train(self, run: Run) -> Stage:
        benchmark, base = self.experiment.benchmark(run.benchmark), self.policies[run.base]
        decoding = run.decoding.over(self.experiment.decoding)
        config = {
            "run": run,
            "decoding": decoding,
            "seed": self.experiment.seed,
            "max_new_tokens": benchmark.max_new_tokens,
            "prompt": benchmark.prompt,
        }
        members = decoding.members(f"runs.{run.name}.decoding.", self.experiment.plugins) | {
            "algorithm": self.member("algorithm", run.algorithm, f"runs.{run.name}.algorithm"),
            "benchmark": self.benchmarks[run.benchmark],
            "judge": self.judges[run.benchmark],
        }
        members |= run.implementation.members()
        inputs = {"base": base, "data": self.data[run.benchmark]}
        if run.match_compute is not None:
            inputs["matched"] = self.policies[run.match_compute]
            for role, each in (("matched", self.experiment.run(run.match_compute)), ("earlier", run)):
                names = (before.name for before in self.experiment.earlier_runs(each))
                inputs |= {f"{role}/{name}": self.policies[name] for name in names}
        implementation = run.implementation
        for role, each in implementation.checkpoints.items():
            inputs[role] = self.known(self.checkpoint(f"{run.name}-{role}", each))
        if implementation.data is not None:
            inputs["distilled"] = self.distill_data(run, implementation.data, base)
        files = implementation.files
        return self.note("train", run.name, config, members, inputs, [run.benchmark], base.size, files)

    def distill_data(self, run: Run, data: DistillData, base: Stage) -> Stage:
        """Plans the answers that a run trains on, named by the first run with the same ones. What they do not depend on
        is not in the key: the judge of answers that nobody judges, the decoder of answers that nobody decodes."""
        benchmark, is_own = self.experiment.benchmark(run.benchmark), data.source == "own"
        alike = [run, *(each for each in self.experiment.runs if each is not run and each.base == run.base)]
        learners = Learners(runs=[each for each in alike if each.implementation.data == data])
        config: dict[str, Any] = {"data": data, "learners": learners}
        members, inputs = {"benchmark": self.benchmarks[run.benchmark]}, {"base": base}
        if data.source != "dataset":
            config["prompt"], inputs["data"] = benchmark.prompt, self.data[run.benchmark]
        if is_own:
            decoding = data.decoding.over(self.experiment.decoding)
            threshold = run.threshold if data.threshold is None else data.threshold
            config |= {"decoding": decoding, "threshold": threshold, "precision": self.precision}
            config |= {"seed": self.experiment.seed, "max_new_tokens": benchmark.max_new_tokens}
            where = f"runs.{run.name}.method.data.decoding."
            members |= decoding.members(where, self.experiment.plugins) | {"judge": self.judges[run.benchmark]}
        judged = [run.benchmark] if is_own else []
        return self.known(self.note("distill_data", run.name, config, members, inputs, judged, base.size))

    def quantize(self, system: System, policy: Stage) -> Stage:
        """Plans a stage for each pair of weights and quantizer that systems have, named by the first system by name."""
        quantizer = system.quantizer
        assert quantizer is not None
        config: dict[str, Any] = {"options": quantizer.options, "seed": self.experiment.seed}
        where = system.where.replace(".decoding", ".quantizer.name")
        members, inputs = {"quantizer": self.member("quantizer", quantizer.name, where)}, {"policy": policy}
        if (calibration := quantizer.calibration) is not None:
            benchmark = self.experiment.benchmark(calibration.benchmark)
            config["calibration"] = {
                "source": calibration.source, "problems": calibration.problems, "tokens": calibration.tokens,
                "prompt": benchmark.prompt,
            }  # fmt: skip
            members["benchmark"], inputs["data"] = self.benchmarks[benchmark.name], self.data[benchmark.name]
            if calibration.source == "decode":
                config |= {
                    "decoding": system.decoding, "threshold": system.primary_threshold, "prompt": benchmark.prompt,
                    "max_new_tokens": system.longest(benchmark),
                }  # fmt: skip
                members |= system.decoding.members(f"{system.where}.", self.experiment.plugins)
        return self.known(self.note("quantize", system.name, config, members, inputs, size=policy.size))
