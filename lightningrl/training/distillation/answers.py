"""The answers that a distillation trains on: as lines of `distilled.jsonl`, and as sequences of one length.

Shapes: P prompt tokens; N response tokens, pads included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lightningrl.answering import Answer
from lightningrl.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One training sequence."""

    prompt_ids: np.ndarray
    """[P] int64."""
    response_ids: np.ndarray
    """[N] int64: the answer, and pads."""
    order: np.ndarray | None
    """[N] int64: the forward that revealed each token when the answer was decoded, pads after all others from left to
    right; None where nobody decoded it."""

    @property
    def prompt_len(self) -> int:
        return len(self.prompt_ids)

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)

    @property
    def ids(self) -> np.ndarray:
        """[L] prompt and response."""
        return np.concatenate([self.prompt_ids, self.response_ids])


def row_of(answer: Answer) -> dict[str, Any]:
    """Returns a decoded and judged answer as a line of `distilled.jsonl`, up to its stop token."""
    trajectory = answer.trajectory
    return {
        "uid": answer.example.uid,
        "sample": trajectory.sample,
        "prompt_ids": trajectory.prompt_ids.tolist(),
        "response_ids": trajectory.response_ids.tolist(),
        "order": trajectory.reveal_step[: trajectory.response_len].tolist(),
        "text": answer.text,
        "correct": answer.verdict.correct,
        "status": answer.verdict.status,
    }


class LeftOut(NamedTuple):
    """How many answers are not trained on, by reason."""

    without_room: int
    """Their prompts are as long as a training sequence, or longer."""
    too_long: int
    """They are, with their prompts, longer than the model's context."""


def targets_of(
    rows: Sequence[Mapping[str, Any]], pad_token_id: int, *, length: int | None, new_tokens: int, grid: int | None,
    limit: int, where: str,
) -> tuple[list[Target], LeftOut]:  # fmt: skip
    """Returns the lines as sequences, each response filled with pads or cut; and how many lines are left out.

    length: tokens of prompt and response together, or None: `new_tokens` after the prompt. grid: the block size of a
    block-causal model, whose responses are filled to the end of their last block and no further, and end on the grid.
    limit: the positions of the model. Raises ConfigError, which begins with the run's key `where`, when none is left.
    """
    found, without_room, too_long = list[Target](), 0, 0
    for row in rows:
        prompt_ids = np.asarray(row["prompt_ids"], dtype=np.int64)
        answer = np.asarray(row["response_ids"], dtype=np.int64)
        total = length or len(prompt_ids) + new_tokens
        if grid is not None:
            total = total // grid * grid if length else -(-total // grid) * grid
            total = min(total, -(-(len(prompt_ids) + len(answer)) // grid) * grid)
        room = total - len(prompt_ids)
        if room < 1 or total > limit:
            without_room, too_long = without_room + (room < 1), too_long + (room >= 1)
            continue
        answer = answer[:room]
        pads = room - len(answer)
        order = row.get("order")
        if order is not None:
            last = max(order, default=0)
            order = np.concatenate([np.asarray(order, dtype=np.int64)[:room], last + 1 + np.arange(pads)])
        found.append(Target(prompt_ids, np.concatenate([answer, np.full(pads, pad_token_id, dtype=np.int64)]), order))
    if not found:
        raise ConfigError(
            f"{where}.method.data: none of {len(rows)} answers can be trained on. The prompts of {without_room} leave "
            f"no room within `length` ({length}), so make that longer; {too_long} need more than the model's {limit} "
            "positions"
        )
    return found, LeftOut(without_room, too_long)
