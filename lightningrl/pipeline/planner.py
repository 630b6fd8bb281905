"""The stages of an experiment, made one after the other, upstream first.

What each stage finds in its context's `config`, beside `members`:

- data/<benchmark>: benchmark (name and sizes), seed
- selfcheck/<benchmark>: benchmark (its name)
- tokenizer/tokenizer: tokenizer
- pretrain/base: model, pretrain, decoding, seed, primary_threshold, max_new_tokens {benchmark: n}
- checkpoint/base (instead of the two before, where the config says `base`), checkpoint/<name>: base
- train/<run>: run, decoding, seed, max_new_tokens, prompt
- evaluate/<policy>/<benchmark>: evaluation (split, samples, temperature, shard), sweep (thresholds), decoding, prompt,
  max_new_tokens, seed, policy, benchmark
- speed/<policy>/<benchmark> (where a table or figure needs it): speed (prompts, warmup, batch, repeats), threshold,
  temperature, decoding, prompt, max_new_tokens, seed, policy, benchmark
- probe/<policy>/<benchmark> (those that the config names): problems, threshold, decoding, prompt, max_new_tokens, seed,
  policy, benchmark
- collect/frontier (of everything), collect/<table or figure of the paper> (of what it needs): experiment, bootstrap,
  primary_threshold, seed, benchmarks, policies [{name, role, algorithm, benchmark, published, base, series, seed}]
- table/<name>, figure/<name>: name, collected (the tables it is made of); figures also plot, policies
- replay/<run>: base_name, policy_name, problems, threshold, decoding, prompt, max_new_tokens
- release/release: tables, figures, replays

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
from lightningrl.config.train import Run
from lightningrl.errors import ConfigError
from lightningrl.pipeline.code_digest import Sources
from lightningrl.pipeline.files import OPEN, RELEASED, files_of, has_checkpoint
from lightningrl.pipeline.pin import read_pins
from lightningrl.pipeline.registries import collected, judge_of, member
from lightningrl.pipeline.requested import ALL, Wanted
from lightningrl.pipeline.stage import Stage
from lightningrl.report.registry import NEEDS


def slug(name: str) -> str:
    """A registry name as it is, a `module:attribute` as something that can be part of a path."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")


