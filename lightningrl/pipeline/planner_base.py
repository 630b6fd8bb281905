"""What every method of the planner works with: the experiment, the members that it names, and the stages so far."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lightningrl.benchmarks.checked import checked
from lightningrl.config.experiment import Experiment
from lightningrl.config.registries import member, names
from lightningrl.config.systems import System
from lightningrl.pipeline.code_digest import Sources
from lightningrl.pipeline.kinds import Kind, kinds_of
from lightningrl.pipeline.pin import read_pins
from lightningrl.pipeline.requested import Requested
from lightningrl.pipeline.stage import Stage

QUANTIZED = "lightningrl.quantization.stored:load"
"""What reads a quantised checkpoint: a member of the stages that do."""
WEIGHTS = ("pretrain", "checkpoint", "train", "quantize")
"""The kinds of stages that leave weights. What reads theirs resolves the checkpoint's family by what config.json says,
which the plan does not know: the files of all built-in families are in its digest, those of plug-ins among its members.
"""


def slug(name: str) -> str:
    """Returns a registry name as it is, a `module:attribute` as something that can be part of a path."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")


class PlannerBase:
    """The stages of an experiment that are planned so far, and how another one is noted."""

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

    def member(self, kind: str, name: str, where: str) -> str:
        return member(kind, name, where, self.experiment.plugins)

    def members_of(self, system: System) -> dict[str, str]:
        """Returns what a system decodes with, and reads its weights by where they are quantised."""
        quantized = {} if system.quantizer is None else {"weights": QUANTIZED}
        return system.decoding.members(f"{system.where}.", self.experiment.plugins) | quantized

    def data_of(self, names: Iterable[str]) -> dict[str, Stage]:
        return {f"data/{name}": self.data[name] for name in names}

    def note(
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
        """Notes a stage, and returns it. judged: the benchmarks whose answers it judges; spec: the kind, where another
        module stands for its own."""
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

    def known(self, stage: Stage) -> Stage:
        """Returns the first stage with the key of one that was just planned, which goes where there is another."""
        known = next(each for each in self.planned if each.key == stage.key)
        if known is not stage:
            self.planned.pop()
        return known

    def _reads_weights(self, kind: str, inputs: Mapping[str, Stage]) -> bool:
        return kind == "checkpoint" or (kind != "collect" and any(each.kind in WEIGHTS for each in inputs.values()))
