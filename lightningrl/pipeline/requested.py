"""What an experiment asks for: its policies, on what each is evaluated, measured and probed; what is collected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from lightningrl.config.experiment import Experiment
from lightningrl.errors import ConfigError
from lightningrl.pipeline.registries import check_problems, has
from lightningrl.report.paper.printed import identities
from lightningrl.report.registry import NEEDS

ALL = "frontier"
"""The collect stage of everything, from which tables and figures are made that are not in `NEEDS`."""


class Wanted:
    """Of an experiment and its benchmarks (name -> `module:attribute`)."""

    def __init__(self, experiment: Experiment, benchmarks: Mapping[str, str]) -> None:
        self.experiment, self.benchmarks = experiment, benchmarks

    def check(self) -> None:
        """Raise ConfigError for a row, a wording or a split that there is not."""
        experiment = self.experiment
        for where, name in self._published():
            if name and name not in identities():
                near = get_close_matches(name, identities(), n=1)
                meant = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"{where}.published: the published tables have no row {name!r}{meant}")
        for benchmark in experiment.benchmarks:
            check_problems(self.benchmarks[benchmark.name], benchmark)
        for run in experiment.runs:
            if run.benchmark not in self.having("train", "validation"):
                raise ConfigError(
                    f"runs.{run.name}.benchmark: {run.benchmark} has no train or no validation problems; a run trains "
                    "on the ones and chooses its checkpoint on the others"
                )

    def _published(self) -> Iterator[tuple[str, str]]:
        """(key of the config, the row it names)."""
        experiment = self.experiment
        if experiment.base is not None:
            yield "base", experiment.base.published
        yield from ((f"checkpoints.{each.name}", each.published) for each in experiment.checkpoints)
        yield from ((f"runs.{each.name}", each.published) for each in experiment.runs)

    def evaluated_on(self, policy: str) -> list[str]:
        """Benchmarks on whose problems a policy is evaluated, in its own order."""
        experiment = self.experiment
        tested = self.having(experiment.evaluation.split)
        if policy == "base":
            return tested
        for checkpoint in experiment.checkpoints:
            if checkpoint.name == policy:
                return tested if checkpoint.evaluate_on is None else [n for n in checkpoint.evaluate_on if n in tested]
        run = experiment.run(policy)
        return [name for name in run.evaluate_on or [run.benchmark] if name in tested]

    def collected(self) -> list[str]:
        """What is collected: everything, and what each table and figure of the paper needs."""
        report = self.experiment.report
        return [ALL, *(name for name in (*report.tables, *report.figures) if name in NEEDS)]

    def measured(self) -> list[tuple[str, str]]:
        """Policies and benchmarks whose speed a table or figure needs, in the experiment's order; a policy's own
        benchmarks only."""
        found, chosen = dict[tuple[str, str], None](), self.experiment.speed.benchmarks
        for need in (NEEDS[name] for name in self.collected() if name in NEEDS and "speed" in NEEDS[name]["of"]):
            asked = chosen or need["benchmarks"]
            for policy in self.policies():
                if policy["published"] in need["rows"]:
                    found |= {(policy["name"], b): None for b in self.evaluated_on(policy["name"]) if b in asked}
        return list(found)

    def probed(self) -> list[tuple[str, str]]:
        """Policies and benchmarks that are looked into."""
        experiment, names = self.experiment, self.experiment.report.probes
        of_runs = {name: experiment.run(name).benchmark for name in names if name != "base"}
        of_base = list(dict.fromkeys(of_runs.values()))
        return [(name, b) for name in names for b in (of_base if name == "base" else [of_runs[name]])]

    def having(self, *splits: str) -> list[str]:
        """The benchmarks with problems of all these splits, in the experiment's order."""
        return [
            b.name
            for b in self.experiment.benchmarks
            if all(has(self.benchmarks[b.name], b, split) for split in splits)
        ]

    def policies(self) -> list[dict[str, Any]]:
        """What collect is told of each policy, in the experiment's order."""
        experiment = self.experiment
        untrained = {"algorithm": experiment.decoding.selector, "benchmark": None}
        published = "" if experiment.base is None else experiment.base.published
        found: list[dict[str, Any]] = [
            {"name": "base", "role": "before", **untrained, "published": published, "base": "base"}
        ]
        for checkpoint in experiment.checkpoints:
            told = checkpoint.model_dump(mode="json", include={"name", "role", "published"})
            found.append(told | untrained | {"base": checkpoint.base or checkpoint.name})
        for run in experiment.runs:
            keys = {"name", "role", "algorithm", "benchmark", "published", "base", "series", "seed"}
            found.append(run.model_dump(mode="json", include=keys))
        return found
