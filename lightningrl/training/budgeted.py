"""Trainers that end when a number of steps or the compute of another run is spent."""

from __future__ import annotations

from typing import Any

from lightningrl.training.loop import Trainer


class BudgetedTrainer(Trainer):
    """A trainer whose state is known by its steps and its token-forwards. It has the `setup` of a run."""

    counters = ("steps_done", "token_forwards")

    setup: Any
    steps_done: int = 0
    token_forwards: int = 0
    """All that were spent, with those of data that were made for it; a backward counts as two."""

    @property
    def parts(self) -> dict[str, Any]:
        return {"selection": self.selection}

    @property
    def spent(self) -> float:
        """The share of the budget that is spent: of the other run's compute if there is one, else of the steps."""
        budget = self.setup.compute_budget
        return self.token_forwards / budget if budget else self.steps_done / self.setup.run.steps

    @property
    def done(self) -> bool:
        """Whether the budget is spent, by one step at least."""
        return self.steps_done > 0 and self.spent >= 1.0
