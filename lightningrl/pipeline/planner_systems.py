"""The stages in which a system answers a benchmark's problems: evaluations, speeds, probes.

Where a server answers, or a benchmark of choices is answered by likelihood, a kind's files and job stay, and another
module does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from lightningrl.benchmarks.choices import is_choice
from lightningrl.benchmarks.registry import PHRASES
from lightningrl.config.systems import System
from lightningrl.errors import ConfigError
from lightningrl.pipeline.planner_base import QUANTIZED, PlannerBase, slug
from lightningrl.pipeline.stage import Stage
from lightningrl.utils.registry import resolve

LOOKS = "lightningrl.pipeline.stages.looks"
"""What probes look at beside answers: members of the stages that do."""
ENDPOINTS = {
    "evaluate": "lightningrl.pipeline.stages.endpoint",
    "speed": "lightningrl.pipeline.stages.endpoint_speed",
}
"""Kinds of stages in which a server may answer -> the module that asks it."""
LIKELIHOOD = "lightningrl.pipeline.stages.likelihood"
"""The module that evaluates on benchmarks of choices."""
UNREAD = {"thresholds", "primary_threshold", "precision", "likelihood"}
"""Keys of `evaluation` that an evaluation by decoding does not read as they are."""


class SystemPlanner(PlannerBase):
    """Plans what is measured of systems."""

    def evaluate(self, system: System, name: str) -> Stage:
        evaluation = self.experiment.evaluation
        if is_choice(resolve(self.benchmarks[name])):
            return self._by_likelihood(system, name)
        if system.endpoint is not None:
            chosen = evaluation.model_dump(mode="json", include={"split", "samples", "temperature"})
            sweep = {"thresholds": system.thresholds, "max_failed_pct": system.endpoint.max_failed_pct}
            return self._of_endpoint("evaluate", system, name, {"evaluation": chosen, "sweep": sweep}, [name])
        config = {
            "evaluation": evaluation.model_dump(mode="json", exclude=UNREAD),
            "sweep": {"thresholds": system.thresholds},
        }
        return self._of_system("evaluate", system, name, config, {"judge": self.judges[name]}, [name])

    def speed(self, system: System, name: str) -> Stage:
        config: dict[str, Any] = {
            "speed": self.experiment.speed.model_dump(mode="json", exclude={"benchmarks"}),
            "threshold": system.primary_threshold,
            "temperature": self.experiment.evaluation.temperature,
        }
        if system.endpoint is not None:
            return self._of_endpoint("speed", system, name, config)
        return self._of_system("speed", system, name, config, {})

    def probe(self, system: System, name: str) -> Stage:
        config = {"problems": self.experiment.report.probed_problems, "threshold": system.primary_threshold}
        looks = self.experiment.report.looks
        members = {f"look/{look}": f"{LOOKS}:{look}" for look in looks if look != "answers"}
        if "answers" in looks:
            members["careful"] = self.member("selector", "quota", "")
            members |= {"phrases": PHRASES[name]} if name in PHRASES else {}
        exact = {"exact": self.policies[system.policy]} if "states" in looks and system.quantizer is not None else {}
        return self._of_system("probe", system, name, config, members, inputs=exact)

    def _of_system(
        self,
        kind: str,
        system: System,
        name: str,
        config: dict[str, Any],
        members: dict[str, str],
        judged: Iterable[str] = (),
        inputs: Mapping[str, Stage] = MappingProxyType({}),
    ) -> Stage:
        """Plans a stage in which a system answers a benchmark's problems."""
        benchmark, weights = self.experiment.benchmark(name), self.weights[system.name]
        config |= {
            "decoding": system.decoding,
            "prompt": benchmark.prompt,
            "max_new_tokens": system.longest(benchmark),
            "seed": self.experiment.seed,
            "policy": system.name,
            "benchmark": name,
            "precision": self.precision,
        }
        members = self.members_of(system) | {"benchmark": self.benchmarks[name]} | members
        inputs = {"policy": weights, "data": self.data[name], **inputs}
        return self.note(kind, f"{system.name}/{slug(name)}", config, members, inputs, judged, weights.size)

    def _of_endpoint(
        self, kind: str, system: System, name: str, config: dict[str, Any], judged: Iterable[str] = ()
    ) -> Stage:  # fmt: skip
        """Plans a stage in which a server answers a benchmark's problems: a kind's files and job, another module."""
        benchmark = self.experiment.benchmark(name)
        config |= {
            "endpoint": system.endpoint,
            "prompt": benchmark.prompt,
            "max_new_tokens": system.longest(benchmark),
            "seed": self.experiment.seed,
            "policy": system.name,
            "benchmark": name,
        }
        members = {"benchmark": self.benchmarks[name]} | ({"judge": self.judges[name]} if judged else {})
        spec = replace(self.kinds[kind], outside=ENDPOINTS[kind], in_parts=False)
        label = f"{system.name}/{slug(name)}"
        return self.note(kind, label, config, members, {"data": self.data[name]}, judged, "endpoint", spec=spec)

    def _by_likelihood(self, system: System, name: str) -> Stage:
        """Plans the evaluation of a benchmark of choices: the kind's files and job, another module, no decoder."""
        experiment, evaluation = self.experiment, self.experiment.evaluation
        if system.endpoint is not None:
            raise ConfigError(
                f"systems.{system.name}: {name} is answered by likelihood, and a server says none; name the benchmarks "
                "that it answers in `evaluate_on`"
            )
        kind, weights = self.kinds["evaluate"], self.weights[system.name]
        config = {
            "evaluation": evaluation.model_dump(mode="json", include={"split", "shard"}),
            "sweep": {"thresholds": [system.primary_threshold]},
            "likelihood": evaluation.likelihood,
            "prompt": experiment.benchmark(name).prompt,
            "seed": experiment.seed,
            "policy": system.name,
            "benchmark": name,
            "precision": self.precision,
        }
        members = {"benchmark": self.benchmarks[name]} | ({} if system.quantizer is None else {"weights": QUANTIZED})
        spec = replace(kind, outside=LIKELIHOOD, in_parts=False, files=(*kind.files, "choices.jsonl"))
        inputs, label = {"policy": weights, "data": self.data[name]}, f"{system.name}/{slug(name)}"
        return self.note("evaluate", label, config, members, inputs, [name], weights.size, spec=spec)
