"""The stages of an experiment, made one after the other, upstream first.

What a stage finds in its context's `config`, beside `members`, is what the method of its kind puts there; everything
else that is known of a kind is in `kinds`. Kinds from outside plan their own stages, after all others.

What judges a benchmark's answers runs after that benchmark's selfcheck, which is not part of its key.

No torch, and no file but sources and the config is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lightningrl.benchmarks.registry import PHRASES
from lightningrl.config.base import Base, Checkpoint
from lightningrl.config.experiment import Experiment
from lightningrl.config.registries import DECODER, member, names
from lightningrl.config.systems import System
from lightningrl.config.tasks import Decoding
from lightningrl.config.train import Run
from lightningrl.errors import ConfigError
from lightningrl.pipeline.code_digest import Sources
from lightningrl.pipeline.kinds import KINDS, kinds_of
from lightningrl.pipeline.pin import read_pins
from lightningrl.pipeline.registries import collected, judge_of
from lightningrl.pipeline.requested import ALL, Requested
from lightningrl.pipeline.stage import Stage
from lightningrl.report.registry import NEEDS

QUANTIZED = "lightningrl.quantization.stored:load"
"""What reads a quantised checkpoint: a member of the stages that do."""
WEIGHTLESS = ("data", "selfcheck", "tokenizer", "pretrain", "collect", "table", "figure")
"""The kinds of stages that read no weights, and so need no plug-in's family of checkpoints."""


