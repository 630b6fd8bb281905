"""What an experiment costs as its code was, as it is, and with options one after the other, by the same formulas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from lightningrl.bench.estimate.budget import Estimate
from lightningrl.bench.overheads import Overheads
from lightningrl.config.experiment import Experiment


@dataclass(frozen=True, slots=True)
class Rung:
    """One change to an experiment, for all of its runs or benchmarks."""

    words: str
    run: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    benchmark: dict[str, Any] = field(default_factory=dict)

    def applied(self, experiment: Experiment) -> Experiment:
        """Returns the experiment with it."""
        runs = [
            run.model_copy(update=self.run | {"method": run.method.model_copy(update=self.method)})
            if run.implementation.rolls_out else run
            for run in experiment.runs
        ]  # fmt: skip
        benchmarks = [benchmark.model_copy(update=self.benchmark) for benchmark in experiment.benchmarks]
        return experiment.model_copy(update={"runs": runs, "benchmarks": benchmarks})


BEFORE = Rung(
    "before: rounds with a barrier, a tail and judging each, a prompt computed for each response, a state each step "
    "that one process hashes",
    {"save_every": 1},
)
DEFAULTS = Rung("with the defaults")
OPTIONS = (
    Rung("`kl_to: rollout`", method={"kl_to": "rollout"}),
    Rung("`state_share: 0.333`", {"state_share": 0.333}),
    Rung("`max_new_tokens: 2048`", benchmark={"max_new_tokens": 2048}),
)
"""In this order, each with those before it."""


def ladder(estimate: Estimate) -> Iterator[tuple[str, Estimate]]:
    """Yields words and an estimate for the state before, for the defaults, and with one option more each time."""
    own = Overheads()
    before = replace(estimate.overheads, turn_s=own.turn_s, tails=None, in_rounds=True, whole_states=True)
    yield BEFORE.words, replace(estimate, experiment=BEFORE.applied(estimate.experiment), overheads=before)
    yield DEFAULTS.words, estimate
    experiment = estimate.experiment
    for rung in OPTIONS:
        experiment = rung.applied(experiment)
        yield f"and {rung.words}", replace(estimate, experiment=experiment)
