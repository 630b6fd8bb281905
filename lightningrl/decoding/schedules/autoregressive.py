"""The schedule of autoregressive models (Qwen2.5, Llama 3): one token a forward, from left to right, over a KV cache.

A forward computes the last known position alone; its logits predict the next one. No mask is ever computed. The prompt
is prefilled whole, so its last position is computed once more by the first of these forwards, to the same keys and
values: a response of n tokens takes one prefill and n forwards that reveal one token each.

Shapes: B rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightningrl.decoding.canvas import Interval, Progress, Schedule


@dataclass(frozen=True, slots=True)
class Autoregressive(Schedule):
    """Every position is a block; the active one is predicted by the one before it."""

    block_size = 1
    computes_active = False

    def interval(self, at: Progress, size: int) -> Interval:
        return Interval(at.start_B - 1, at.start_B, np.ones_like(at.pending_B))
