"""Trainers that end when a number of steps or the compute of another run is spent."""

from __future__ import annotations

from typing import Any

from lightningrl.errors import ConfigError
from lightningrl.training.loop import MOST_SKIPPED, Trainer, diverged


class BudgetedTrainer(Trainer):
    """A trainer whose state is known by its steps and its token-forwards. A subclass calls `begin` when it is made, and
    `note_update` after every step."""

    counters = ("steps_done", "token_forwards", "skipped_running")

    setup: Any
    """The `TrainSetup` of a run (rl/setup.py)."""
    steps_done: int = 0
    token_forwards: int = 0
    """All that were spent, with those of data that were made for it; a backward counts as two."""
    skipped_running: int = 0
    """How many of the last steps took no update, one after another."""

    def begin(self) -> None:
        """Sets the counters to where a run starts. Raises ConfigError when its budget is spent by its data alone."""
        run, budget, data = self.setup.run, self.setup.compute_budget, self.setup.distilled_forwards
        if budget is not None and budget <= data:
            raise ConfigError(
                f"runs.{run.name}.match_compute: {run.match_compute} spent {budget:,} token-forwards, and the answers "
                f"that {run.name} trains on took {data:,} to decode, so that nothing is left to train with. Match a "
                "run that spent more, have fewer answers (`method.data.problems`, `samples`), or leave match_compute "
                "out and say `steps`"
            )
        self.steps_done, self.token_forwards, self.skipped_running = 0, data, 0

    @property
    def parts(self) -> dict[str, Any]:
        return {"selection": self.selection}

    @property
    def spent(self) -> float:
        """The share of the training that is over: of the other run's compute, less what the data took, if there is
        one, else of the steps."""
        budget, data = self.setup.compute_budget, self.setup.distilled_forwards
        if budget is None:
            return self.steps_done / self.setup.run.steps
        return (self.token_forwards - data) / (budget - data)

    @property
    def done(self) -> bool:
        """Whether the budget is spent, by one step at least."""
        return self.steps_done > 0 and self.spent >= 1.0

    def note_update(self, was_skipped: bool) -> None:
        """Counts a step. Raises TrainingError when too many in a row took no update."""
        self.skipped_running = self.skipped_running + 1 if was_skipped else 0
        if self.skipped_running >= MOST_SKIPPED:
            raise diverged(self.skipped_running)
