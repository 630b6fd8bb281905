"""The stages of an experiment, made one after the other, upstream first.

What a stage finds in its context's `config`, beside `members`, is what the method of its kind puts there; everything
else that is known of a kind is in `kinds`. Kinds from outside plan their own stages, after all others.

What judges a benchmark's answers runs after that benchmark's selfcheck, which is not part of its key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from lightningrl.benchmarks.checked import checked
from lightningrl.benchmarks.choices import is_choice
from lightningrl.benchmarks.registry import PHRASES
from lightningrl.config.base import Base, Checkpoint
from lightningrl.config.counterparts import counterparts
from lightningrl.config.distillation import DistillData
from lightningrl.config.experiment import Experiment
from lightningrl.config.model import PretrainedBase
from lightningrl.config.registries import member, names
from lightningrl.config.systems import System
from lightningrl.config.train import Learners, Run
from lightningrl.errors import ConfigError
from lightningrl.pipeline.code_digest import Sources
from lightningrl.pipeline.kinds import Kind, kinds_of, measured_in
from lightningrl.pipeline.pin import read_pins
from lightningrl.pipeline.requested import ALL, Requested, tables_behind
from lightningrl.pipeline.stage import Stage
from lightningrl.pipeline.stages.release import copy_of
from lightningrl.report.registry import NEEDS, concerns
from lightningrl.utils.registry import resolve

QUANTIZED = "lightningrl.quantization.stored:load"
"""What reads a quantised checkpoint: a member of the stages that do."""
ADAPTED = "lightningrl.models.lora:load_merged"
"""What merges an adapter into a checkpoint: a member of the stage that imports both."""
LOOKS = "lightningrl.pipeline.stages.looks"
"""What probes look at beside answers: members of the stages that do."""
ENDPOINTS = {
    "evaluate": "lightningrl.pipeline.stages.endpoint",
    "speed": "lightningrl.pipeline.stages.endpoint_speed",
}
"""Kinds of stages in which a server may answer -> the module that asks it."""
LIKELIHOOD = "lightningrl.pipeline.stages.likelihood"
"""The module that evaluates on benchmarks of choices."""
UNREAD = {"thresholds", "primary_threshold", "precision", "likelihood"}
"""Keys of `evaluation` that an evaluation by decoding does not read as they are."""
WEIGHTS = ("pretrain", "checkpoint", "train", "quantize")
"""The kinds of stages that leave weights. What reads theirs resolves the checkpoint's family by what config.json says,
which the plan does not know: the files of all built-in families are in its digest, those of plug-ins among its members.
"""


def slug(name: str) -> str:
    """Returns a registry name as it is, a `module:attribute` as something that can be part of a path."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")


