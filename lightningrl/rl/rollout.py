"""The order of prompts, the rollouts of groups with what they lose, and the sampler that draws groups until enough pass
the filter."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np

from lightningrl.answering import Answer, Task, judged, requests_of
from lightningrl.decoding.protocol import DecodePolicy, Decoder
from lightningrl.errors import LightningRLError
from lightningrl.rl.groups import Groups
from lightningrl.types import Example, Trajectory

Asked = list[tuple[Example, int]]
"""The examples and sample numbers of one group."""
_log = logging.getLogger(__name__)


class PromptOrder:
    """An endless order of the training prompts: a new permutation each pass, keyed by (seed, pass)."""

    def __init__(self, size: int, seed: int, cursor: int = 0):
        self.size, self.seed, self.cursor = size, seed, cursor
        self._pass, self._order = -1, np.zeros(0, dtype=np.int64)

    def take(self, count: int) -> list[int]:
        """Returns the next `count` indices; moves the cursor."""
        taken = []
        for position in range(self.cursor, self.cursor + count):
            turn, offset = divmod(position, self.size)
            if turn != self._pass:
                self._pass, self._order = turn, np.random.default_rng([self.seed, turn]).permutation(self.size)
            taken.append(int(self._order[offset]))
        self.cursor += count
        return taken


@dataclass(slots=True)
class RolloutLosses:
    """What rollouts lost: counts, and the first text of each kind, which may hold addresses and times."""

    rows_refused: int = 0
    groups_refused: int = 0
    """Groups left out because the decoder refused a row of them."""
    judge_errors: int = 0
    """Calls of the judge that raised."""
    groups_unjudged: int = 0
    """Groups of those calls."""
    groups_unscorable: int = 0
    """Groups left out because the judge had no value for a response."""
    first_refusal: str = ""
    first_judge_error: str = ""
    first_unscored: str = ""
    """The first response without a value: uid, status, detail."""

    def counts(self) -> dict[str, int]:
        """Returns counts for the step's row; the texts are for the log."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, int)}

    def __add__(self, other: RolloutLosses) -> RolloutLosses:
        """Both together; of texts the first stays."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return RolloutLosses(*(one + two if isinstance(one, int) else one or two for one, two in pairs))


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """What one step's rollouts gave: every group that could be scored, kept or not, and those to train on."""

    sampled: Groups
    kept: Groups
    rounds: int
    losses: RolloutLosses


def roll_out(
    decoder: Decoder, tokenizer: Any, task: Task, groups: Sequence[Asked], policy: DecodePolicy,
    policy_of: Callable[[Example], DecodePolicy | None] = lambda _: None,
) -> tuple[list[list[Answer]], RolloutLosses]:  # fmt: skip
    """Returns judged answers to each group, none to a lost one. policy_of: for problems with policies of their own."""
    losses, found = RolloutLosses(), [[] for _ in groups]
    asked = [pair for group in groups for pair in group]
    owner = [number for number, group in enumerate(groups) for _ in group]
    trajectories: dict[int, Trajectory] = {}
    refused: set[int] = set()
    for outcome in decoder.stream(requests_of(tokenizer, task, asked, policy_of), policy):
        if outcome.trajectory is not None:
            trajectories[outcome.index] = outcome.trajectory
        else:
            refused.add(owner[outcome.index])
            losses.rows_refused += 1
            losses.first_refusal = losses.first_refusal or str(outcome.error)
    losses.groups_refused = len(refused)
    rows = [row for row, number in enumerate(owner) if number not in refused]
    if not rows:
        return found, losses
    try:
        answers = judged(tokenizer, task, [asked[row][0] for row in rows], [trajectories[row] for row in rows])
    except LightningRLError:
        raise
    except Exception as error:  # a judge may be anybody's code; what it raised is counted, logged and bounded
        _log.exception("the judge failed over %d responses; their groups are left out", len(rows))
        losses.judge_errors, losses.groups_unjudged = 1, len(groups) - len(refused)
        losses.first_judge_error = f"{type(error).__name__}: {error}"
        return found, losses
    for row, answer in zip(rows, answers, strict=True):
        found[owner[row]].append(answer)
    return found, losses


def has_value(answer: Answer) -> bool:
    """Whether the judge could score it: a value, and a number."""
    return answer.verdict.value is not None and math.isfinite(answer.verdict.value)


def draw_groups(
    examples: Sequence[Example], order: PromptOrder, wanted: int, responses: int, max_rounds: int,
    roll: Callable[[list[Asked]], tuple[list[list[Answer]], RolloutLosses]],
    keep: Callable[[Groups], np.ndarray], read: Callable[[list[list[Answer]]], Groups],
) -> RolloutBatch:  # fmt: skip
    """Roll out prompts until `wanted` groups pass the filter, each round asking for as many as are missing.

    Stops after `max_rounds` rounds with what there is. A group is rolled out once: prompts that fail are replaced by
    the next ones in order. keep: (N,) bool of groups; read: makes groups of answers.
    """
    sampled: list[list[Answer]] = []
    kept: list[list[Answer]] = []
    rounds, losses, drawn = 0, RolloutLosses(), Counter[str]()
    while len(kept) < wanted and rounds < max_rounds:
        asked = []
        for example in (examples[index] for index in order.take(wanted - len(kept))):
            # A prompt drawn again in one step (the seam of two passes) gets other samples, hence other draws.
            asked.append([(example, drawn[example.uid] + number) for number in range(responses)])
            drawn[example.uid] += responses
        groups, lost = roll(asked)
        scorable = [group for group in groups if all(map(has_value, group))]
        unscored = [a for group in groups for a in group if not has_value(a)]
        if unscored:
            verdict = unscored[0].verdict
            lost.first_unscored = f"{unscored[0].example.uid}: {verdict.status}, {verdict.detail}"
        lost.groups_unscorable = len(groups) - len(scorable)
        losses += lost
        sampled += scorable
        if scorable:
            kept += [group for group, good in zip(scorable, keep(read(scorable)), strict=True) if good]
        rounds += 1
    return RolloutBatch(read(sampled), read(kept), rounds, losses)