class Planner:
    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.pins = read_pins(experiment)
        self.package = Sources()
        self.benchmarks = {b.name: member("benchmark", b.name, "benchmarks.name") for b in experiment.benchmarks}
        self.checks: dict[str, Stage] = {}
        self.judges = {name: judge_of(reference) for name, reference in self.benchmarks.items()}
        self.wanted = Wanted(experiment, self.benchmarks)
        self.wanted.check()
        self.decoder = {
            piece: member(piece, getattr(experiment.decoding, piece), f"decoding.{piece}")
            for piece in ("selector", "ranking", "schedule", "stop")
        }

    def stages(self) -> Iterator[Stage]:
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
        policies |= {run.name: trained[run.name] for run in self.experiment.runs}
        evaluated = [
            self.evaluate(policy, stage, name, data)
            for policy, stage in policies.items()
            for name in self.wanted.evaluated_on(policy)
        ]
        yield from evaluated
        measured = [self.speed(policy, policies[policy], name, data) for policy, name in self.wanted.measured()]
        yield from measured
        probed = [self.probe(policy, policies[policy], name, data) for policy, name in self.wanted.probed()]
        yield from probed
        collects = {name: self.collect(name, evaluated, trained, measured, probed) for name in self.wanted.collected()}
        yield from collects.values()
        drawn = [self.table(name, collects.get(name, collects[ALL])) for name in self.experiment.report.tables]
        drawn += [self.figure(name, collects.get(name, collects[ALL])) for name in self.experiment.report.figures]
        drawn += [self.replay(self.experiment.run(name), policies, data) for name in self.experiment.report.replays]
        yield from drawn
        yield self.release(collects[ALL], drawn)

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
        learned = {name: data[name] for name in self.wanted.having("train", "validation")}
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
            "algorithm": member("algorithm", run.algorithm, f"runs.{run.name}.algorithm"),
            "benchmark": self.benchmarks[run.benchmark],
            "judge": self.judges[run.benchmark],
        }
        own = [reward.name for reward in run.method.rewards if ":" in reward.name]
        members |= {f"reward/{name}": name for name in sorted(own)}
        inputs = {"base": base, "data": data[run.benchmark]}
        if run.match_compute is not None:
            inputs["matched"] = trained[run.match_compute]
        return self._stage("train", run.name, config, members, inputs, judged=(run.benchmark,), size=base.size)

    def evaluate(self, policy: str, source: Stage, name: str, data: Mapping[str, Stage]) -> Stage:
        evaluation = self.experiment.evaluation
        config = self._answers(policy, name) | {
            "evaluation": evaluation.model_dump(mode="json", exclude={"thresholds", "primary_threshold"}),
            "sweep": {"thresholds": evaluation.thresholds},
        }
        members = self.decoder | {"benchmark": self.benchmarks[name], "judge": self.judges[name]}
        inputs = {"policy": source, "data": data[name]}
        called = f"{policy}/{slug(name)}"
        return self._stage("evaluate", called, config, members, inputs, judged=(name,), size=source.size)

    def speed(self, policy: str, source: Stage, name: str, data: Mapping[str, Stage]) -> Stage:
        experiment = self.experiment
        config = self._answers(policy, name) | {
            "speed": experiment.speed.model_dump(mode="json", exclude={"benchmarks"}),
            "threshold": experiment.evaluation.primary_threshold,
            "temperature": experiment.evaluation.temperature,
        }
        members = self.decoder | {"benchmark": self.benchmarks[name]}
        inputs = {"policy": source, "data": data[name]}
        return self._stage("speed", f"{policy}/{slug(name)}", config, members, inputs, size=source.size)

    def probe(self, policy: str, source: Stage, name: str, data: Mapping[str, Stage]) -> Stage:
        experiment = self.experiment
        config = self._answers(policy, name) | {
            "problems": experiment.report.probed_problems,
            "threshold": experiment.evaluation.primary_threshold,
        }
        members = self.decoder | {"benchmark": self.benchmarks[name], "careful": member("selector", "quota", "")}
        if name in PHRASES:
            members["phrases"] = PHRASES[name]
        inputs = {"policy": source, "data": data[name]}
        return self._stage("probe", f"{policy}/{slug(name)}", config, members, inputs, size=source.size)

    def _answers(self, policy: str, name: str) -> dict[str, Any]:
        """How a finished policy answers a benchmark's problems."""
        benchmark = self.experiment.benchmark(name)
        return {
            "decoding": self.experiment.decoding,
            "prompt": benchmark.prompt,
            "max_new_tokens": benchmark.max_new_tokens,
            "seed": self.experiment.seed,
            "policy": policy,
            "benchmark": name,
        }

    def collect(
        self,
        name: str,
        evaluated: list[Stage],
        trained: Mapping[str, Stage],
        measured: list[Stage],
        probed: list[Stage],
    ) -> Stage:
        """`ALL` but speeds, which are of the tables that need them alone; or what one of `NEEDS` asks for."""
        experiment = self.experiment
        policies = self.wanted.policies()
        inputs = {f"evaluate/{s.config['policy']}/{s.config['benchmark']}": s for s in evaluated}
        inputs |= {f"train/{run}": stage for run, stage in trained.items()}
        inputs |= {f"probe/{s.config['policy']}/{s.config['benchmark']}": s for s in probed}
        if name in NEEDS:
            need = NEEDS[name]
            policies = [policy for policy in policies if policy["published"] in need["rows"]]
            speeds = {f"speed/{s.config['policy']}/{s.config['benchmark']}": s for s in measured}
            names, asked = {policy["name"] for policy in policies}, set(need["benchmarks"])
            of = {"evaluations": "evaluate", "training": "train"}
            inputs = {
                role: stage
                for role, stage in inputs.items()
                if stage.kind in {of.get(part) for part in need["of"]}
                and (stage.config["policy"] if stage.kind == "evaluate" else stage.name) in names
                and (stage.config["benchmark"] if stage.kind == "evaluate" else stage.config["run"].benchmark) in asked
            }
            if "speed" in need["of"]:
                inputs |= {role: stage for role, stage in speeds.items() if stage.config["policy"] in names}
        config = {
            "experiment": experiment.experiment,
            "bootstrap": experiment.report.bootstrap,
            "primary_threshold": experiment.evaluation.primary_threshold,
            "seed": experiment.seed,
            "policies": policies,
            "benchmarks": list(self.benchmarks),
        }
        return self._stage("collect", slug(name), config, {}, inputs)

    def table(self, name: str, collect: Stage) -> Stage:
        members = {"table": member("table", name, "report.tables")}
        config = {"name": slug(name), "collected": collected("tables", name)}
        return self._stage("table", slug(name), config, members, {"collect": collect})

    def figure(self, name: str, collect: Stage) -> Stage:
        members = {"figure": member("figure", name, "report.figures")}
        config = {
            "name": slug(name),
            "collected": collected("figures", name),
            "plot": self.experiment.report.plot,
            "policies": [policy["name"] for policy in collect.config["policies"]],
        }
        return self._stage("figure", slug(name), config, members, {"collect": collect})

    def replay(self, run: Run, policies: Mapping[str, Stage], data: Mapping[str, Stage]) -> Stage:
        experiment, benchmark = self.experiment, self.experiment.benchmark(run.benchmark)
        config = {
            "base_name": run.base,
            "policy_name": run.name,
            "problems": experiment.report.replayed_problems,
            "threshold": experiment.evaluation.primary_threshold,
            "decoding": experiment.decoding,
            "prompt": benchmark.prompt,
            "max_new_tokens": benchmark.max_new_tokens,
        }
        members = self.decoder | {"benchmark": self.benchmarks[run.benchmark]}
        inputs = {"base": policies[run.base], "policy": policies[run.name], "data": data[run.benchmark]}
        return self._stage("replay", run.name, config, members, inputs, size=policies[run.name].size)

    def release(self, collect: Stage, drawn: list[Stage]) -> Stage:
        inputs = {stage.label: stage for stage in drawn}
        files = (*(f"{stage.kind}s/{file}" for stage in drawn for file in stage.files), *RELEASED)
        config = {kind + "s": [s.name for s in drawn if s.kind == kind] for kind in ("table", "figure", "replay")}
        pin = self.pins.get("release/release")
        inputs |= {"collect": collect}
        name, package = self.experiment.experiment, self.package
        return Stage(name, "release", "release", config, {}, inputs, files, pin=pin, package=package)

    def _stage(
        self,
        kind: str,
        name: str,
        config: dict[str, Any],
        members: dict[str, str],
        inputs: dict[str, Stage],
        judged: tuple[str, ...] = (),
        size: str = "",
    ) -> Stage:
        """judged: the benchmarks whose answers it judges."""
        experiment = self.experiment
        files = tuple(file.format(name=name) for file in files_of(experiment, kind))
        after = {f"selfcheck/{name}": self.checks[name] for name in sorted(judged)}
        is_open = has_checkpoint(experiment) and kind in OPEN
        return Stage(
            experiment.experiment, kind, name, config, members, _in_order(inputs), files, after, is_open, size,
            self.pins.get(f"{kind}/{name}"), self.package,
        )  # fmt: skip


def _in_order(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """By name: a stage sees no order that its key does not hold."""
    return dict(sorted(mapping.items()))


def _data(data: Mapping[str, Stage]) -> dict[str, Stage]:
    return {f"data/{name}": stage for name, stage in data.items()}
