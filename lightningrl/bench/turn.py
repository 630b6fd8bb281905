"""The processor time of one turn of the decoder when the device does the rest: what the host adds to every forward.

The decoder runs whole turns on the device (decoding/device_turn.py); what a graph's replay would launch is replaced by
a stub that reveals as many of the leftmost masked positions as the selector asks for. Everything else is the decoder's
own: the queue, the rows, the pages, the table of the turn and the result read. On a CPU the two copies are copies in
memory; what CUDA's driver takes for two copies, a launch and a wait is not in the figure.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lightningrl.bench.decode import Workload
from lightningrl.decoding import device_turn
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.ledger import Forward, Ledger
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.selectors.scripted import Scripted
from lightningrl.models.transformer import Transformer


@dataclass(slots=True)
class ProcessorClock(Ledger):
    """A ledger that notes each forward's kind and the thread's processor seconds since the forward before it."""

    seconds: list[tuple[str, float]] = field(default_factory=list)
    _mark: float = 0.0

    def start(self) -> None:
        self._mark = time.thread_time()

    def add(self, forward: Forward) -> None:
        now = time.thread_time()
        self.seconds.append((forward.parts[0].kind, now - self._mark))
        self._mark = now


@torch.no_grad()
def host_time(model: Transformer, workload: Workload, batch: int, repeats: int) -> dict[str, Any]:
    """Returns the median processor milliseconds of a denoise turn and of a fused one, and how many were measured."""
    decoder = BlockDecoder(model, (), rows=batch, forwards="turns")
    requests = workload.requests(batch, model.config.vocab_size)
    policy = DecodePolicy(Scripted(workload.tokens_per_step))
    decoder.decode(requests, policy)
    assert decoder.pool is not None and decoder.pool.turns is not None
    decoder.pool.turns.stub(_reveal)
    clock = ProcessorClock()
    decoder.ledger = clock
    for _ in range(repeats):
        clock.start()
        decoder.decode(requests, policy)
    found: dict[str, Any] = {"batch": batch, "block_size": model.config.block_size}
    for kind in ("denoise", "fused"):
        seconds = [taken for name, taken in clock.seconds if name == kind]
        found |= {f"{kind}_turns": len(seconds), f"{kind}_ms": 1e3 * float(np.median(seconds)) if seconds else math.nan}
    return found


def _reveal(turns: device_turn.DeviceTurns, active: int, table_SC: np.ndarray) -> None:
    """Does what a replay would have done to the device's state and result, whatever the model says."""
    size, state_RT = turns.size, turns.state_RT.numpy()
    found_4n = turns.found(active).numpy()
    found_4n[:] = 0.0
    for line in range(active):
        slot, first = table_SC[line, device_turn.SLOT], table_SC[line, device_turn.FIRST]
        block_K = state_RT[slot, first : first + size]
        chosen = np.flatnonzero(block_K < 0)[: table_SC[line, device_turn.LEAST]]
        block_K[chosen] = 0
        found_4n[3, line * size + chosen] = 1.0
