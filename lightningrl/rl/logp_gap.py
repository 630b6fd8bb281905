"""The gap between the decoder's log-probabilities and the trainer's: what may be, and what follows where it is more.

It is measured at every first update. In float32 equal weights give equal numbers but for rounding; in bfloat16 other
kernels on both sides round differently at every layer. At a run's first updating step too large a gap means other
weights, another block size or another precision, and stops the run; later it is logged, and noted in the step's row,
because a stop would come again at every attempt while what has been learned may be sound.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from lightningrl.errors import CheckpointError

if TYPE_CHECKING:
    from lightningrl.config.train import Run

ALLOWED_NATS = {"float32": 0.05, "bfloat16": 0.5}
"""The largest mean gap a token by the precision of the run's forwards, where `runs.max_logp_gap` says no other."""
_log = logging.getLogger(__name__)


def allowed_nats(run: Run) -> float:
    """Returns the largest mean gap that a run may have, nats per token."""
    return ALLOWED_NATS[run.precision] if run.max_logp_gap is None else run.max_logp_gap


def check_gap(mean: float | None, run: Run, *, step: int, is_first: bool) -> dict[str, Any]:
    """Returns what a step's metrics say of a gap that is too large: `logp_gap_allowed`; nothing where it is not.

    mean: nats per token, None where an update left nothing to measure. is_first: no update has been taken before.
    Raises CheckpointError there.
    """
    allowed = allowed_nats(run)
    if mean is None or not mean > allowed:  # a mean that is no number is the skipped update's to tell
        return {}
    found = f"decoder and trainer disagree by {mean:.3f} nats per token (allowed: {allowed:g})"
    if is_first:
        raise CheckpointError(
            f"{found}. They must have the same weights, block size and precision. Where the gap is that of the kernels "
            "of this device, set runs.max_logp_gap above it."
        )
    _log.warning("step %d: %s; old log-probabilities are the decoder's: clipping sees the gap as a ratio", step, found)
    return {"logp_gap_allowed": allowed}