class Planner:
    """Plans an experiment's stages; each method plans one, or those of one kind, and notes them in `planned`."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.kinds = kinds_of(experiment.plugins)
        built_in = names("family")
        families = names("family", experiment.plugins).items() - built_in.items()
        self.families = {f"family/{name}": reference for name, reference in families}
        self.family_files = tuple(sorted({reference.partition(":")[0] for reference in built_in.values()}))
        self.pins = read_pins(experiment)
        self.package = Sources()
        self.benchmarks = {b.name: self.member("benchmark", b.name, "benchmarks.name") for b in experiment.benchmarks}
        self.judges: dict[str, str] = {
            name: checked(each, f"benchmarks.{name}.name").judge for name, each in self.benchmarks.items()
        }
        self.requested = Requested(experiment, self.benchmarks)
        self.precision = experiment.evaluation.precision_on(experiment.resources.device)
        """The precision of stages that decode a finished policy, resolved here so that one key never means two."""
        self.decoder = experiment.decoding.members("decoding.", experiment.plugins)
        self.planned: list[Stage] = []
        self.data: dict[str, Stage] = {}
        self.checks: dict[str, Stage] = {}
        """Benchmark -> the proof of its judge."""
        self.policies: dict[str, Stage] = {}
        self.weights: dict[str, Stage] = {}
        """System -> the stage that has its weights."""

    def stages(self) -> list[Stage]:
        """Plans all stages of the experiment, each after those that it reads."""
        experiment, requested = self.experiment, self.requested
        self.data = {name: self.plan_data(name) for name in self.benchmarks}
        self.checks = {name: self.selfcheck(name) for name in self.benchmarks}
        self.policies["base"] = self.pretrain() if experiment.base is None else self.checkpoint("base", experiment.base)
        for base in experiment.bases:
            self.policies[base.name] = self.pretrain(base)
        self.policies |= {each.name: self.checkpoint(each.name, each) for each in experiment.checkpoints}
        for run in sorted(experiment.runs, key=lambda run: run.match_compute is not None):  # the matched first
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

    def member(self, kind: str, name: str, where: str) -> str:
        return member(kind, name, where, self.experiment.plugins)

    def members_of(self, system: System) -> dict[str, str]:
        """Returns what a system decodes with, and reads its weights by where they are quantised."""
        quantized = {} if system.quantizer is None else {"weights": QUANTIZED}
        return system.decoding.members(f"{system.where}.", self.experiment.plugins) | quantized

    def data_of(self, names: Iterable[str]) -> dict[str, Stage]:
        return {f"data/{name}": self.data[name] for name in names}

    def plan_data(self, name: str) -> Stage:
        config = {"benchmark": self.experiment.benchmark(name).data_science(), "seed": self.experiment.seed}
        return self._stage("data", slug(name), config, {"benchmark": self.benchmarks[name]})

    def selfcheck(self, name: str) -> Stage:
        members = {"benchmark": self.benchmarks[name], "judge": self.judges[name]}
        return self._stage("selfcheck", slug(name), {"benchmark": name}, members, {"data": self.data[name]})

    def checkpoint(self, name: str, found: Base | Checkpoint) -> Stage:
        base = Base.model_validate(found.model_dump(include=set(Base.model_fields)))
        members = {"adapter": ADAPTED} if base.adapter else {}
        return self._stage("checkpoint", name, {"base": base}, members, size=found.size_label)

    def pretrain(self, other: PretrainedBase | None = None) -> Stage:
        """Plans the experiment's own base, or another one, which is validated as its own row of the tables decodes."""
        experiment, names = self.experiment, self.requested.having("train", "validation")
        if not names:
            raise ConfigError("benchmarks: none has both train and validation problems, so there is nothing to learn")
        name, model, pretrain, family = "base", experiment.model, experiment.pretrain, "sdar"
        decoding, members, primary = experiment.decoding, self.decoder, experiment.evaluation.primary_threshold
        inputs = self.data_of(names) | {"tokenizer": self.tokenizer}
        if other is not None:
            name, model, pretrain, family = other.name, other.model, other.pretrain, other.family
            row = self.requested.systems[name]
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
            "max_new_tokens": {name: experiment.benchmark(name).max_new_tokens for name in sorted(names)},
        }
        members = members | {f"judge/{each}": self.judges[each] for each in names}
        for phase, plan in pretrain.phases.items():
            members[f"objective/{phase}"] = self.member("objective", plan.objective, f"pretrain.{phase}.objective")
        return self._stage("pretrain", name, config, members, inputs, judged=names)

    @cached_property
    def tokenizer(self) -> Stage:
        """The tokenizer's stage, which is planned where a base needs it."""
        names = self.requested.having("train", "validation")
        return self._stage("tokenizer", "tokenizer", {"tokenizer": self.experiment.tokenizer}, {}, self.data_of(names))

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
        implementation = run.implementation
        for role, each in implementation.checkpoints.items():
            inputs[role] = self._known(self.checkpoint(f"{run.name}-{role}", each))
        if implementation.data is not None:
            inputs["distilled"] = self.distill_data(run, implementation.data, base)
        files = implementation.files
        return self._stage("train", run.name, config, members, inputs, [run.benchmark], base.size, files)

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
        return self._known(self._stage("distill_data", run.name, config, members, inputs, judged, base.size))

    def _known(self, stage: Stage) -> Stage:
        """Returns the first stage with the key of one that was just planned, which goes where there is another."""
        known = next(each for each in self.planned if each.key == stage.key)
        if known is not stage:
            self.planned.pop()
        return known

    def quantize(self, system: System, policy: Stage) -> Stage:
        """Plans a stage for each pair of weights and quantizer that systems have, named by the first system by name."""
        quantizer = system.quantizer
        assert quantizer is not None
        config: dict[str, Any] = {"options": quantizer.options, "seed": self.experiment.seed}
        where = system.where.replace(".decoding", ".quantizer.name")
        members, inputs = {"quantizer": self.member("quantizer", quantizer.name, where)}, {"policy": policy}
        if (calibration := quantizer.calibration) is not None:
            benchmark = self.experiment.benchmark(self._calibrated_on(system, calibration.benchmark))
            config["calibration"] = {
                "source": calibration.source, "problems": calibration.problems, "tokens": calibration.tokens,
                "prompt": benchmark.prompt,
            }  # fmt: skip
            members["benchmark"], inputs["data"] = self.benchmarks[benchmark.name], self.data[benchmark.name]
            if calibration.source == "decode":
                config |= {
                    "decoding": system.decoding, "threshold": system.primary_threshold, "prompt": benchmark.prompt,
                    "max_new_tokens": benchmark.max_new_tokens,
                }  # fmt: skip
                members |= system.decoding.members(f"{system.where}.", self.experiment.plugins)
        return self._known(self._stage("quantize", system.name, config, members, inputs, size=policy.size))

    def _calibrated_on(self, system: System, named: str) -> str:
        """Returns the benchmark whose train problems a system's quantizer looks at."""
        trainable = [each.name for each in self.experiment.benchmarks if each.train != 0]
        if not trainable:
            raise ConfigError(
                f"systems.{system.name}.quantizer.calibration: no benchmark has train problems, and quantizers are "
                "never shown others. Give a benchmark some (`train`), or take the quantizer rtn"
            )
        return named or (system.trained_on if system.trained_on in trainable else "") or trainable[0]

    def evaluate(self, system: System, name: str) -> Stage:
        evaluation = self.experiment.evaluation
        if is_choice(resolve(self.benchmarks[name])):
            return self._by_likelihood(system, name)
        if system.endpoint is not None:
            chosen = evaluation.model_dump(mode="json", include={"split", "samples", "temperature"})
            sweep = {"thresholds": system.thresholds, "max_failed_pct": system.endpoint.max_failed_pct}
            return self._of_endpoint("evaluate", system, name, {"evaluation": chosen, "sweep": sweep}, [name])
        config = {
            "evaluation": evaluation.model_dump(mode="json", exclude=UNREAD),
            "sweep": {"thresholds": system.thresholds},
        }
        return self._of_system("evaluate", system, name, config, {"judge": self.judges[name]}, [name])

    def _by_likelihood(self, system: System, name: str) -> Stage:
        """Plans the evaluation of a benchmark of choices: the kind's files and job, another module, no decoder."""
        experiment, evaluation = self.experiment, self.experiment.evaluation
        if system.endpoint is not None:
            raise ConfigError(
                f"systems.{system.name}: {name} is answered by likelihood, and a server says none; name the benchmarks "
                "that it answers in `evaluate_on`"
            )
        kind, weights = self.kinds["evaluate"], self.weights[system.name]
        config = {
            "evaluation": evaluation.model_dump(mode="json", include={"split", "shard"}),
            "sweep": {"thresholds": [system.primary_threshold]},
            "likelihood": evaluation.likelihood,
            "prompt": experiment.benchmark(name).prompt,
            "seed": experiment.seed,
            "policy": system.name,
            "benchmark": name,
            "precision": self.precision,
        }
        members = {"benchmark": self.benchmarks[name]} | ({} if system.quantizer is None else {"weights": QUANTIZED})
        spec = replace(kind, outside=LIKELIHOOD, in_parts=False, files=(*kind.files, "choices.jsonl"))
        inputs, label = {"policy": weights, "data": self.data[name]}, f"{system.name}/{slug(name)}"
        return self._stage("evaluate", label, config, members, inputs, [name], weights.size, spec=spec)

    def speed(self, system: System, name: str) -> Stage:
        config: dict[str, Any] = {
            "speed": self.experiment.speed.model_dump(mode="json", exclude={"benchmarks"}),
            "threshold": system.primary_threshold,
            "temperature": self.experiment.evaluation.temperature,
        }
        if system.endpoint is not None:
            return self._of_endpoint("speed", system, name, config)
        return self._of_system("speed", system, name, config, {})

    def _of_endpoint(
        self, kind: str, system: System, name: str, config: dict[str, Any], judged: Iterable[str] = ()
    ) -> Stage:  # fmt: skip
        """Plans a stage in which a server answers a benchmark's problems: a kind's files and job, another module."""
        benchmark = self.experiment.benchmark(name)
        config |= {
            "endpoint": system.endpoint,
            "prompt": benchmark.prompt,
            "max_new_tokens": system.longest(benchmark),
            "seed": self.experiment.seed,
            "policy": system.name,
            "benchmark": name,
        }
        members = {"benchmark": self.benchmarks[name]} | ({"judge": self.judges[name]} if judged else {})
        spec = replace(self.kinds[kind], outside=ENDPOINTS[kind], in_parts=False)
        label = f"{system.name}/{slug(name)}"
        return self._stage(kind, label, config, members, {"data": self.data[name]}, judged, "endpoint", spec=spec)

    def probe(self, system: System, name: str) -> Stage:
        config = {"problems": self.experiment.report.probed_problems, "threshold": system.primary_threshold}
        looks = self.experiment.report.looks
        members = {f"look/{look}": f"{LOOKS}:{look}" for look in looks if look != "answers"}
        if "answers" in looks:
            members["careful"] = self.member("selector", "quota", "")
            members |= {"phrases": PHRASES[name]} if name in PHRASES else {}
        exact = {"exact": self.policies[system.policy]} if "states" in looks and system.quantizer is not None else {}
        return self._of_system("probe", system, name, config, members, inputs=exact)

    def _of_system(
        self,
        kind: str,
        system: System,
        name: str,
        config: dict[str, Any],
        members: dict[str, str],
        judged: Iterable[str] = (),
        inputs: Mapping[str, Stage] = MappingProxyType({}),
    ) -> Stage:
        """Plans a stage in which a system answers a benchmark's problems."""
        benchmark, weights = self.experiment.benchmark(name), self.weights[system.name]
        config |= {
            "decoding": system.decoding,
            "prompt": benchmark.prompt,
            "max_new_tokens": system.longest(benchmark),
            "seed": self.experiment.seed,
            "policy": system.name,
            "benchmark": name,
            "precision": self.precision,
        }
        members = self.members_of(system) | {"benchmark": self.benchmarks[name]} | members
        inputs = {"policy": weights, "data": self.data[name], **inputs}
        return self._stage(kind, f"{system.name}/{slug(name)}", config, members, inputs, judged, weights.size)

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
        compared = counterparts(systems) if need is None else {}
        inputs |= {f"quantize/{name}": stage for name, stage in self.weights.items()
                   if name in compared and stage.kind == "quantize"}  # fmt: skip
        config = {
            "experiment": experiment.experiment,
            "counterparts": compared,
            "bootstrap": experiment.report.bootstrap,
            "primary_threshold": experiment.evaluation.primary_threshold,
            "seed": experiment.seed,
            "policies": [{key: getattr(s, key) for key in keys} | {"benchmark": s.trained_on} for s in systems],
            "benchmarks": list(self.benchmarks),
        }
        return self._stage("collect", slug(name), config, {}, inputs)

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
        return self._stage(kind, slug(name), config, members, {"collect": collect})

    def replay(self, system: System) -> Stage:
        assert system.trained_on is not None
        benchmark = self.experiment.benchmark(system.trained_on)
        config: dict[str, Any] = {
            "problems": self.experiment.report.replayed_problems,
            "precision": self.precision,
            "prompt": benchmark.prompt,
            "max_new_tokens": system.longest(benchmark),
        }
        members, inputs = {"benchmark": self.benchmarks[benchmark.name]}, {"data": self.data[benchmark.name]}
        for role, each in (("base", self.requested.systems[system.base]), ("policy", system)):
            config[role] = {"name": each.name, "threshold": each.primary_threshold, "decoding": each.decoding}
            members |= {f"{role}/{piece}": reference for piece, reference in self.members_of(each).items()}
            inputs[role] = self.weights[each.name]
        return self._stage("replay", system.name, config, members, inputs, size=inputs["policy"].size)

    def release(self, own: tuple[Stage, ...]) -> Stage:
        """Plans the stages from outside, and the one that copies what is shown. It reads all of those from outside, so
        that they belong to the experiment as everything else does."""
        for kind in self.kinds.values():
            for each in () if kind.plan is None else kind.plan(self.experiment, own):
                self._stage(kind.name, each.name, each.config, each.members, each.inputs)
        drawn = [stage for stage in self.planned if stage.spec.released]
        inputs = {stage.label: stage for stage in (*drawn, *self.planned[len(own) :])}
        inputs["collect"] = next(stage for stage in own if stage.label == f"collect/{ALL}")
        copies = tuple(copy_of(stage.kind, stage.name, file) for stage in drawn for file in stage.files)
        kinds = [kind.name for kind in self.kinds.values() if kind.released]
        config = {f"{kind}s": [stage.name for stage in drawn if stage.kind == kind] for kind in kinds}
        return self._stage("release", "release", config, {}, inputs, more_files=copies)

    def _stage(
        self,
        kind: str,
        name: str,
        config: Mapping[str, Any],
        members: Mapping[str, str] | None = None,
        inputs: Mapping[str, Stage] | None = None,
        judged: Iterable[str] = (),
        size: str = "",
        more_files: tuple[str, ...] = (),
        spec: Kind | None = None,
    ) -> Stage:
        """judged: the benchmarks whose answers it judges; spec: the kind, where another module stands for its own."""
        experiment, spec = self.experiment, spec or self.kinds[kind]
        reads_weights = self._reads_weights(kind, inputs or {})
        self.planned.append(
            Stage(
                experiment.experiment,
                spec,
                name,
                config,
                {**(members or {}), **(self.families if reads_weights else {})},
                dict(sorted((inputs or {}).items())),  # a stage sees no order that its key does not hold
                more_files + tuple(file.replace("{name}", name) for file in spec.files_in(experiment)),
                {f"selfcheck/{name}": self.checks[name] for name in sorted(judged)},
                spec.is_open_in(experiment),
                size,
                self.pins.get(f"{kind}/{name}"),
                self.package,
                self.family_files if reads_weights or kind == "pretrain" else (),
            )
        )
        return self.planned[-1]

    def _reads_weights(self, kind: str, inputs: Mapping[str, Stage]) -> bool:
        return kind == "checkpoint" or (kind != "collect" and any(each.kind in WEIGHTS for each in inputs.values()))
