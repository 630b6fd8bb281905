"""What goes wrong inside a step is counted, logged and bounded, and is never a reward of 0.

| what | the step | the run |
|---|---|---|
| the decoder refuses a row (too long, not finite) | its group is left out; rows and groups are counted | goes on |
| the judge raises | the groups of that call are left out and counted | goes on |
| the judge has no value for a response (`gold_error`) | its group is left out and counted | goes on |
| an update is not finite | weights stay; counted, logged | stops after 5 steps running without any |
| none of a step's groups could be scored | no update | stops after 3 such steps running |
| the filter drops all groups of a step | no update | stops after 20 steps running without a kept one |

An error that the user can fix (no jail, an unknown word) stops the run at once: it says what to do, and the next
step would meet it too. Validation is not here: there a failure stops the run, for a score without it would be another.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lightningrl.errors import JudgeError, LightningRLError, TrainingError
from lightningrl.rl.rollout import RolloutBatch
from lightningrl.training.loop import MOST_SKIPPED, diverged

LIMITS = {"without_scorable": 3, "without_kept": 20, "without_update": MOST_SKIPPED}
"""The steps running in which no group could be scored, none was kept, or every update was skipped, that end a run."""
_AGAIN = "then run the same command again: it resumes from the last saved state"
_log = logging.getLogger(__name__)


class StallGuard:
    """Counts fruitless steps in a row, and stops a run that would never learn. It is part of the run's state."""

    def __init__(self) -> None:
        self.running = dict.fromkeys(LIMITS, 0)

    def see(self, drawn: RolloutBatch, dropped: Mapping[str, int], metrics: Mapping[str, Any]) -> None:
        """Take note of a step: how many of its groups each filter drops, by the filter's key; `step`, `updates` and
        `skipped` (their share) of its row.

        Raises JudgeError or TrainingError, saying why and what to do, when a bound is reached.
        """
        lost, step = drawn.losses, metrics["step"]
        if lost.rows_refused:
            counts = lost.rows_refused, lost.groups_refused
            _log.warning("step %d: the decoder refused %d rows of %d groups: %s", step, *counts, lost.first_refusal)
        if lost.groups_unscorable:
            text = "step %d: %d groups could not be scored: %s"
            _log.warning(text, step, lost.groups_unscorable, lost.first_unscored)
        if self._is_over("without_scorable", not drawn.sampled.answers):
            raise self._unscorable(drawn)
        if self._is_over("without_kept", not drawn.kept.answers):
            raise self._unkept(drawn, dropped)
        if not metrics["updates"]:
            return
        if metrics["skipped"]:
            share = 100 * metrics["skipped"]
            _log.warning("step %d: %.0f %% of its updates had a loss or gradient that is not finite", step, share)
        if self._is_over("without_update", metrics["skipped"] == 1):
            raise diverged(MOST_SKIPPED)

    def _is_over(self, name: str, is_fruitless: bool) -> bool:
        self.running[name] = self.running[name] + 1 if is_fruitless else 0
        return self.running[name] >= LIMITS[name]

    def _unscorable(self, drawn: RolloutBatch) -> LightningRLError:
        """Blames what cost most of the last step's groups."""
        lost = drawn.losses
        found = f"no group could be scored in {LIMITS['without_scorable']} steps running: "
        if lost.groups_refused > lost.groups_unjudged + lost.groups_unscorable:
            return TrainingError(
                f"{found}in the last one the decoder refused rows of {lost.groups_refused} groups "
                f"({lost.first_refusal}). Shorten prompts or max_new_tokens, or raise the memory budget; where "
                f"probabilities are not finite, begin anew with a lower learning rate; {_AGAIN}."
            )
        if lost.groups_unjudged >= lost.groups_unscorable:
            return JudgeError(f"{found}the judge failed ({lost.first_judge_error}). Fix the judge; {_AGAIN}.")
        return JudgeError(
            f"{found}the judge gave no value to a response of each of {lost.groups_unscorable} groups in the last one "
            f"({lost.first_unscored}). Fix the judge or the benchmark's gold data; {_AGAIN}."
        )

    def _unkept(self, drawn: RolloutBatch, dropped: Mapping[str, int]) -> TrainingError:
        reasons = ", ".join(f"{name} drops {count}" for name, count in dropped.items() if count)
        return TrainingError(
            f"no group passed the filter in {LIMITS['without_kept']} steps running: of the last one's "
            f"{len(drawn.sampled.answers)} groups {reasons or 'none could be scored'}. Nothing is learned so. Loosen "
            "those filters in the run's `method`; lower the threshold or raise the temperature, so that responses "
            "differ; or take a base that solves some of the problems."
        )

    def state_dict(self) -> dict[str, int]:
        return dict(self.running)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.running.update(state)
