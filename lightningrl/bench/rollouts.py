"""What the rollouts of a step cost as rounds with a barrier each, as they were, and as one refilled stream.

Both decode the same responses of random weights. Stop tokens are so many that lengths are about geometric, up to a
limit; which groups fail the filter is drawn beforehand; the judge is a pause for each group. A round waits for its
longest response and for the judge, and computes a prompt for each response. The rounds are not the trainer's: they
decode what the stream has shown that they would ask for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.schedules.block import FusedCommit
from lightningrl.decoding.selectors.scripted import Scripted
from lightningrl.models.transformer import Transformer
from lightningrl.rl.rollout_stream import Refill
from lightningrl.training.world import World
from lightningrl.types import Example, Trajectory, Verdict

Found = dict[tuple[str, int], Trajectory]


class Unshared(FusedCommit):
    """Each row computes its own prompt."""

    shares_prompt = False


@dataclass(frozen=True, slots=True)
class Step:
    """The rollouts of one step."""

    prompts: int = 8
    responses: int = 8
    max_rounds: int = 4
    kept: float = 0.65
    """Share of groups that pass the filter."""
    rows: int = 32
    prompt_tokens: int = 64
    mean_tokens: float = 24.0
    """The mean length of a response, about, where the limit is far."""
    max_new_tokens: int = 256
    tokens_per_step: float = 4.0
    judge_s: float = 0.0
    """Seconds of judging a group."""

    def stream(self) -> list[list[tuple[Example, int]]]:
        """Returns the groups that a step may ask for."""
        return [
            [(Example(f"bench/{place}", (), {}), sample) for sample in range(self.responses)]
            for place in range(self.prompts * self.max_rounds)
        ]

    def requests(self, vocab: int) -> list[list[Request]]:
        """Returns the same as requests, with random prompts."""
        rng = np.random.default_rng(0)
        prompts = [rng.integers(0, vocab - 1, self.prompt_tokens) for _ in self.stream()]
        return [
            [Request(example.uid, sample, prompt, self.max_new_tokens) for example, sample in group]
            for group, prompt in zip(self.stream(), prompts, strict=True)
        ]

    def failing(self) -> set[str]:
        """Returns the groups that fail the filter."""
        draws = np.random.default_rng(1).random(self.prompts * self.max_rounds)
        return {f"bench/{place}" for place in np.flatnonzero(draws >= self.kept)}


def run_benchmark(model: Transformer, step: Step, repeats: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Returns {"lines": one a way, "asked": groups, "rounds": ..., "parted": responses that are not the same tokens}.

    The two ways take turns; forwards, rows and positions are counted, seconds are medians.
    """
    vocab = model.config.vocab_size
    stops = range(max(1, round(vocab / step.mean_tokens)))
    policy = DecodePolicy(Scripted(step.tokens_per_step), 1.0)
    decoder = BlockDecoder(model, [stop for stop in stops if stop != model.config.mask_token_id], rows=step.rows)
    requests, seconds, lines, found = step.requests(vocab), dict[str, list[float]](), dict[str, Any](), list[Found]()
    asked, rounds = _streamed(decoder, step, requests, policy)[1:]  # the first run pays for what is set up once
    ways: dict[str, Callable[[], Found]] = {
        "rounds": lambda: _in_rounds(decoder, step, requests, replace(policy, schedule=Unshared()), asked),
        "stream": lambda: _streamed(decoder, step, requests, policy)[0],
    }
    for number in range(1, repeats + 1):
        for name, way in ways.items():
            decoder.ledger.clear()
            began = time.perf_counter()
            found.append(way())
            seconds.setdefault(name, []).append(time.perf_counter() - began)
            lines[name] = _counted(decoder, step)
        report(f"round {number} of {repeats}")
    parted = sum(not np.array_equal(one.token_ids, found[1][key].token_ids) for key, one in found[0].items())
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "dtype": str(model.lm_head.weight.dtype).removeprefix("torch."),
        "asked": asked,
        "rounds": rounds,
        "responses": len(found[1]),
        "parted": parted,
        "lines": [{"way": name} | lines[name] | {"seconds": float(np.median(seconds[name]))} for name in ways],
    }


def _streamed(
    decoder: BlockDecoder, step: Step, requests: Sequence[Sequence[Request]], policy: DecodePolicy
) -> tuple[Found, int, int]:
    """Returns the responses of the trainer's own stream, how many groups it asked for, and in how many rounds."""
    failing, found = step.failing(), Found()

    def judge(examples: list[Example], _: list[str]) -> list[Verdict]:
        time.sleep(step.judge_s)
        return [Verdict(True, 1.0, "ok")] * len(examples)

    with ThreadPoolExecutor(1) as thread:
        refill = Refill(
            step.stream(), step.prompts, step.max_rounds, lambda group: group[0].example.uid not in failing, World(),
            lambda examples, texts: thread.submit(judge, examples, texts), lambda _: "",
        )  # fmt: skip
        for outcome in decoder.stream([each for group in requests for each in group], policy, release=refill):
            assert outcome.trajectory is not None
            found[outcome.request.uid, outcome.request.sample] = outcome.trajectory
            refill.take(outcome)
    return found, refill.asked, refill.rounds


def _in_rounds(
    decoder: BlockDecoder, step: Step, requests: Sequence[Sequence[Request]], policy: DecodePolicy, asked: int
) -> Found:
    """Returns the responses of the same groups, each round of which is decoded and judged before the next."""
    failing, found, begins, ends = step.failing(), Found(), 0, step.prompts
    while begins < asked:
        decoded = decoder.decode([each for group in requests[begins:ends] for each in group], policy)
        found |= {(trajectory.uid, trajectory.sample): trajectory for trajectory in decoded}
        time.sleep(step.judge_s * (ends - begins))
        missing = sum(group[0].uid in failing for group in requests[begins:ends])
        begins, ends = ends, min(asked, ends + missing)
    return found


def _counted(decoder: BlockDecoder, step: Step) -> dict[str, float]:
    parts = [part for forward in decoder.ledger.forwards for part in forward.parts]
    forwards, row_turns = len(decoder.ledger.forwards), sum(part.rows for part in parts)
    return {
        "forwards": forwards,
        "row_turns": row_turns,
        "busy_pct": 100 * row_turns / (forwards * step.rows),
        "prefilled": sum(part.positions for part in parts if part.kind == "prefill"),
        "positions": decoder.ledger.positions,
    }
