"""The experiment: one YAML file, validated. Read it with `load`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from lightningrl.config.base import NAME, SIZE, Base, Checkpoint
from lightningrl.config.decoding import Decoding, Plugins
from lightningrl.config.machine import Code, Data, Resources, Sandbox
from lightningrl.config.model import Architecture, Pretrain, PretrainedBase
from lightningrl.config.reading import explain, read_tree
from lightningrl.config.registries import member, near
from lightningrl.config.report import Report
from lightningrl.config.section import Section
from lightningrl.config.systems import System, SystemEntry, one_each, systems_of
from lightningrl.config.tasks import Benchmark, Evaluation, Speed, Tokenizer
from lightningrl.config.train import PLUGINS, Run
from lightningrl.errors import ConfigError
from lightningrl.utils.registry import resolve


class Experiment(Section):
    """Everything an experiment is: `results/<experiment>/` holds what it makes."""

    experiment: str = Field(pattern=NAME)
    """Names the results folder."""
    seed: int = Field(0, ge=0, lt=2**31)
    """The key of all random draws: data, first weights, responses."""
    plugins: Plugins = []
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
    bases: list[PretrainedBase] = []
    """Further bases that are pre-trained here, of other families; with `model` and `pretrain`."""
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

    @field_validator("bases", mode="before")
    @classmethod
    def _as_the_base(cls, entries: Any, info: ValidationInfo) -> Any:
        if not isinstance(entries, list):
            return entries
        return PretrainedBase.over(entries, info.data.get("model"), info.data.get("pretrain"))

    @field_validator("runs", mode="wrap")
    @classmethod
    def _with_plugins(cls, runs: Any, validate: Callable[[Any], list[Run]], info: ValidationInfo) -> list[Run]:
        token = PLUGINS.set(info.data.get("plugins", ()))
        try:
            valid = validate(runs)
        finally:
            PLUGINS.reset(token)
        spread = {run.name for run in valid if run.seeds}
        return [each for run in valid for each in run.by_seed(spread)]

    @field_validator("systems")
    @classmethod
    def _one_each(cls, entries: list[SystemEntry]) -> list[SystemEntry]:
        return one_each(entries)

    @model_validator(mode="after")
    def _is_possible(self) -> Experiment:
        """Checks keys against each other, names first, so that a misspelt one is said before what refers to it."""
        for check in (
            self._one_base, self._names, self._thresholds, self._policies, self._rows, self._shown, self._series,
            self._pretraining,
        ):  # fmt: skip
            check()
        return self

    def _one_base(self) -> None:
        own = " and ".join(name for name in ("model", "pretrain") if getattr(self, name) is not None)
        found = " together with ".join(filter(None, ("base" if self.base else "", own)))
        if found not in ("base", "model and pretrain"):
            raise ValueError(
                f"found {found or 'neither `base` nor `model` and `pretrain`'}; expected `base` (a "
                "checkpoint that exists), or both `model` and `pretrain` (one that is pre-trained here). A file that "
                "extends another one takes a section away by setting it to null, like `model: null`"
            )

    def _names(self) -> None:
        for number, benchmark in enumerate(self.benchmarks):
            member("benchmark", benchmark.name, f"benchmarks.{number}.name", self.plugins)
        self.decoding.members("decoding.", self.plugins)
        for entry in self.systems:
            entry.decoding.members(f"systems.{entry.name}.decoding.", self.plugins)
            if entry.quantizer:
                member("quantizer", entry.quantizer.name, f"systems.{entry.name}.quantizer.name", self.plugins)
        jobs = resolve("lightningrl.pipeline.kinds:jobs_of")(self.plugins)
        sizes = {each.size_label for each in (self.base, *self.checkpoints) if each and each.size_label}
        for name in self.resources.jobs:
            rule, slash, size = name.partition("/")
            is_size = size in sizes or bool(SIZE.fullmatch(size))
            if rule not in jobs or (slash and not is_size):
                known = [*jobs, *(f"{job}/{each}" for job in jobs for each in sorted(sizes))]
                raise ValueError(
                    f"resources.jobs: found {name!r}, allowed: a rule or <rule>/<size of a model> (train/8b); rules "
                    f"that are jobs of a cluster: {', '.join(jobs)}; sizes of this experiment: "
                    f"{', '.join(sorted(sizes)) or 'none'}.{near(name, known)}"
                )

    def _thresholds(self) -> None:
        found = _numbered("evaluation.thresholds", self.evaluation.thresholds)
        if not self.decoding.compares_probabilities:
            found = {}
        for run in self.runs:
            if run.decoding.over(self.decoding).compares_probabilities:
                found[f"runs.{run.name}.threshold"] = run.threshold
                found |= _numbered(f"runs.{run.name}.rollout_thresholds", run.rollout_thresholds)
        for entry in self.systems:
            if entry.endpoint is None and entry.decoding.over(self.decoding).compares_probabilities:
                found |= _numbered(f"systems.{entry.name}.thresholds", entry.thresholds)
        for where, value in found.items():
            if not 0 < value <= 1:
                raise ValueError(f"{where}: a threshold is a probability within (0, 1], found {value}")
        _one_of("evaluation.primary_threshold", self.evaluation.primary_threshold, self.evaluation.thresholds)

    def _policies(self) -> None:
        benchmarks, runs = [each.name for each in self.benchmarks], [run.name for run in self.runs]
        if len(set(benchmarks)) != len(benchmarks):
            raise ValueError(f"benchmarks: two entries have one name, found {benchmarks}")
        pretrained = [each.name for each in self.bases]
        policies = ["base", *pretrained, *(each.name for each in self.checkpoints), *runs]
        if twice := [name for name in policies if policies.count(name) > 1]:
            told = f"two policies are named {twice[0]!r}, and `base` is the experiment's own"
            raise ValueError(f"runs, checkpoints, bases: {told}; found {policies}")
        bases = ["base", *pretrained, *(each.name for each in self.checkpoints if each.role == "before")]
        for checkpoint in self.checkpoints:
            where = f"checkpoints.{checkpoint.name}"
            if checkpoint.role == "released":
                _one_of(f"{where}.base", checkpoint.base, bases)
            elif checkpoint.base is not None:
                raise ValueError(f"{where}.base: found {checkpoint.base!r}, but with role `before` it is a base itself")
            self._evaluated(where, checkpoint.evaluate_on)
        for run in self.runs:
            where = f"runs.{run.name}"
            earlier = runs[: runs.index(run.name)]
            _one_of(f"{where}.base", run.base, [*bases, *earlier], " (base policies, and the runs listed before it)")
            _one_of(f"{where}.benchmark", run.benchmark, benchmarks)
            self._evaluated(where, run.evaluate_on)
            for split in ("train", "validation"):
                if getattr(self.benchmark(run.benchmark), split) == 0:
                    told = "a run trains on its train problems and chooses its checkpoint on its validation problems"
                    raise ValueError(f"{where}.benchmark: {run.benchmark} has `{split}: 0`, but {told}")
            if run.updates > run.prompts:
                told = f"at most its prompts ({run.prompts}), which are divided among them"
                raise ValueError(f"{where}.updates: found {run.updates}, allowed: {told}")
            if run.match_compute is None:
                continue
            _one_of(f"{where}.match_compute", run.match_compute, [name for name in runs if name != run.name])
        self.runs_in_order()  # raises where two wait for each other
        _each_once("speed.benchmarks", self.speed.benchmarks, [each.name for each in self.benchmarks if each.test != 0])

    def _evaluated(self, where: str, names: list[str] | None) -> None:
        """Raises ValueError unless these are benchmarks with problems of the split that is evaluated."""
        _each_once(f"{where}.evaluate_on", names or [], [benchmark.name for benchmark in self.benchmarks])
        split = self.evaluation.split
        for name in names or []:
            if getattr(self.benchmark(name), split) == 0:
                raise ValueError(f"{where}.evaluate_on: {name} has `{split}: 0`, so nothing is evaluated on it")

    def _rows(self) -> None:
        self.all_systems()  # raises for entries that cannot be
        trainable = [benchmark.name for benchmark in self.benchmarks if benchmark.train != 0]
        for entry in self.systems:
            self._evaluated(f"systems.{entry.name}", entry.evaluate_on)
            if entry.quantizer and entry.quantizer.calibration and entry.quantizer.calibration.benchmark:
                where = f"systems.{entry.name}.quantizer.calibration.benchmark"
                _one_of(where, entry.quantizer.calibration.benchmark, trainable, " of those with train problems")

    def _shown(self) -> None:
        """What tables, figures, replays and probes need is there."""
        report, systems = self.report, {system.name: system for system in self.all_systems()}
        _each_once("report.tables", report.tables, report.tables)
        _each_once("report.figures", report.figures, report.figures)
        trained = {name: system.trained_on for name, system in systems.items() if system.trained_on is not None}
        tested = {name: self.benchmark(benchmark).test for name, benchmark in trained.items()}
        _each_once("report.replays", report.replays, [name for name, count in tested.items() if count != 0])
        for name in report.replays:
            if (count := tested[name]) is not None and count < report.replayed_problems:
                told = f"but {name}'s benchmark has {count} test problems"
                raise ValueError(f"report.replayed_problems: found {report.replayed_problems}, {told}")
        probed = self.probed()
        _each_once("report.probes", probed, [name for name, each in systems.items() if each.endpoint is None])
        if report.probes and not (trained.keys() & set(probed) or any(b.validation != 0 for b in self.benchmarks)):
            found = ", ".join(report.probes)
            raise ValueError(
                f"report.probes: found only {found}; name a run beside it, whose benchmark it is probed on, or give a "
                "benchmark validation problems"
            )
        inputs, roles = (resolve(f"lightningrl.report.registry:{name}") for name in ("INPUTS", "ROLES"))
        shown = [(name, inputs["figures"].get(name, ())) for name in report.figures]
        shown += [(name, inputs["tables"].get(name, ())) for name in report.tables]
        if not report.probes and (names := [name for name, tables in shown if "probes" in tables]):
            raise ValueError(f"report: {names} show what `report.probes` found, which names no policy")
        names = [name for name, tables in shown if "curves" in tables]
        if names and not any(run.implementation.rolls_out for run in self.runs):
            raise ValueError(f"report.figures: {names} need a reinforcement-learning run, runs has none")
        for name in report.figures:
            if (role := roles.get(name)) and all(run.role != role for run in self.runs):
                raise ValueError(f"report.figures: `{name}` shows runs with the role `{role}`, runs has none")

    def _series(self) -> None:
        alone = ["base", *(each.name for each in (*self.bases, *self.checkpoints))]
        alone += [run.name for run in self.runs if not run.series]
        series: dict[str, list[Run]] = {}
        for run in self.runs:
            if run.series:
                series.setdefault(run.series, []).append(run)
        for name, (first, *others) in series.items():
            seeds = [run.seed for run in (first, *others)]
            if name in alone:
                raise ValueError(f"runs.{first.name}: a series is called {name!r}, and so is a policy outside it")
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"runs: two of the series {name!r} have the same seed, {seeds}")
            for run, key in ((run, key) for run in others for key in Run.model_fields):
                one, other = getattr(first, key), getattr(run, key)
                if key == "base":  # runs of one series, each by its own seed
                    one, other = (next((r.series or base for r in self.runs if r.name == base), base)
                                  for base in (one, other))  # fmt: skip
                if key not in ("name", "seed", "match_compute") and one != other:
                    told = f"but {one!r} in {first.name}; runs of a series differ in their seeds only"
                    raise ValueError(f"runs.{run.name}.{key}: found {other!r}, {told}")

    def _pretraining(self) -> None:
        if self.model is None or self.pretrain is None:
            if self.bases:
                raise ValueError("bases: found some, but no `model` and `pretrain` beside which they are trained")
            return
        rows = {system.name: system for system in self.all_systems()}
        self._pretrained("", self.model, self.pretrain, {each.name: each.max_new_tokens for each in self.benchmarks})
        for number, each in enumerate(self.bases):
            where = f"bases.{each.name}."
            member("family", each.family, f"{where}family", self.plugins)
            if each.match_compute is not None:
                earlier = ["base", *(other.name for other in self.bases[:number])]
                _one_of(f"{where}match_compute", each.match_compute, earlier)
            lengths = {benchmark.name: rows[each.name].longest(benchmark) for benchmark in self.benchmarks}
            self._pretrained(where, each.model, each.pretrain, lengths)

    def _pretrained(self, where: str, model: Architecture, pretrain: Pretrain, lengths: dict[str, int]) -> None:
        """lengths: of the longest answer that it learns to give on each benchmark, in tokens."""
        for name, phase in pretrain.phases.items():
            member("objective", phase.objective, f"{where}pretrain.{name}.objective", self.plugins)
        mixture = pretrain.mixture
        if unknown := sorted(set(mixture) - {benchmark.name for benchmark in self.benchmarks}):
            raise ValueError(f"{where}pretrain.mixture: {unknown} are not among the benchmarks")
        if mixture and not sum(mixture.values()) > 0:
            raise ValueError(f"{where}pretrain.mixture: the shares must add up to more than 0, found {mixture}")
        for name, length in lengths.items():
            needed, limit = length + model.block_size, model.max_position_embeddings
            if needed > limit:
                told = f"{name} alone needs more than {needed} (max_new_tokens and a block, the prompt aside)"
                raise ValueError(f"{where}model.max_position_embeddings: found {limit}; {told}")

    def benchmark(self, name: str) -> Benchmark:
        return next(benchmark for benchmark in self.benchmarks if benchmark.name == name)

    def origin(self, policy: str) -> str:
        """Returns the base or checkpoint from which a policy's training began, through all runs between; or itself."""
        bases = {run.name: run.base for run in self.runs}
        return self.origin(bases[policy]) if policy in bases else policy

    def earlier_runs(self, run: Run) -> list[Run]:
        """Returns the runs through which a run's base came to be, the last one first."""
        found = [each for each in self.runs if each.name == run.base]
        return [*found, *self.earlier_runs(found[0])] if found else []

    def runs_in_order(self) -> list[Run]:
        """Returns the runs, each behind those whose weights or compute it asks for; else those that match last.

        Raises ValueError where two wait for each other.
        """
        runs, found = {run.name: run for run in self.runs}, dict[str, Run]()

        def add(run: Run, waiting: tuple[str, ...]) -> None:
            if run.name in waiting:
                through = " and ".join(waiting[waiting.index(run.name) + 1 :])
                raise ValueError(
                    f"runs.{run.name}: it waits for itself, through {through}; a run cannot match the compute of one "
                    "that begins from it"
                )
            for name in (run.base, run.match_compute):
                if name in runs and name not in found:
                    add(runs[name], (*waiting, run.name))
            found[run.name] = run

        for run in sorted(self.runs, key=lambda run: run.match_compute is not None):
            if run.name not in found:
                add(run, ())
        return list(found.values())

    def base_named(self, name: str) -> Base | None:
        """The checkpoint behind a policy, that of a run's origin; None: a base that is pre-trained here."""
        name = self.origin(name)
        if name == "base":
            return self.base
        if any(each.name == name for each in self.bases):
            return None
        return next(checkpoint for checkpoint in self.checkpoints if checkpoint.name == name)

    def all_systems(self) -> list[System]:
        """Returns the rows of the experiment's tables: a system for each policy, and those that `systems` adds."""
        return systems_of(self)

    def probed(self) -> list[str]:
        """Returns the systems that `report.probes` names; all but servers where that is `*`."""
        known = [system.name for system in self.all_systems() if system.endpoint is None]
        return known if self.report.probes == ["*"] else self.report.probes

    def run(self, name: str) -> Run:
        return next(run for run in self.runs if run.name == name)


