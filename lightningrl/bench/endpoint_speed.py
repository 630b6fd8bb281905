"""Tokens a second of a server on real prompts: a warm-up, then batches of requests one after another, several times.

Seconds are of whole requests as a client sees them, network and prefill included; a batch ends with its last answer.
Tokens are the server's own count (`usage`), for want of another: without it there is no speed. A request that fails is
not tried again, since its pause would be measured. No torch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import numpy as np

from lightningrl.bench.rates import rate_interval
from lightningrl.config.endpoint import Endpoint
from lightningrl.errors import StageError
from lightningrl.inference.endpoint.client import EndpointClient
from lightningrl.inference.endpoint.reply import Reply, RequestFailed
from lightningrl.inference.endpoint.request import EndpointRequest


@dataclass(frozen=True, slots=True)
class EndpointBatch:
    """One batch of one repetition."""

    seconds: float
    replies: tuple[Reply, ...]

    @property
    def tokens(self) -> int:
        return sum(reply.completion_tokens or 0 for reply in self.replies)


@dataclass(frozen=True, slots=True)
class EndpointSpeed:
    """All batches of all repetitions: `repeats[r][b]`."""

    repeats: tuple[tuple[EndpointBatch, ...], ...]

    def figures(self) -> dict[str, Any]:
        """Returns the sums and rates of the repetition of median seconds, of two in the middle the quicker one."""
        totals = [sum(batch.seconds for batch in repeat) for repeat in self.repeats]
        batches = self.repeats[totals.index(median_low(totals))]
        replies = [reply for batch in batches for reply in batch.replies]
        seconds, tokens = sum(batch.seconds for batch in batches), sum(batch.tokens for batch in batches)
        counted = [reply for reply in replies if reply.forwards is not None]
        forwards = sum(reply.forwards or 0 for reply in counted)
        return {
            "tokens": tokens,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "tokens_by": "the server's word",
            "forwards_reported": forwards if counted else None,
            "tpf_reported": sum(reply.completion_tokens or 0 for reply in counted) / forwards if counted else None,
        }

    def interval(self, seed: int) -> tuple[float, float]:
        """Returns the 95 % interval of tokens per second."""
        tokens_RB = np.array([[batch.tokens for batch in repeat] for repeat in self.repeats])
        return rate_interval(tokens_RB, np.array([[b.seconds for b in repeat] for repeat in self.repeats]), seed)


def measure_endpoint(
    endpoint: Endpoint,
    requests: Sequence[EndpointRequest],
    *,
    warmup: int,
    batch: int,
    repeats: int,
    between: Callable[[], None] = lambda: None,
    told: Callable[[int, tuple[EndpointBatch, ...]], None] = lambda number, batches: None,
) -> EndpointSpeed:
    """Asks all requests `repeats` times. between: called before each batch, may raise; told: after a repetition.

    Raises StageError for a request that fails, and for an answer whose tokens the server does not count.
    """

    async def ask(client: EndpointClient, group: Sequence[EndpointRequest]) -> EndpointBatch:
        between()
        began = time.perf_counter()
        try:
            answers = await asyncio.gather(*(client.ask(request) for request in group))
        except RequestFailed as error:
            raise StageError(f"the endpoint {endpoint.model}: a request of the measurement failed: {error}") from None
        found = EndpointBatch(time.perf_counter() - began, tuple(reply for reply, _ in answers))
        for request, reply in zip(group, found.replies, strict=True):
            if not reply.completion_tokens:
                why = "; ".join(reply.doubts) or "its replies have no `usage.completion_tokens`"
                raise StageError(f"the endpoint {endpoint.model} does not count the tokens of {request.uid}: {why}")
        return found

    async def run() -> EndpointSpeed:
        groups = [requests[start : start + batch] for start in range(0, len(requests), batch)]
        once = endpoint.model_copy(update={"retries": 0, "concurrency": batch})
        async with EndpointClient(once) as client:
            for group in groups[: -(-warmup // batch)]:
                await ask(client, group)
            found = []
            for number in range(1, repeats + 1):
                found.append(tuple([await ask(client, group) for group in groups]))
                told(number, found[-1])
        return EndpointSpeed(tuple(found))

    return asyncio.run(run())
