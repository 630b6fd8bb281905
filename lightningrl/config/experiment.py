"""The experiment: one YAML file, validated. Read it with `load`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from lightningrl.config.base import NAME, Base, Checkpoint
from lightningrl.config.code import Code
from lightningrl.config.data import Data
from lightningrl.config.model import Architecture, Pretrain
from lightningrl.config.reading import explain, read_tree
from lightningrl.config.reading import files_of as files_of
from lightningrl.config.registries import member
from lightningrl.config.report import Report, Resources
from lightningrl.config.sandbox import Sandbox
from lightningrl.config.section import Section
from lightningrl.config.speed import Speed
from lightningrl.config.systems import System, SystemEntry, systems_of
from lightningrl.config.tasks import Benchmark, Decoding, Evaluation, Tokenizer
from lightningrl.config.train import PLUGINS, Run
from lightningrl.errors import ConfigError
from lightningrl.utils.registry import resolve


class Experiment(Section):
    """Everything an experiment is: `results/<experiment>/` holds what it makes."""

    experiment: str = Field(pattern=NAME)
    """Names the results folder."""
    seed: int = Field(0, ge=0, lt=2**31)
    """The key of all random draws: data, first weights, responses."""
    plugins: list[str] = []
    """Modules of other packages that add names to the registries, by their attribute `MEMBERS`: a mapping of kinds
    (`selector`, `benchmark`, `quantizer`, ..., and `stage` for kinds of stages) to mappings of names to
    `module:attribute`."""
    benchmarks: list[Benchmark] = Field(min_length=1)
    data: Data = Data()
    tokenizer: Tokenizer = Tokenizer()
    base: Base | None = None
    """A checkpoint to start from, in place of `model` and `pretrain`."""
    checkpoints: list[Checkpoint] = []
    """Further policies that exist already: other sizes to train from, weights that others have released."""
    model: Architecture | None = None
    """Shape of the base that is pre-trained here; with `pretrain`."""
    pretrain: Pretrain | None = None
    """Its training; with `model`."""
    decoding: Decoding = Decoding()
    evaluation: Evaluation
    speed: Speed = Speed()
    runs: list[Run] = []
    systems: list[SystemEntry] = []
    """Rows of the tables beside, or in place of, a row for each policy: other decoders, quantised weights."""
    report: Report = Report()
    resources: Resources = Resources()
    sandbox: Sandbox = Sandbox()
    code: Code = Code()

    @field_validator("runs", mode="wrap")
    @classmethod
    def _with_plugins(cls, runs: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> list[Run]:
        token = PLUGINS.set(info.data.get("plugins", ()))
        try:
            return validate(runs)
        finally:
            PLUGINS.reset(token)

    @field_validator("runs")
    @classmethod
    def _by_seed(cls, runs: list[Run]) -> list[Run]:
        spread = {run.name for run in runs if run.seeds}
        return [each for run in runs for each in run.by_seed(spread)]

    @model_validator(mode="after")
    def _one_base(self) -> Experiment:
        own = [name for name in ("model", "pretrain") if getattr(self, name) is not None]
        if self.base is not None and own:
            raise ValueError(
                f"base: found together with {' and '.join(own)}; the base policy is either a checkpoint (`base`) or "
                "pre-trained here (`model` and `pretrain`). A file that extends another one takes a section away by "
                f"setting it to null ({', '.join(f'{name}: null' for name in own)})"
            )
        if self.base is None and len(own) < 2:
            raise ValueError(
                f"found {' and '.join(own) or 'neither `base` nor `model` and `pretrain`'}; expected `base` (a "
                "checkpoint that exists), or both `model` and `pretrain` (one that is pre-trained here)"
            )
        return self

    @model_validator(mode="after")
    def _known_benchmarks(self) -> Experiment:
        """First, so that a misspelt name is said before what refers to it."""
        for number, benchmark in enumerate(self.benchmarks):
            try:
                member("benchmark", benchmark.name, f"benchmarks.{number}.name", self.plugins)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _jobs(self) -> Experiment:
        """Checks that `resources.jobs` names kinds of stages that are jobs of a cluster, those of plug-ins included."""
        try:
            jobs = resolve("lightningrl.pipeline.kinds:jobs_of")(self.plugins)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        for name in self.resources.jobs:
            if name.partition("/")[0] not in jobs:
                raise ValueError(
                    f"resources.jobs: found {name!r}, allowed: a rule or <rule>/<size of a model>, where the rule is "
                    f"one of {', '.join(jobs)}; the others are not jobs of a cluster"
                )
        return self

    @model_validator(mode="after")
    def _thresholds(self) -> Experiment:
        found: dict[str, float] = {}
        if self.decoding.compares_probabilities:
            found |= {f"evaluation.thresholds.{i}": value for i, value in enumerate(self.evaluation.thresholds)}
            for run in self.runs:
                mixture = {f"rollout_thresholds.{i}": value for i, value in enumerate(run.rollout_thresholds)}
                found |= {
                    f"runs.{run.name}.{key}": value for key, value in ({"threshold": run.threshold} | mixture).items()
                }
        for entry in self.systems:
            if entry.decoding.over(self.decoding).compares_probabilities:
                found |= {f"systems.{entry.name}.thresholds.{i}": value for i, value in enumerate(entry.thresholds)}
        for where, value in found.items():
            if not 0 < value < 1:
                raise ValueError(f"{where}: a threshold is a probability within (0, 1), found {value}")
        return self

    @model_validator(mode="after")
    def _references(self) -> Experiment:
        benchmarks = [benchmark.name for benchmark in self.benchmarks]
        runs = [run.name for run in self.runs]
        policies = ["base", *(checkpoint.name for checkpoint in self.checkpoints), *runs]
        if len(set(benchmarks)) != len(benchmarks):
            raise ValueError(f"benchmarks: two entries have one name, found {benchmarks}")
        for name in policies:
            if policies.count(name) > 1:
                raise ValueError(
                    f"runs, checkpoints: two policies are named {name!r}, and `base` is the experiment's own; found "
                    f"{policies}"
                )
        bases = ["base", *(checkpoint.name for checkpoint in self.checkpoints if checkpoint.role == "before")]
        for checkpoint in self.checkpoints:
            where = f"checkpoints.{checkpoint.name}"
            if checkpoint.role == "before" and checkpoint.base is not None:
                raise ValueError(f"{where}.base: found {checkpoint.base!r}, but with role `before` it is a base itself")
            if checkpoint.role == "released" and checkpoint.base not in bases:
                raise ValueError(f"{where}.base: found {checkpoint.base!r}, allowed: one of {bases}")
            self._evaluated(where, checkpoint.evaluate_on or [])
        for run in self.runs:
            if run.base not in bases:
                raise ValueError(f"runs.{run.name}.base: found {run.base!r}, allowed: one of {bases}")
            if run.benchmark not in benchmarks:
                raise ValueError(f"runs.{run.name}.benchmark: found {run.benchmark!r}, allowed: {benchmarks}")
            problems = self.benchmark(run.benchmark)
            for split in ("train", "validation"):
                if getattr(problems, split) == 0:
                    raise ValueError(
                        f"runs.{run.name}.benchmark: {run.benchmark} has `{split}: 0`, but a run trains on its train "
                        "problems and chooses its checkpoint on its validation problems"
                    )
            self._evaluated(f"runs.{run.name}", run.evaluate_on)
            matched = run.match_compute
            if matched is not None and (matched not in runs or matched == run.name):
                raise ValueError(f"runs.{run.name}.match_compute: found {matched!r}, allowed: another of {runs}")
            if matched is not None and self.run(matched).match_compute is not None:
                raise ValueError(f"runs.{run.name}.match_compute: {matched!r} itself matches another run")
        for number, name in enumerate(self.speed.benchmarks):
            if name not in benchmarks or self.benchmark(name).test == 0:
                raise ValueError(
                    f"speed.benchmarks.{number}: found {name!r}, allowed: those of {benchmarks} with test problems"
                )
        if self.evaluation.primary_threshold not in self.evaluation.thresholds:
            raise ValueError(
                f"evaluation.primary_threshold: found {self.evaluation.primary_threshold}, "
                f"allowed: one of evaluation.thresholds {self.evaluation.thresholds}"
            )
        return self

    def _evaluated(self, where: str, names: list[str]) -> None:
        """ValueError unless these are benchmarks with problems of the split that is evaluated."""
        benchmarks = [benchmark.name for benchmark in self.benchmarks]
        for number, name in enumerate(names):
            if name not in benchmarks or name in names[:number]:
                raise ValueError(f"{where}.evaluate_on.{number}: found {name!r}, allowed: each of {benchmarks} once")
            split = self.evaluation.split
            if getattr(self.benchmark(name), split) == 0:
                raise ValueError(
                    f"{where}.evaluate_on.{number}: {name} has `{split}: 0`, so nothing is evaluated on it"
                )

    @model_validator(mode="after")
    def _rows(self) -> Experiment:
        for system in self.all_systems():  # raises for entries that cannot be
            if system.where.startswith("systems."):
                self._evaluated(system.where.removesuffix(".decoding"), system.evaluate_on or [])
        trainable = [benchmark.name for benchmark in self.benchmarks if benchmark.train != 0]
        for entry in self.systems:
            calibration = entry.quantizer and entry.quantizer.calibration
            if calibration and calibration.benchmark not in trainable:
                raise ValueError(
                    f"systems.{entry.name}.quantizer.calibration.benchmark: found {calibration.benchmark!r}, allowed: "
                    f"those of the experiment's benchmarks with train problems, {trainable}"
                )
        return self

    @model_validator(mode="after")
    def _roles(self) -> Experiment:
        for run in self.runs:
            if run.match_compute is not None and run.implementation.rolls_out:
                raise ValueError(
                    f"runs.{run.name}.match_compute: {run.algorithm} runs its steps; only a control spends it"
                )
        systems = {system.name: system for system in self.all_systems()}
        trained = {name: system.trained_on for name, system in systems.items() if system.trained_on is not None}
        names = [name for name, benchmark in trained.items() if self.benchmark(benchmark).test != 0]
        for number, name in enumerate(self.report.replays):
            if name not in names or name in self.report.replays[:number]:
                raise ValueError(f"report.replays.{number}: found {name!r}, allowed: each of {names} once")
            tested = self.benchmark(trained[name]).test
            if tested is not None and tested < self.report.replayed_problems:
                raise ValueError(
                    f"report.replayed_problems: found {self.report.replayed_problems}, but {name}'s benchmark has "
                    f"{tested} test problems"
                )
        needs = {"reliability", "together"} & set(self.report.figures) | {"phrasing"} & set(self.report.tables)
        if needs and not self.report.probes:
            raise ValueError(f"report: {sorted(needs)} show what `report.probes` found, which names no policy")
        if "ablations" in self.report.figures and all(run.role != "ablation" for run in self.runs):
            raise ValueError("report.figures: `ablations` shows runs with the role `ablation`, runs has none")
        probed = self.report.probes
        for number, name in enumerate(probed):
            if name not in systems or name in probed[:number]:
                raise ValueError(f"report.probes.{number}: found {name!r}, allowed: each of {list(systems)} once")
        if probed and not trained.keys() & set(probed):
            found = ", ".join(f"`{name}`" for name in probed)
            raise ValueError(
                f"report.probes: found only {found}; name a run beside it, whose benchmark it is probed on"
            )
        curves = {"rewards", "collapse"} & set(self.report.figures)
        if curves and not any(run.implementation.rolls_out for run in self.runs):
            raise ValueError(f"report.figures: {sorted(curves)} need a reinforcement-learning run, runs has none")
        return self

    @model_validator(mode="after")
    def _series(self) -> Experiment:
        alone = ["base", *(each.name for each in self.checkpoints), *(run.name for run in self.runs if not run.series)]
        for series in dict.fromkeys(run.series for run in self.runs if run.series):
            runs = [run for run in self.runs if run.series == series]
            if series in alone:
                raise ValueError(f"runs.{runs[0].name}: a series is called {series!r}, and so is a policy outside it")
            if len({run.seed for run in runs}) < len(runs):
                raise ValueError(f"runs: two of the series {series!r} have the same seed, {[r.seed for r in runs]}")
            for run in runs[1:]:
                for key in Run.model_fields:
                    one, other = getattr(runs[0], key), getattr(run, key)
                    if key not in ("name", "seed", "match_compute") and one != other:
                        raise ValueError(
                            f"runs.{run.name}.{key}: found {other!r}, but {one!r} in {runs[0].name}; runs of a series "
                            "differ in their seeds only"
                        )
        return self

    @model_validator(mode="after")
    def _sizes(self) -> Experiment:
        for run in self.runs:
            if run.updates > run.prompts:
                raise ValueError(
                    f"runs.{run.name}.updates: found {run.updates}, allowed: at most its prompts "
                    f"({run.prompts}), which are divided among them"
                )
        return self

    @model_validator(mode="after")
    def _pretraining(self) -> Experiment:
        if self.model is None or self.pretrain is None:
            return self
        mixture = self.pretrain.mixture
        unknown = sorted(set(mixture) - {benchmark.name for benchmark in self.benchmarks})
        if unknown:
            raise ValueError(f"pretrain.mixture: {unknown} are not among the benchmarks")
        if mixture and not sum(mixture.values()) > 0:
            raise ValueError(f"pretrain.mixture: the shares must add up to more than 0, found {mixture}")
        for benchmark in self.benchmarks:
            needed, limit = benchmark.max_new_tokens + self.model.block_size, self.model.max_position_embeddings
            if needed > limit:
                raise ValueError(
                    f"model.max_position_embeddings: found {limit}; {benchmark.name} alone needs more than {needed} "
                    "(max_new_tokens and a block, the prompt aside)"
                )
        return self

    def benchmark(self, name: str) -> Benchmark:
        return next(benchmark for benchmark in self.benchmarks if benchmark.name == name)

    def base_named(self, name: str) -> Base | None:
        """The checkpoint behind `base` or a name of `checkpoints`; None: the base that is pre-trained here."""
        if name == "base":
            return self.base
        return next(checkpoint for checkpoint in self.checkpoints if checkpoint.name == name)

    def all_systems(self) -> list[System]:
        """Returns the rows of the experiment's tables: a system for each policy, and those that `systems` adds."""
        return systems_of(self)

    def run(self, name: str) -> Run:
        return next(run for run in self.runs if run.name == name)


def load(path: Path | str) -> Experiment:
    """Read and validate an experiment.

    `extends: other.yaml` (relative to the file) is read first; mappings merge, everything else is replaced.
    Raises ConfigError naming the file, the key's path, what was found and what is allowed.
    """
    path = Path(path)
    try:
        return Experiment.model_validate(read_tree(path))
    except ValidationError as error:
        raise ConfigError(f"{path} is not a valid experiment:\n" + "\n".join(explain(error, Experiment))) from None