def _numbered(where: str, values: list[float]) -> dict[str, float]:
    return {f"{where}.{number}": value for number, value in enumerate(values)}


def _one_of(where: str, found: object, allowed: Collection[object], which: str = "") -> None:
    if found not in allowed:
        meant = near(found, map(str, allowed)) if isinstance(found, str) else ""
        raise ValueError(f"{where}: found {found!r}, allowed: one of {list(allowed)}{which}.{meant}")


def _each_once(where: str, found: list[str], allowed: Iterable[str]) -> None:
    allowed = list(allowed)
    for number, name in enumerate(found):
        if name not in allowed:
            raise ValueError(f"{where}.{number}: found {name!r}, allowed: each of {allowed} once.{near(name, allowed)}")
        if name in found[:number]:
            raise ValueError(f"{where}.{number}: {name!r} is listed twice, here and at {found.index(name)}; keep one")


def load(path: Path | str) -> Experiment:
    """Read and validate an experiment.

    `extends: other.yaml` (relative to the file) is read first; mappings merge, everything else is replaced.
    Raises ConfigError naming the file, the key's path, what was found and what is allowed.
    """
    path = Path(path)
    tree = read_tree(path)
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        mistakes = explain(error, Experiment)
    except ConfigError as error:
        mistakes = [f"  {error}"]
    raise ConfigError(f"{path} is not a valid experiment:\n" + "\n".join(mistakes))
