"""What a schedule and a selector say, checked before it is used: a mistake of theirs would decode forever.

Shapes: B rows; K positions of a block.
"""

from __future__ import annotations

import numpy as np

from lightningrl.decoding.canvas import Interval, Progress, Schedule
from lightningrl.decoding.protocol import Selector
from lightningrl.errors import DecodeError
from lightningrl.models.attention import key_limits
from lightningrl.models.transformer import ModelConfig


def interval_of(config: ModelConfig, schedule: Schedule, at: Progress, size: int, reach_B: np.ndarray) -> Interval:
    """Returns what the next forward of each row computes.

    config: the model's; where its logits are shifted, a position is predicted by the one before it, which a denoise
    forward then computes too. It was computed before; under block-causal and causal attention with the same tokens in
    sight, so its keys and values stay what they were, while those that a cache of a whole canvas keeps grow new ones.
    at: how far the rows are. reach_B: what the schedule's `reach` says.
    """
    found = schedule.interval(at, size)
    check_interval(schedule, found, at, size)
    check_reach(config, schedule, found, at, reach_B)
    if not config.logit_shift or schedule.knows_first or schedule.is_productive:
        return found
    before_B = np.minimum(found.first_B, np.maximum(at.start_B - 1, 0))
    return found._replace(first_B=np.where(found.denoises_B, before_B, found.first_B))


def check_interval(schedule: Schedule, found: Interval, at: Progress, size: int) -> None:
    """Raises DecodeError for a schedule whose forward does nothing for one of its rows. at: what it was asked with."""
    (first_B, last_B, denoises_B, _), (start_B, pending_B, end_B, *_) = found, at
    least = size if schedule.computes_active else 0
    is_whole_B = ((first_B <= start_B) & (last_B >= start_B + least)) | schedule.is_productive
    is_within_B = (first_B >= 0) & (first_B < last_B) & (last_B <= end_B)
    wrong = np.flatnonzero(~(is_within_B & np.where(denoises_B, is_whole_B, pending_B)))
    if len(wrong):
        first, last, denoises, start, end = (int(a[wrong[0]]) for a in (first_B, last_B, denoises_B, start_B, end_B))
        raise DecodeError(
            f"{schedule} computes positions {first} to {last - 1}, denoises {'them' if denoises else 'nothing'}, but "
            f"the active block is {start} to {start + size - 1} and the last position {end - 1}: it would never end. "
            "Its `interval` must hold and denoise that whole block, or else compute a finished one that is pending"
        )


def check_reach(config: ModelConfig, schedule: Schedule, found: Interval, at: Progress, reach_B: np.ndarray) -> None:
    """Raises DecodeError for a schedule whose forward computes or sees positions for which the row has no pages.
    reach_B: what its `reach` says."""
    last_B = found.last_B
    limit_B = key_limits(config, last_B[:, None] - 1, at.end_B)[:, 0]
    beyond = np.flatnonzero(np.maximum(last_B, limit_B) > reach_B)
    if len(beyond):
        last, limit, reach = (int(a[beyond[0]]) for a in (last_B, limit_B, reach_B))
        raise DecodeError(
            f"{schedule} computes up to position {last - 1}, which sees up to {limit - 1} in a {config.family} model "
            f"({config.attention}, blocks of {config.block_size}), but has pages up to {reach - 1} only: its `reach` "
            "must return all that its forwards compute and see, or its `interval` compute less"
        )


def check_open(schedule: Schedule, open_BK: np.ndarray, masked_BK: np.ndarray) -> None:
    """Raises DecodeError for a schedule that opens what is not masked, or nothing of a block that has masks."""
    if (open_BK & ~masked_BK).any():
        raise DecodeError(f"{schedule} opens positions that are not masked: its `open` must return a subset")
    if (masked_BK.any(axis=1) & ~open_BK.any(axis=1)).any():
        raise DecodeError(f"{schedule} opens nothing of a block with masked positions: it would never end")


def check_computed(schedule: Schedule, at_BK: np.ndarray, open_BK: np.ndarray, queries_B: np.ndarray) -> None:
    """Raises DecodeError for a schedule that opens positions whose logits its forward does not compute. at: where they
    would be among the row's queries."""
    if (open_BK & ((at_BK < 0) | (at_BK >= queries_B[:, None]))).any():
        raise DecodeError(
            f"{schedule} opens positions whose logits its forward does not compute: its `interval` must hold them, or, "
            "where the model's logits are shifted, the positions before them"
        )


def check_revealed(selector: Selector, revealed_B: np.ndarray, open_BK: np.ndarray) -> None:
    """Raises DecodeError for a selector that reveals nothing of a row's open positions, and is none that may."""
    if getattr(selector, "may_wait", False):
        return
    if (open_BK.any(axis=1) & (revealed_B == 0)).any():
        raise DecodeError(f"{selector} revealed nothing in a block with open positions: it would never end")
