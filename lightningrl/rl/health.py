"""What goes wrong inside a step is counted, logged and bounded, and is never a reward of 0.

| what | the step | the run |
|---|---|---|
| the decoder refuses a row (too long, not finite) | its group is left out; rows and groups are counted | goes on |
| the judge raises | the groups of that call are left out and counted | goes on |
| the judge has no value for a response (`gold_error`) | its group is left out and counted (`draw_groups`) | goes on |
| an update is not finite | weights stay; counted, logged | stops after `max_skipped_steps` steps without any |
| none of a step's groups could be scored | no update | stops after `max_unscorable_steps` such steps running |
| the filter drops all groups of a step | no update | stops after `max_unkept_steps` steps running without a kept one |

An error that is the user's to mend (no jail, an unknown word) stops the run at once: it says what to do, and the next
step would meet it too. Validation is not here: there a failure stops the run, for a score without it would be another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightningrl.answering import Answer, Task, judged, requests_of
from lightningrl.decoding.protocol import DecodePolicy, Decoder
from lightningrl.errors import JudgeError, LightningRLError, TrainingError
from lightningrl.rl.rollout import RolloutBatch, has_value
from lightningrl.types import Example, Trajectory

MAX_UNSCORABLE_STEPS = 3
MAX_UNKEPT_STEPS = 20
MAX_SKIPPED_STEPS = 5
_AGAIN = "then run the same command again: it goes on from the last saved state"
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class RolloutLosses:
    """What one step's rollouts lost."""

    rows_refused: int = 0
    groups_refused: int = 0
    """Groups left out because the decoder refused a row of them."""
    judge_errors: int = 0
    """Calls of the judge that raised."""
    groups_unjudged: int = 0
    """Groups of those calls."""
    first_refusal: str = ""
    first_judge_error: str = ""
    first_unscored: str = ""
    """The first response without a value: uid, status, detail."""

    def metrics(self) -> dict[str, int]:
        """Counts for the step's row; the texts, which may hold addresses and times, are for the log."""
        names = ("rows_refused", "groups_refused", "judge_errors", "groups_unjudged")
        return {name: getattr(self, name) for name in names}

    def add(self, other: RolloutLosses) -> None:
        """Another process's losses of the same step; of texts the first stays."""
        for name, mine in asdict(self).items():
            theirs = getattr(other, name)
            setattr(self, name, mine + theirs if isinstance(mine, int) else mine or theirs)


def roll_out(
    decoder: Decoder,
    tokenizer: Any,
    task: Task,
    asked: Sequence[tuple[Example, int]],
    policy: DecodePolicy,
    responses: int,
    tally: RolloutLosses,
    policy_of: Callable[[Example], DecodePolicy | None] = lambda _: None,
) -> list[list[Answer]]:
    """Groups of judged answers, in order, without those that `tally` counts as lost.

    asked: (example, sample number), `responses` of a group one after the other. policy_of: of problems that are decoded
    by policies of their own.
    """
    trajectories: dict[int, Trajectory] = {}
    for outcome in decoder.stream(requests_of(tokenizer, task, asked, policy_of), policy):
        if outcome.trajectory is not None:
            trajectories[outcome.index] = outcome.trajectory
        else:
            tally.rows_refused += 1
            tally.first_refusal = tally.first_refusal or str(outcome.error)
    groups = [range(start, start + responses) for start in range(0, len(asked), responses)]
    whole = [index for group in groups if all(i in trajectories for i in group) for index in group]
    tally.groups_refused += len(groups) - len(whole) // responses
    if not whole:
        return []
    try:
        answers = judged(tokenizer, task, [asked[i][0] for i in whole], [trajectories[i] for i in whole])
    except LightningRLError:
        raise
    except Exception as error:  # a judge may be anybody's code; what it raised is counted, logged and bounded
        _log.exception("the judge failed over %d responses; their groups are left out", len(whole))
        tally.judge_errors += 1
        tally.groups_unjudged += len(whole) // responses
        tally.first_judge_error = tally.first_judge_error or f"{type(error).__name__}: {error}"
        return []
    for answer in answers:
        if not has_value(answer) and not tally.first_unscored:
            tally.first_unscored = f"{answer.example.uid}: {answer.verdict.status}, {answer.verdict.detail}"
    return [answers[start : start + responses] for start in range(0, len(answers), responses)]