def slug(name: str) -> str:
    """A registry name as it is, a `module:attribute` as something that can be part of a path."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")


class Planner:
    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.kinds = kinds_of(experiment.plugins)
        families = names("family", experiment.plugins).items() - names("family").items()
        self.families = {f"family/{name}": reference for name, reference in families}
        self.pins = read_pins(experiment)
        self.package = Sources()
        self.benchmarks = {b.name: self.member("benchmark", b.name, "benchmarks.name") for b in experiment.benchmarks}
        self.checks: dict[str, Stage] = {}
        self.judges = {name: judge_of(reference) for name, reference in self.benchmarks.items()}
        self.requested = Requested(experiment, self.benchmarks)
        self.decoder = self.decoder_of(experiment.decoding, "decoding")
        self.weights: dict[str, Stage] = {}
        """System -> the stage that has its weights."""

    def stages(self) -> Iterator[Stage]:
        """Yields all stages of the experiment, each after those that it reads."""
        made: list[Stage] = []
        for stage in self._own():
            made.append(stage)
            yield stage
        outside: list[Stage] = []
        for kind in self.kinds.values():
            planned = () if kind.plan is None else kind.plan(self.experiment, tuple(made))
            outside += [self._stage(kind.name, p.name, p.config, p.members, p.inputs) for p in planned]
        yield from outside
        yield self.release(made, outside)

    def _own(self) -> Iterator[Stage]:
        """Yields the stages of the package's own kinds but the release."""
        data = {name: self.data(name) for name in self.benchmarks}
        yield from data.values()
        self.checks = {name: self.selfcheck(name, stage) for name, stage in data.items()}
        yield from self.checks.values()
        made = list(self.base(data))
        yield from made
        policies = {"base": made[-1]} | {each.name: self.checkpoint(each) for each in self.experiment.checkpoints}
        yield from list(policies.values())[1:]
        trained: dict[str, Stage] = {}
        for run in sorted(self.experiment.runs, key=lambda run: run.match_compute is not None):  # the matched first
            trained[run.name] = self.train(run, data, policies[run.base], trained)
        yield from trained.values()
        policies |= trained
        yield from self.quantized(policies, data)
        found = [self.evaluate(system, name, data) for system, name in self.requested.evaluated()]
        found += [self.speed(system, name, data) for system, name in self.requested.measured()]
        found += [self.probe(system, name, data) for system, name in self.requested.probed()]
        yield from found
        collects = {name: self.collect(name, [*trained.values(), *found]) for name in self.requested.collected()}
        yield from collects.values()
        report = self.experiment.report
        yield from (self.table(name, collects.get(name, collects[ALL])) for name in report.tables)
        yield from (self.figure(name, collects.get(name, collects[ALL])) for name in report.figures)
        yield from (self.replay(self.requested.systems[name], data) for name in report.replays)

    def member(self, kind: str, name: str, where: str) -> str:
        return member(kind, name, where, self.experiment.plugins)

    def decoder_of(self, decoding: Decoding, where: str) -> dict[str, str]:
        """Returns the members that a decoder is made of."""
        return {piece: self.member(piece, getattr(decoding, piece), f"{where}.{piece}") for piece in DECODER}

    def members_of(self, system: System) -> dict[str, str]:
        """Returns what a system decodes with, and reads its weights by where they are quantised."""
        quantized = {} if system.quantizer is None else {"weights": QUANTIZED}
        return self.decoder_of(system.decoding, system.where) | quantized

    def data(self, name: str) -> Stage:
        config = {"benchmark": self.experiment.benchmark(name).data_science(), "seed": self.experiment.seed}
        return self._stage("data", slug(name), config, {"benchmark": self.benchmarks[name]}, {})

    def selfcheck(self, name: str, data: Stage) -> Stage:
        members = {"benchmark": self.benchmarks[name], "judge": self.judges[name]}
        return self._stage("selfcheck", slug(name), {"benchmark": name}, members, {"data": data})

    def tokenizer(self, data: Mapping[str, Stage]) -> Stage:
        return self._stage("tokenizer", "tokenizer", {"tokenizer": self.experiment.tokenizer}, {}, _data(data))

    def base(self, data: Mapping[str, Stage]) -> Iterator[Stage]:
        """What the base policy takes; the last one has it."""
        if self.experiment.base is not None:
            base = self.experiment.base
            yield self._stage("checkpoint", "base", {"base": base}, {}, {}, size=base.size_label)
            return
        learned = {name: data[name] for name in self.requested.having("train", "validation")}
        if not learned:
            raise ConfigError("benchmarks: none has both train and validation problems, so there is nothing to learn")
        tokenizer = self.tokenizer(learned)
        yield tokenizer
        yield self.pretrain(learned, tokenizer)

    def checkpoint(self, checkpoint: Checkpoint) -> Stage:
        config = {"base": Base.model_validate(checkpoint.model_dump(include=set(Base.model_fields)))}
        return self._stage("checkpoint", checkpoint.name, config, {}, {}, size=checkpoint.size_label)

    def pretrain(self, data: Mapping[str, Stage], tokenizer: Stage) -> Stage:
        experiment = self.experiment
        config = {
            "model": experiment.model,
            "pretrain": experiment.pretrain,
            "decoding": experiment.decoding,
            "seed": experiment.seed,
            "primary_threshold": experiment.evaluation.primary_threshold,
            "max_new_tokens": _in_order({b.name: b.max_new_tokens for b in experiment.benchmarks if b.name in data}),
        }
        members = self.decoder | {f"judge/{name}": judge for name, judge in self.judges.items() if name in data}
        inputs = _data(data) | {"tokenizer": tokenizer}
        return self._stage("pretrain", "base", config, members, inputs, judged=tuple(data))

    def train(self, run: Run, data: Mapping[str, Stage], base: Stage, trained: Mapping[str, Stage]) -> Stage:
        benchmark = self.experiment.benchmark(run.benchmark)
        config = {
            "run": run,
            "decoding": self.experiment.decoding,
            "seed": self.experiment.seed,
            "max_new_tokens": benchmark.max_new_tokens,
            "prompt": benchmark.prompt,
        }
        members = self.decoder | {
            "algorithm": self.member("algorithm", run.algorithm, f"runs.{run.name}.algorithm"),
            "benchmark": self.benchmarks[run.benchmark],
            "judge": self.judges[run.benchmark],
        }
        members |= run.implementation.members()
        inputs = {"base": base, "data": data[run.benchmark]}
        if run.match_compute is not None:
            inputs["matched"] = trained[run.match_compute]
        return self._stage("train", run.name, config, members, inputs, judged=(run.benchmark,), size=base.size)

    def quantized(self, policies: Mapping[str, Stage], data: Mapping[str, Stage]) -> Iterator[Stage]:
        """Yields a stage for each pair of weights and quantizer that systems have; notes where all weights are."""
        made: dict[str, Stage] = {}
        for system in self.requested.systems.values():
            self.weights[system.name] = policies[system.policy]
            if system.quantizer is not None:
                stage = self.quantize(system, policies[system.policy], data)
                if stage.key not in made:
                    made[stage.key] = stage
                    yield stage
                self.weights[system.name] = made[stage.key]

    def quantize(self, system: System, source: Stage, data: Mapping[str, Stage]) -> Stage:
        quantizer = system.quantizer
        assert quantizer is not None
        config: dict[str, Any] = {"options": quantizer.options, "seed": self.experiment.seed}
        where = system.where.replace(".decoding", ".quantizer.name")
        members, inputs = {"quantizer": self.member("quantizer", quantizer.name, where)}, {"policy": source}
        if (calibration := quantizer.calibration) is not None:
            benchmark = self.experiment.benchmark(calibration.benchmark)
            config["calibration"] = {"problems": calibration.problems, "prompt": benchmark.prompt}
            members["benchmark"], inputs["data"] = self.benchmarks[benchmark.name], data[benchmark.name]
        return self._stage("quantize", system.name, config, members, inputs, size=source.size)

    def evaluate(self, system: System, name: str, data: Mapping[str, Stage]) -> Stage:
        evaluation = self.experiment.evaluation
        config = {
            "evaluation": evaluation.model_dump(mode="json", exclude={"thresholds", "primary_threshold"}),
            "sweep": {"thresholds": system.thresholds},
        }
        return self._of_system("evaluate", system, name, data, config, {"judge": self.judges[name]}, judged=(name,))

    def speed(self, system: System, name: str, data: Mapping[str, Stage]) -> Stage:
        config = {
            "speed": self.experiment.speed.model_dump(mode="json", exclude={"benchmarks"}),
            "threshold": system.primary_threshold,
            "temperature": self.experiment.evaluation.temperature,
        }
        return self._of_system("speed", system, name, data, config, {})

    def probe(self, system: System, name: str, data: Mapping[str, Stage]) -> Stage:
        config = {"problems": self.experiment.report.probed_problems, "threshold": system.primary_threshold}
        members = {"careful": self.member("selector", "quota", "")}
        if name in PHRASES:
            members["phrases"] = PHRASES[name]
        return self._of_system("probe", system, name, data, config, members)

    def _of_system(
        self,
        kind: str,
        system: System,
        name: str,
        data: Mapping[str, Stage],
        config: dict[str, Any],
        members: dict[str, str],
        judged: tuple[str, ...] = (),
    ) -> Stage:
        """Returns a stage in which a system answers a benchmark's problems."""
        benchmark, weights = self.experiment.benchmark(name), self.weights[system.name]
        config |= {
            "decoding": system.decoding,
            "prompt": benchmark.prompt,
            "max_new_tokens": benchmark.max_new_tokens,
            "seed": self.experiment.seed,
            "policy": system.name,
            "benchmark": name,
        }
        members = self.members_of(system) | {"benchmark": self.benchmarks[name]} | members
        inputs = {"policy": weights, "data": data[name]}
        return self._stage(kind, f"{system.name}/{slug(name)}", config, members, inputs, judged, weights.size)

    def collect(self, name: str, made: list[Stage]) -> Stage:
        """Returns the stage of what one of `NEEDS` asks for, or of all that was made (`ALL`) but speeds."""
        experiment, need = self.experiment, NEEDS.get(name)
        rows = [_row(system) for system in self.requested.systems.values()]
        kinds = {"evaluate", "train", "probe"}
        if need is not None:
            rows = [row for row in rows if row["published"] in need["rows"]]
            kinds = {{"evaluations": "evaluate", "training": "train", "speed": "speed"}[part] for part in need["of"]}
        names, inputs = {row["name"] for row in rows}, dict[str, Stage]()
        for stage in (stage for stage in made if stage.kind in kinds):
            is_run = stage.kind == "train"
            system = stage.name if is_run else stage.config["policy"]
            benchmark = stage.config["run"].benchmark if is_run else stage.config["benchmark"]
            if need is None or (system in names and (stage.kind == "speed" or benchmark in need["benchmarks"])):
                inputs[stage.label if is_run else f"{stage.kind}/{system}/{benchmark}"] = stage
        config = {
            "experiment": experiment.experiment,
            "bootstrap": experiment.report.bootstrap,
            "primary_threshold": experiment.evaluation.primary_threshold,
            "seed": experiment.seed,
            "policies": rows,
            "benchmarks": list(self.benchmarks),
        }
        return self._stage("collect", slug(name), config, {}, inputs)

    def table(self, name: str, collect: Stage) -> Stage:
        members = {"table": self.member("table", name, "report.tables")}
        config = {"name": slug(name), "collected": collected("tables", name)}
        return self._stage("table", slug(name), config, members, {"collect": collect})

    def figure(self, name: str, collect: Stage) -> Stage:
        members = {"figure": self.member("figure", name, "report.figures")}
        config = {
            "name": slug(name),
            "collected": collected("figures", name),
            "plot": self.experiment.report.plot,
            "policies": [policy["name"] for policy in collect.config["policies"]],
        }
        return self._stage("figure", slug(name), config, members, {"collect": collect})

    def replay(self, system: System, data: Mapping[str, Stage]) -> Stage:
        assert system.trained_on is not None
        benchmark = self.experiment.benchmark(system.trained_on)
        config: dict[str, Any] = {
            "problems": self.experiment.report.replayed_problems,
            "prompt": benchmark.prompt,
            "max_new_tokens": benchmark.max_new_tokens,
        }
        members, inputs = {"benchmark": self.benchmarks[benchmark.name]}, {"data": data[benchmark.name]}
        for role, each in (("base", self.requested.systems[system.base]), ("policy", system)):
            config[role] = {"name": each.name, "threshold": each.primary_threshold, "decoding": each.decoding}
            members |= {f"{role}/{piece}": reference for piece, reference in self.members_of(each).items()}
            inputs[role] = self.weights[each.name]
        return self._stage("replay", system.name, config, members, inputs, size=inputs["policy"].size)

    def release(self, made: list[Stage], outside: list[Stage]) -> Stage:
        """Returns the stage that copies what is shown of `made`. It reads the stages from outside too, so that they
        belong to the experiment as everything else does."""
        drawn = [stage for stage in made if stage.spec.released]
        inputs = {stage.label: stage for stage in (*drawn, *outside)}
        inputs["collect"] = next(stage for stage in made if stage.label == f"collect/{ALL}")
        copies = tuple(f"{stage.kind}s/{file}" for stage in drawn for file in stage.files)
        kinds = (kind.name for kind in KINDS.values() if kind.released)
        config = {f"{kind}s": [stage.name for stage in drawn if stage.kind == kind] for kind in kinds}
        spec, pin = self.kinds["release"], self.pins.get("release/release")
        return Stage(
            self.experiment.experiment, spec, "release", config, {}, inputs, copies + spec.files, pin=pin,
            package=self.package,
        )  # fmt: skip

    def _stage(
        self,
        kind: str,
        name: str,
        config: Mapping[str, Any],
        members: Mapping[str, str],
        inputs: Mapping[str, Stage],
        judged: tuple[str, ...] = (),
        size: str = "",
    ) -> Stage:
        """judged: the benchmarks whose answers it judges."""
        experiment, spec = self.experiment, self.kinds[kind]
        members = members if kind in WEIGHTLESS else {**members, **self.families}
        files = tuple(file.replace("{name}", name) for file in spec.files_in(experiment))
        after = {f"selfcheck/{name}": self.checks[name] for name in sorted(judged)}
        return Stage(
            experiment.experiment, spec, name, config, members, _in_order(inputs), files, after,
            spec.is_open_in(experiment), size, self.pins.get(f"{kind}/{name}"), self.package,
        )  # fmt: skip


def _row(system: System) -> dict[str, Any]:
    """Returns what collect is told of a system."""
    keys = ("name", "role", "algorithm", "published", "base", "primary_threshold", "series", "seed")
    return {key: getattr(system, key) for key in keys} | {"benchmark": system.trained_on}


def _in_order(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """By name: a stage sees no order that its key does not hold."""
    return dict(sorted(mapping.items()))


def _data(data: Mapping[str, Stage]) -> dict[str, Stage]:
    return {f"data/{name}": stage for name, stage in data.items()}
