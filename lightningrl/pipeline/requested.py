"""What an experiment asks for: on what each system is evaluated, measured and probed; what is collected."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from lightningrl.benchmarks.choices import is_choice
from lightningrl.benchmarks.protocol import SPLITS
from lightningrl.config.experiment import Experiment
from lightningrl.config.report import Plot
from lightningrl.config.systems import System
from lightningrl.config.tasks import Benchmark
from lightningrl.errors import ConfigError
from lightningrl.evaluation.problems import check_prompt
from lightningrl.pipeline.kinds import KINDS
from lightningrl.report.paper.printed import identities
from lightningrl.report.registry import INPUTS, NEEDS, concerns
from lightningrl.utils.registry import resolve

ALL = "frontier"
"""The collect stage of everything, from which tables and figures are made that are not in `NEEDS`."""


class Requested:
    """An experiment's requests: what is evaluated, measured and probed of each system, and what is collected.

    benchmarks: name -> `module:attribute`. Raises ConfigError for a row, a wording or a split that there is not, and
    for figures of evaluations where nothing is evaluated.
    """

    def __init__(self, experiment: Experiment, benchmarks: Mapping[str, str]) -> None:
        self.experiment, self.benchmarks = experiment, benchmarks
        self.systems = {system.name: system for system in experiment.all_systems()}
        for where, name in self._published():
            if name and name not in identities():
                near = get_close_matches(name, identities(), n=1)
                meant = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"{where}.published: the published tables have no row {name!r}{meant}")
        for benchmark in experiment.benchmarks:
            check_problems(benchmarks[benchmark.name], benchmark)
        for run in experiment.runs:
            if run.benchmark not in self.having("train", "validation"):
                raise ConfigError(
                    f"runs.{run.name}.benchmark: {run.benchmark} has no train or no validation problems; a run trains "
                    "on the ones and chooses its checkpoint on the others"
                )
        drawn = [name for name in experiment.report.figures if name not in NEEDS and name in INPUTS["figures"]]
        drawn = [name for name in drawn if not {"frontier", "pooled", "steps"}.isdisjoint(INPUTS["figures"][name])]
        if drawn and not self.evaluated():
            raise ConfigError(
                f"report.figures: {drawn} show evaluations, but nothing is evaluated: every system has "
                "`evaluate_on: []`, or only benchmarks without problems of `evaluation.split`. Name a benchmark, or "
                "leave the figures out"
            )

    def _published(self) -> Iterator[tuple[str, str]]:
        """Yields (key of the config, the row it names)."""
        experiment = self.experiment
        if experiment.base is not None:
            yield "base", experiment.base.published
        for section in ("checkpoints", "runs", "systems"):
            yield from ((f"{section}.{each.name}", each.published or "") for each in getattr(experiment, section))

    def evaluated(self) -> list[tuple[System, str]]:
        """Returns each system with each of the benchmarks that it is evaluated on."""
        return [(system, name) for system in self.systems.values() for name in self.evaluated_on(system)]

    def evaluated_on(self, system: System) -> list[str]:
        """Returns the benchmarks on whose problems a system is evaluated, in its own order."""
        tested = self.having(self.experiment.evaluation.split)
        return tested if system.evaluate_on is None else [name for name in system.evaluate_on if name in tested]

    def collected(self) -> list[str]:
        """Returns what is collected: everything, and what each table and figure of the paper needs."""
        report = self.experiment.report
        return list(dict.fromkeys([ALL, *(name for name in (*report.tables, *report.figures) if name in NEEDS)]))

    def measured(self) -> list[tuple[System, str]]:
        """Returns the systems and benchmarks whose speed a table or figure needs; a system's own benchmarks only."""
        found, chosen = dict[tuple[str, str], None](), self.experiment.speed.benchmarks
        for need in (NEEDS[name] for name in self.collected() if name in NEEDS and "speed" in NEEDS[name]["of"]):
            benchmarks = tuple(chosen) or need["benchmarks"]
            for system in self.systems.values():
                if concerns(need["rows"], system.published):
                    found |= {(system.name, b): None for b in self.evaluated_on(system) if concerns(benchmarks, b)}
        return [(self.systems[name], benchmark) for name, benchmark in found]

    def probed(self) -> list[tuple[System, str]]:
        """Returns the systems and benchmarks that are looked into: what a policy was trained on; where it was not, all
        that the others were; where none was, those with validation problems that it is evaluated on by decoding."""
        systems = [self.systems[name] for name in self.experiment.probed()]
        trained_on = list(dict.fromkeys(system.trained_on for system in systems if system.trained_on is not None))
        decoded = [name for name in self.having("validation") if not is_choice(resolve(self.benchmarks[name]))]

        def of(system: System) -> list[str]:
            if system.trained_on:
                return [system.trained_on]
            return trained_on or [name for name in self.evaluated_on(system) if name in decoded]

        return [(system, benchmark) for system in systems for benchmark in of(system)]

    def having(self, *splits: str) -> list[str]:
        """Returns the benchmarks with problems of all these splits, in the experiment's order."""
        found = [b for b in self.experiment.benchmarks if all(has(self.benchmarks[b.name], b, s) for s in splits)]
        return [benchmark.name for benchmark in found]


