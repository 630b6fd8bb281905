"""From an experiment to its stages: the DAG, as a pure function of the config and the sources.

What each stage is, and what it finds in its context, is in `planner`; no torch, and no file but sources and the config
is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lightningrl.config.experiment import Experiment
from lightningrl.errors import ConfigError, StageError
from lightningrl.pipeline import code_digest
from lightningrl.pipeline.graph import Graph
from lightningrl.pipeline.kinds import Kind
from lightningrl.pipeline.planner import Planner
from lightningrl.pipeline.stage import Stage


class Plan(Graph[Stage]):
    """All stages of one experiment; the release is the last."""

    def __init__(
        self, experiment: Experiment, stages: Iterable[Stage], pins: Mapping[str, str], kinds: Mapping[str, Kind]
    ) -> None:
        super().__init__(stages)
        self.experiment, self.pins, self.kinds = experiment, pins, kinds
        self.release = self.stages[-1]

    @property
    def unused_pins(self) -> list[str]:
        """Pins of stages that the experiment does not have."""
        return sorted(set(self.pins) - set(self.by_label()))

    def stage(self, kind: str, name: str) -> Stage:
        """Returns a stage. Raises StageError listing the names there are."""
        found = {stage.name: stage for stage in self.of(kind)}
        if name not in found:
            there, told = ", ".join(found) or "none", ""
            read = (s.inputs.get("policy") for s in self.stages if s.config.get("policy") == name)
            if shared := next((each for each in read if each is not None and each.kind == kind), None):
                told = f" The weights of {name} are those of {shared.name}, the same policy by the same quantizer."
            raise StageError(f"the experiment has no {kind} stage {name!r}. It has: {there}.{told}")
        return found[name]


def plan(experiment: Experiment) -> Plan:
    """Returns the stages of an experiment. Raises ConfigError for a name that no registry has."""
    planner = Planner(experiment)
    labels = set[str]()
    for stage in planner.stages():
        _ = stage.key  # now, so that the whole plan is of one state of the sources
        if stage.label in labels:
            raise ConfigError(
                f"two {stage.kind} stages would be named {stage.name!r}; give one of them another name"
            )  # fmt: skip
        labels.add(stage.label)
    code_digest.keep()
    return Plan(experiment, planner.planned, planner.pins, planner.kinds)
