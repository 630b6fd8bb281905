"""From an experiment to its stages: the DAG, as a pure function of the config and the sources.

What each stage finds in its context's `config`, beside `members`:

- data/<benchmark>: benchmark (name and sizes), seed
- selfcheck/<benchmark>: benchmark (its name)
- tokenizer/tokenizer: tokenizer
- pretrain/base: model, pretrain, decoding, seed, primary_threshold, max_new_tokens {benchmark: n}
- checkpoint/base (instead of the two before, where the config says `base`): base
- train/<run>: run, decoding, seed, max_new_tokens, prompt
- evaluate/<policy>/<benchmark>: evaluation (samples, temperature, shard), sweep (thresholds), decoding, prompt,
  max_new_tokens, seed, policy, benchmark
- collect/frontier: experiment, bootstrap, primary_threshold, seed, benchmarks,
  policies [{name, role, algorithm, benchmark}]
- table/<name>, figure/<name>: name, collected (the table it is made of); figures also plot, policies
- release/release: tables, figures

What judges a benchmark's answers runs after that benchmark's selfcheck, which is not part of its key.

No torch, and no file but sources and the config is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightningrl.config.experiment import Experiment
from lightningrl.config.train import Run
from lightningrl.errors import ConfigError, StageError
from lightningrl.provenance.members import check_problems, collected, has, judge_of, member
from lightningrl.provenance.pin import read_pins
from lightningrl.provenance.stage import Stage

KINDS = (
    "data", "selfcheck", "tokenizer", "pretrain", "checkpoint", "train", "evaluate", "collect", "table", "figure",
    "release",
)  # fmt: skip
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
CHECKPOINT = ("config.json", "model.safetensors", *TOKENIZER, "metrics.jsonl")
FILES: Mapping[str, tuple[str, ...]] = {
    "data": ("train.jsonl", "validation.jsonl", "test.jsonl", "sources.json"),
    "selfcheck": ("selfcheck.json",),
    "tokenizer": TOKENIZER,
    "pretrain": CHECKPOINT,
    "checkpoint": ("config.json", "tokenizer_config.json", "checkpoint.json"),
    "train": (*CHECKPOINT, "selection.json", "samples.jsonl", "samples.md"),
    "evaluate": ("records.jsonl", "summary.json"),
    "collect": ("frontier.csv", "headline.csv", "curves.csv", "steps.csv"),
    "table": ("{name}.csv", "{name}.md", "{name}.tex"),
    "figure": ("{name}.pdf", "{name}.png", "{name}.csv"),
}
"""Final files of each kind, the manifest aside; a release's depend on what it holds."""
OPEN: Mapping[str, tuple[str, ...]] = {
    "checkpoint": FILES["checkpoint"],
    "train": ("config.json", "tokenizer_config.json", "metrics.jsonl", "selection.json"),
}
"""Those that are sure where the base is a checkpoint: how many files its weights and its tokenizer are, it says itself.
The others are in the manifest."""


@dataclass(frozen=True)
class Plan:
    """All stages of one experiment, upstream first."""

    experiment: Experiment
    stages: tuple[Stage, ...]
    pins: Mapping[str, str] = field(default_factory=dict)
    """`<kind>/<name>` -> the digest that its key has in place of today's code, as the pin file says."""

    @property
    def unused_pins(self) -> list[str]:
        """Pins of stages that the experiment does not have."""
        return sorted(set(self.pins) - {f"{stage.kind}/{stage.name}" for stage in self.stages})

    def patterns(self, kind: str) -> tuple[str, ...]:
        """Final files that every stage of a kind has, `{name}` standing for its name; the manifest aside."""
        return files_of(self.experiment, kind)

    def stage(self, kind: str, name: str) -> Stage:
        """Raises StageError listing the names there are."""
        for stage in self.stages:
            if (stage.kind, stage.name) == (kind, name):
                return stage
        names = [stage.name for stage in self.stages if stage.kind == kind]
        raise StageError(f"the experiment has no {kind} stage {name!r}. It has: {', '.join(names) or 'none'}")

    def of(self, kind: str) -> list[Stage]:
        return [stage for stage in self.stages if stage.kind == kind]

    @property
    def release(self) -> Stage:
        return self.stages[-1]

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)


def files_of(experiment: Experiment, kind: str) -> tuple[str, ...]:
    """The final files of a kind that can be known before it runs."""
    return OPEN[kind] if experiment.base is not None and kind in OPEN else FILES[kind]


def plan(experiment: Experiment) -> Plan:
    """The stages of an experiment. Raises ConfigError for a name that no registry has."""
    planner = _Planner(experiment)
    stages = tuple(planner.stages())
    for stage in stages:
        _ = stage.key  # now, so that the whole plan is of one state of the sources
    names = [(stage.kind, stage.name) for stage in stages]
    for kind, name in names:
        if names.count((kind, name)) > 1:
            raise ConfigError(f"two {kind} stages would be named {name!r}; give one of them another name")
    return Plan(experiment, stages, planner.pins)


