"""The rollouts of a step as one stream: prompts enter the decoder in order, and one more for each group that fails.

The step keeps what rounds would keep: a round asks for as many groups as are missing, the next one for those of them
that failed, up to `max_rounds`. A prompt enters as soon as the failures known so far make it certain that the rounds
would reach it (`asked_by`), so none is decoded in vain, and groups are kept in the order of the stream: the order of
completion would favour short answers.

A complete group is judged in a thread of its own while the decoder goes on. What is known when is counted in turns,
never in seconds: after each WINDOW_TURNS turns the processes tell each other about the groups that were complete one
window before, and wait for the judge where it is not done with those. So the same rows share their forwards whatever
the machine is doing, and a run that is repeated or resumed gives the same bits.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from lightningrl.answering import Answer, Task, requests_of
from lightningrl.decoding.protocol import DecodePolicy, Decoder, DecodeResult
from lightningrl.errors import LightningRLError, TrainingError
from lightningrl.rl.rollout import Asked, RolledOut, RolloutLosses
from lightningrl.tokenization import decode_response
from lightningrl.training.world import World
from lightningrl.types import Example, Trajectory, Verdict

WINDOW_TURNS = 8
"""Turns from one exchange of the processes to the next. A prompt that takes a failed one's place comes one to two
windows after it; the judge has as long. An exchange takes about a millisecond, and the processes wait for each other
there; eight turns take a GPU some 200 ms or more."""
_log = logging.getLogger(__name__)


def asked_by(failed: Collection[int], wanted: int, max_rounds: int) -> tuple[int, int]:
    """Returns how many prompts of the stream rounds are certain to ask for, and in how many rounds, given the places in
    the stream of groups that are known to fail.

    The first round asks for the first `wanted` ones, each later one for as many more as failed among those asked for
    so far. With some failures unknown it is what they ask for at least.

    >>> asked_by([], 4, 5), asked_by([0, 1, 4], 4, 5), asked_by([0, 1, 4], 4, 2)
    ((4, 1), (7, 3), (6, 2))
    """
    asked, rounds = wanted, 1
    while rounds < max_rounds:
        reached = wanted + sum(place < asked for place in failed)
        if reached == asked:
            break
        asked, rounds = reached, rounds + 1
    return asked, rounds


def has_value(answer: Answer) -> bool:
    """Whether the judge could score it: a value, and a number."""
    return answer.verdict.value is not None and math.isfinite(answer.verdict.value)


def roll_out(
    decoder: Decoder, tokenizer: Any, task: Task, stream: Sequence[Asked], policy: DecodePolicy,
    policy_of: Callable[[Example], DecodePolicy | None] = lambda _: None, *,
    wanted: int | None = None, max_rounds: int = 1, passes: Callable[[list[Answer]], bool] = lambda _: True,
    world: World | None = None,
) -> RolledOut:  # fmt: skip
    """Returns the judged answers to the groups that were asked for, none to a lost one, the same in every process.

    stream: the groups that may be asked for, in order; wanted: how many are to pass (None: all are asked for, once);
    passes: the filter, of one group that could be scored; policy_of: for problems with policies of their own. Each
    process of the world decodes and judges every size-th group. Errors that the user can fix are raised.
    """
    world = world or World()
    mine = range(world.rank, len(stream), world.size)
    asked = [pair for place in mine for pair in stream[place]]
    requests = requests_of(tokenizer, task, asked, policy_of)
    with ThreadPoolExecutor(1, thread_name_prefix="judging") as thread:
        refill = Refill(
            stream, len(stream) if wanted is None else wanted, max_rounds, passes, world,
            lambda examples, texts: thread.submit(task.judge.judge, examples, texts),
            lambda trajectory: decode_response(tokenizer, trajectory.response_ids),
        )  # fmt: skip
        try:
            for outcome in decoder.stream(requests, policy, release=refill):
                refill.take(outcome)
        finally:  # an interrupted stream leaves no group for later
            thread.shutdown(wait=False, cancel_futures=True)
    return refill.gathered()


@dataclass(slots=True)
class _Group:
    """What has become of one group so far."""

    asked: Asked
    trajectories: dict[int, Trajectory] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    """Trajectories and refusals by their number in the group."""
    texts: list[str] = field(default_factory=list)
    verdicts: Future[list[Verdict]] | None = None

    @property
    def is_complete(self) -> bool:
        return len(self.trajectories) + len(self.errors) == len(self.asked)


class Refill:
    """One process's part of a step's stream: what its decoder may decode by now (a `Release`), and what came of it.

    judge: begins to judge a group; text: what the judge is given of a response; the others as for `roll_out`.
    """

    def __init__(
        self, stream: Sequence[Asked], wanted: int, max_rounds: int, passes: Callable[[list[Answer]], bool],
        world: World, judge: Callable[[list[Example], list[str]], Future[list[Verdict]]],
        text: Callable[[Trajectory], str],
    ):  # fmt: skip
        self._limits, self._passes, self._world = (wanted, max_rounds), passes, world
        self._judge, self._text = judge, text
        self.asked, self.rounds = asked_by((), wanted, max_rounds)
        self.passed: set[int] = set()
        self.failed: set[int] = set()
        """The places in the stream of groups, of all processes, that are known to pass and to fail."""
        self._mine = range(world.rank, len(stream), world.size)
        self._owner = [(place, number) for place in self._mine for number in range(len(stream[place]))]
        self._groups = {place: _Group(stream[place]) for place in self._mine}
        self._ends = [0]  # of my groups, in requests
        for group in self._groups.values():
            self._ends.append(self._ends[-1] + len(group.asked))
        self.at_once = max(1, self._ends[min(-(-wanted // world.size), len(self._mine))])
        self._turns = 0
        self._new: list[int] = []
        self._due: list[int] = []
        """Groups that were complete in this window, and in the one before."""
        self._found: dict[int, tuple[list[Answer], RolloutLosses]] = {}

    def __call__(self) -> int | None:
        """How many of this process's requests may be decoded; None when every group that was asked for is decided."""
        if self._turns and self._turns % WINDOW_TURNS == 0:
            self._exchange()
        self._turns += 1
        if len(self.passed) + len(self.failed) == self.asked:
            return None
        return self._ends[len(range(self._world.rank, self.asked, self._world.size))]

    def take(self, outcome: DecodeResult) -> None:
        """Takes note of a row; a group that it completes goes to the judge, unless a row of it was refused."""
        place, number = self._owner[outcome.index]
        group = self._groups[place]
        if outcome.trajectory is not None:
            group.trajectories[number] = outcome.trajectory
        else:
            group.errors[number] = str(outcome.error)
        if not group.is_complete:
            return
        self._new.append(place)
        if not group.errors:
            group.texts = [self._text(group.trajectories[number]) for number in range(len(group.asked))]
            group.verdicts = self._judge([example for example, _ in group.asked], group.texts)

    def gathered(self) -> RolledOut:
        """Returns what came of all groups, of all processes, in the order of the stream."""
        if len(self.passed) + len(self.failed) < self.asked:
            raise TrainingError("the decoder ended its stream before all released groups were decoded and decided on")
        mine = [self._found[place] for place in self._mine if place < self.asked]
        found = self._world.gather(mine, self.asked)
        losses = sum((lost for _, lost in found), RolloutLosses())
        return RolledOut([answers for answers, _ in found], self.passed, self.rounds, losses)

    def _exchange(self) -> None:
        """The end of a window: decides on this process's groups that are due, and learns of those of the others."""
        decided = [(place, self._decide(place)) for place in self._due]
        self._due, self._new = self._new, []
        for share in self._world.gather([decided], self._world.size):
            for place, is_good in share:
                (self.passed if is_good else self.failed).add(place)
        self.asked, self.rounds = asked_by(self.failed, *self._limits)

    def _decide(self, place: int) -> bool:
        """Whether a complete group passes, once it is judged; notes its answers, if all have values, and what it
        lost."""
        group = self._groups[place]
        answers, losses = self._answers(group)
        unscored = [answer for answer in answers if not has_value(answer)]
        if unscored:
            first = unscored[0]
            losses.groups_unscorable = 1
            losses.first_unscored = f"{first.example.uid}: {first.verdict.status}, {first.verdict.detail}"
            answers = []
        self._found[place] = answers, losses
        group.trajectories.clear()
        return bool(answers) and self._passes(answers)

    def _answers(self, group: _Group) -> tuple[list[Answer], RolloutLosses]:
        """A group's judged answers, none where it is lost. Waits for the judge."""
        if group.verdicts is None:
            first = group.errors[min(group.errors)]
            return [], RolloutLosses(rows_refused=len(group.errors), groups_refused=1, first_refusal=first)
        try:
            rows = list(zip(group.asked, group.texts, group.verdicts.result(), strict=True))
        except LightningRLError:
            raise
        except Exception as error:  # a judge may be anybody's code; what it raised is counted, logged and bounded
            text = "the judge failed over %d responses to %s; their group is left out"
            _log.error(text, len(group.texts), group.asked[0][0].uid, exc_info=error)
            why = f"{type(error).__name__}: {error}"
            return [], RolloutLosses(judge_errors=1, groups_unjudged=1, first_judge_error=why)
        return [
            Answer(example, group.trajectories[number], text, verdict)
            for number, ((example, _), text, verdict) in enumerate(rows)
        ], RolloutLosses()