def has(reference: str, benchmark: Benchmark, split: str) -> bool:
    """Returns whether an experiment has problems of a split: the benchmark has them, and some are asked for."""
    return split in getattr(resolve(reference), "splits", SPLITS) and getattr(benchmark, split) != 0


def check_problems(reference: str, benchmark: Benchmark) -> None:
    """Raises ConfigError for a wording, a number of worked examples, a split, or an open size that it has not."""
    found, where = resolve(reference), f"benchmarks.{benchmark.name}"
    check_prompt(found, benchmark.prompt, f"{where}.prompt.")
    for split in SPLITS:
        if getattr(benchmark, split) and not has(reference, benchmark, split):
            raise ConfigError(f"{where}.{split}: found {getattr(benchmark, split)}, it has no such problems")
    if not found.sources and None in (benchmark.train, benchmark.validation, benchmark.test):
        raise ConfigError(
            f"{where}: it is generated without end; say how many train, validation and test problems"
        )  # fmt: skip


def tables_behind(kind: str, name: str, reference: str) -> list[str]:
    """Returns which collected tables a `table` or `figure` is made of.

    Another package's own gets those that `INPUTS` of its module has for it, as `{"spread": ("headline", "curves")}`; it
    gets the frontier where there are none. Raises ConfigError for tables that there are not, or that it does not take.
    """
    if name in INPUTS[f"{kind}s"]:
        return list(INPUTS[f"{kind}s"][name])
    made, (module, _, attribute) = resolve(reference, f"report.{kind}s"), reference.partition(":")
    given = getattr(sys.modules[module], "INPUTS", {}).get(attribute, ("frontier",))
    known = [file.removesuffix(".csv") for file in KINDS["collect"].files]
    if isinstance(given, str) or not set(given) <= set(known):
        raise ConfigError(
            f"{module}:INPUTS has {given!r} for {attribute}; expected a tuple of some of {', '.join(known)}"
        )
    folder = ("folder",) if kind == "figure" else ()
    try:
        taken = inspect.signature(made)
        options = {name: None for name in ("policies", *Plot.model_fields) if folder and name in taken.parameters}
        taken.bind(*given, *folder, **options)
    except ValueError:
        pass  # a callable without a signature
    except TypeError as error:
        raise ConfigError(
            f"report.{kind}s: {reference} is called with {', '.join((*given, *folder))}, but it does not take that: "
            f"{error}. Its module says which collected tables it takes, like INPUTS = {{{attribute!r}: ('headline',)}}"
        ) from None
    return list(given)