def slug(name: str) -> str:
    """A registry name as it is, a `module:attribute` as something that can be part of a path."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")


class _Planner:
    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.pins = read_pins(experiment)
        self.benchmarks = {b.name: member("benchmark", b.name, "benchmarks.name") for b in experiment.benchmarks}
        self.checks: dict[str, Stage] = {}
        self.judges = {name: judge_of(reference) for name, reference in self.benchmarks.items()}
        for benchmark in experiment.benchmarks:
            check_problems(self.benchmarks[benchmark.name], benchmark)
        for run in experiment.runs:
            if run.benchmark not in self.having("train", "validation"):
                raise ConfigError(
                    f"runs.{run.name}.benchmark: {run.benchmark} has no train or no validation problems; a run trains "
                    "on the ones and chooses its checkpoint on the others"
                )
        self.decoder = {
            piece: member(piece, getattr(experiment.decoding, piece), f"decoding.{piece}")
            for piece in ("selector", "ranking", "scope", "cache", "stop")
        }

    def stages(self) -> Iterator[Stage]:
        data = {name: self.data(name) for name in self.benchmarks}
        yield from data.values()
        self.checks = {name: self.selfcheck(name, stage) for name, stage in data.items()}
        yield from self.checks.values()
        made = list(self.base(data))
        yield from made
        base = made[-1]
        trained: dict[str, Stage] = {}
        for run in sorted(self.experiment.runs, key=lambda run: run.match_compute is not None):  # the matched first
            trained[run.name] = self.train(run, data, base, trained)
        yield from trained.values()
        tested = self.having("test")
        evaluated = [self.evaluate("base", base, name, data) for name in tested]
        for run in self.experiment.runs:
            for name in run.evaluate_on or [run.benchmark]:
                if name in tested:
                    evaluated.append(self.evaluate(run.name, trained[run.name], name, data))
        yield from evaluated
        collect = self.collect(evaluated, trained)
        yield collect
        drawn = [self.table(name, collect) for name in self.experiment.report.tables]
        drawn += [self.figure(name, collect) for name in self.experiment.report.figures]
        yield from drawn
        yield self.release(collect, drawn)

    def having(self, *splits: str) -> list[str]:
        """The benchmarks with problems of all these splits, in the experiment's order."""
        return [
            b.name
            for b in self.experiment.benchmarks
            if all(has(self.benchmarks[b.name], b, split) for split in splits)
        ]

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
            yield self._stage("checkpoint", "base", {"base": self.experiment.base}, {}, {})
            return
        learned = {name: data[name] for name in self.having("train", "validation")}
        if not learned:
            raise ConfigError("benchmarks: none has both train and validation problems, so there is nothing to learn")
        tokenizer = self.tokenizer(learned)
        yield tokenizer
        yield self.pretrain(learned, tokenizer)

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
        return self._stage("train", run.name, config, members, inputs, judged=(run.benchmark,))

    def evaluate(self, policy: str, source: Stage, name: str, data: Mapping[str, Stage]) -> Stage:
        evaluation, benchmark = self.experiment.evaluation, self.experiment.benchmark(name)
        config = {
            "evaluation": evaluation.model_dump(mode="json", exclude={"thresholds", "primary_threshold"}),
            "sweep": {"thresholds": evaluation.thresholds},
            "decoding": self.experiment.decoding,
            "prompt": benchmark.prompt,
            "max_new_tokens": benchmark.max_new_tokens,
            "seed": self.experiment.seed,
            "policy": policy,
            "benchmark": name,
        }
        members = self.decoder | {"benchmark": self.benchmarks[name], "judge": self.judges[name]}
        inputs = {"policy": source, "data": data[name]}
        return self._stage("evaluate", f"{policy}/{slug(name)}", config, members, inputs, judged=(name,))

    def collect(self, evaluated: list[Stage], trained: Mapping[str, Stage]) -> Stage:
        experiment = self.experiment
        selector = experiment.decoding.selector
        policies: list[dict[str, Any]] = [{"name": "base", "role": "before", "algorithm": selector, "benchmark": None}]
        for run in experiment.runs:
            policies.append(run.model_dump(mode="json", include={"name", "role", "algorithm", "benchmark"}))
        config = {
            "experiment": experiment.experiment,
            "bootstrap": experiment.report.bootstrap,
            "primary_threshold": experiment.evaluation.primary_threshold,
            "seed": experiment.seed,
            "policies": policies,
            "benchmarks": list(self.benchmarks),
        }
        inputs = {f"evaluate/{s.config['policy']}/{s.config['benchmark']}": s for s in evaluated}
        inputs |= {f"train/{name}": stage for name, stage in trained.items()}
        return self._stage("collect", "frontier", config, {}, inputs)

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
            "policies": ["base", *(run.name for run in self.experiment.runs)],
        }
        return self._stage("figure", slug(name), config, members, {"collect": collect})

    def release(self, collect: Stage, drawn: list[Stage]) -> Stage:
        inputs = {f"{stage.kind}/{stage.name}": stage for stage in drawn}
        files = tuple(f"{stage.kind}s/{file}" for stage in drawn for file in stage.files)
        config = {kind + "s": [s.name for s in drawn if s.kind == kind] for kind in ("table", "figure")}
        pin = self.pins.get("release/release")
        inputs |= {"collect": collect}
        return Stage(self.experiment.experiment, "release", "release", config, {}, inputs, files, pin=pin)

    def _stage(
        self,
        kind: str,
        name: str,
        config: dict[str, Any],
        members: dict[str, str],
        inputs: dict[str, Stage],
        judged: tuple[str, ...] = (),
    ) -> Stage:
        """judged: the benchmarks whose answers it judges."""
        experiment = self.experiment
        files = tuple(file.format(name=name) for file in files_of(experiment, kind))
        after = {f"selfcheck/{name}": self.checks[name] for name in sorted(judged)}
        is_open = experiment.base is not None and kind in OPEN
        pin = self.pins.get(f"{kind}/{name}")
        return Stage(experiment.experiment, kind, name, config, members, _in_order(inputs), files, after, is_open, pin)


def _in_order(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """By name: a stage sees no order that its key does not hold."""
    return dict(sorted(mapping.items()))


def _data(data: Mapping[str, Stage]) -> dict[str, Stage]:
    return {f"data/{name}": stage for name, stage in data.items()}
