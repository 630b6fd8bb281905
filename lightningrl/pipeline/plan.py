"""From an experiment to its stages: the DAG, as a pure function of the config and the sources.

What each stage is, and what it finds in its context, is in `planner`; no torch, and no file but sources and the config
is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lightningrl.config.experiment import Experiment
from lightningrl.errors import ConfigError, StageError
from lightningrl.pipeline import parsed_sources
from lightningrl.pipeline.kinds import KINDS, Kind
from lightningrl.pipeline.planner import Planner
from lightningrl.pipeline.stage import Stage


@dataclass(frozen=True)
class Plan:
    """All stages of one experiment, upstream first."""

    experiment: Experiment
    stages: tuple[Stage, ...]
    pins: Mapping[str, str] = field(default_factory=dict)
    """`<kind>/<name>` -> the digest that its key has in place of today's code, as the pin file says."""
    kinds: Mapping[str, Kind] = field(default_factory=lambda: KINDS)
    """Every kind by name, those that the experiment's plug-ins add included."""

    @property
    def unused_pins(self) -> list[str]:
        """Pins of stages that the experiment does not have."""
        return sorted(set(self.pins) - {stage.label for stage in self.stages})

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


def plan(experiment: Experiment) -> Plan:
    """The stages of an experiment. Raises ConfigError for a name that no registry has."""
    planner = Planner(experiment)
    stages = tuple(planner.stages())
    for stage in stages:
        _ = stage.key  # now, so that the whole plan is of one state of the sources
    parsed_sources.keep()
    names = [(stage.kind, stage.name) for stage in stages]
    for kind, name in names:
        if names.count((kind, name)) > 1:
            raise ConfigError(f"two {kind} stages would be named {name!r}; give one of them another name")
    return Plan(experiment, stages, planner.pins, planner.kinds)
