"""The order of prompts, what rollouts give and lose, and the sampler that draws groups until enough pass the filter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass

import numpy as np

from lightningrl.answering import Answer
from lightningrl.rl.groups import Groups
from lightningrl.types import Example

Asked = list[tuple[Example, int]]
"""The examples and sample numbers of one group."""


class PromptOrder:
    """An endless order of the training prompts: a new permutation each pass, keyed by (seed, pass)."""

    def __init__(self, size: int, seed: int, cursor: int = 0):
        self.size, self.seed, self.cursor = size, seed, cursor
        self._pass, self._order = -1, np.zeros(0, dtype=np.int64)

    def take(self, count: int) -> list[int]:
        """Returns the next `count` indices; moves the cursor."""
        taken = self.look(count)
        self.cursor += count
        return taken

    def look(self, count: int) -> list[int]:
        """Returns the next `count` indices."""
        taken = []
        for position in range(self.cursor, self.cursor + count):
            turn, offset = divmod(position, self.size)
            if turn != self._pass:
                self._pass, self._order = turn, np.random.default_rng([self.seed, turn]).permutation(self.size)
            taken.append(int(self._order[offset]))
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
    """Groups of those calls, each of which is over one."""
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


@dataclass(frozen=True, slots=True)
class RolledOut:
    """What came of the first groups of a stream (rl/rollout_stream.py)."""

    groups: list[list[Answer]]
    """The answers to each group that was asked for, in the order of the stream; none to one that was lost."""
    passed: set[int]
    """Which of them passed the filter, by place."""
    rounds: int
    losses: RolloutLosses


def draw_groups(
    examples: Sequence[Example], order: PromptOrder, wanted: int, responses: int, max_rounds: int,
    roll: Callable[[list[Asked], Callable[[list[Answer]], bool]], RolledOut],
    keep: Callable[[Groups], np.ndarray], read: Callable[[list[list[Answer]]], Groups],
) -> RolloutBatch:  # fmt: skip
    """Rolls out prompts until `wanted` groups pass the filter; a prompt that fails is replaced by the next in order.

    A group is rolled out once, and no more of them than in `max_rounds` rounds, each of which asks for as many groups
    as are missing. roll: of a stream of groups and the filter of one; keep: (N,) bool of groups, each for itself; read:
    makes groups of answers.
    """
    stream, drawn = list[Asked](), Counter[str]()
    for example in (examples[index] for index in order.look(wanted * max_rounds)):
        # A prompt drawn again in one step (the seam of two passes) gets other samples, hence other draws.
        stream.append([(example, drawn[example.uid] + number) for number in range(responses)])
        drawn[example.uid] += responses
    found = roll(stream, lambda group: bool(keep(read([group]))[0]))
    order.take(len(found.groups))
    kept = [group for place, group in enumerate(found.groups) if place in found.passed]
    return RolloutBatch(read([group for group in found.groups if group]), read(kept), found.rounds, found.losses)