@dataclass(slots=True)
class StallGuard:
    """Counts fruitless steps in a row, and stops a run that would never learn. It is part of the run's state."""

    max_unscorable_steps: int = MAX_UNSCORABLE_STEPS
    max_unkept_steps: int = MAX_UNKEPT_STEPS
    max_skipped_steps: int = MAX_SKIPPED_STEPS
    without_scorable: int = 0
    """Steps running in which no group could be scored."""
    without_kept: int = 0
    """Steps running in which no group was kept."""
    without_update: int = 0
    """Steps running in which every update was skipped."""

    def see(self, step: int, drawn: RolloutBatch, tally: RolloutLosses, dropped: Mapping[str, int]) -> None:
        """Take note of a step. dropped: how many of its groups each filter drops, by the filter's key.

        Raises JudgeError or TrainingError, saying why and what to do, when a bound is reached.
        """
        _log_losses(step, drawn, tally)
        self.without_scorable = 0 if drawn.sampled.answers else self.without_scorable + 1
        self.without_kept = 0 if drawn.kept.answers else self.without_kept + 1
        if self.without_scorable >= self.max_unscorable_steps:
            raise _unscorable(self.without_scorable, drawn, tally)
        if self.without_kept >= self.max_unkept_steps:
            raise _unkept(self.without_kept, drawn, dropped)

    def see_updates(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take note of a step's updates, by its row: `updates`, `skipped` (their share).

        Raises TrainingError when none was taken for too long: the policy would stay as it is for ever.
        """
        if not metrics["updates"]:
            return
        if metrics["skipped"]:
            share = 100 * metrics["skipped"]
            _log.warning("step %d: %.0f %% of its updates had a loss or gradient that is not finite", step, share)
        self.without_update = self.without_update + 1 if metrics["skipped"] == 1 else 0
        if self.without_update >= self.max_skipped_steps:
            raise TrainingError(
                f"no update could be taken in {self.without_update} steps running: their loss or gradient is not "
                "finite. Begin anew with a lower learning rate, or look at the rewards; the last saved state stays."
            )

    def state_dict(self) -> dict[str, int]:
        names = ("without_scorable", "without_kept", "without_update")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        for name, count in state.items():
            setattr(self, name, count)


def _log_losses(step: int, drawn: RolloutBatch, tally: RolloutLosses) -> None:
    if tally.rows_refused:
        counts = tally.rows_refused, tally.groups_refused
        _log.warning("step %d: the decoder refused %d rows of %d groups: %s", step, *counts, tally.first_refusal)
    if drawn.unscorable:
        _log.warning("step %d: %d groups could not be scored: %s", step, drawn.unscorable, tally.first_unscored)


def _unscorable(steps: int, drawn: RolloutBatch, tally: RolloutLosses) -> LightningRLError:
    """Blames what cost most of the last step's groups."""
    found = f"no group could be scored in {steps} steps running: "
    if tally.groups_refused > tally.groups_unjudged + drawn.unscorable:
        return TrainingError(
            f"{found}in the last one the decoder refused rows of {tally.groups_refused} groups "
            f"({tally.first_refusal}). Shorten prompts or max_new_tokens, or raise the memory budget; where "
            f"probabilities are not finite, begin anew with a lower learning rate; {_AGAIN}."
        )
    if tally.groups_unjudged >= drawn.unscorable:
        return JudgeError(f"{found}the judge failed ({tally.first_judge_error}). Mend the judge; {_AGAIN}.")
    return JudgeError(
        f"{found}the judge gave no value to a response of each of {drawn.unscorable} groups in the last one "
        f"({tally.first_unscored}). Mend the judge or the benchmark's gold data; {_AGAIN}."
    )


def _unkept(steps: int, drawn: RolloutBatch, dropped: Mapping[str, int]) -> TrainingError:
    reasons = ", ".join(f"{name} drops {count}" for name, count in dropped.items() if count)
    return TrainingError(
        f"no group passed the filter in {steps} steps running: of the last one's {len(drawn.sampled.answers)} groups "
        f"{reasons or 'none could be scored'}. Nothing is learned so. Loosen those filters in the run's `method`; "
        "lower the threshold or raise the temperature, so that responses differ; or take a base that solves some of "
        "the problems."
    )
