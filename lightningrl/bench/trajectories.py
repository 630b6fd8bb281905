"""Trajectories for measurements of training: drawn from a histogram of denoise steps, or recorded from a checkpoint.

The histogram is parametric: how many of 1,000 blocks of 32 take 1, 2, ... denoise steps if the steps are 1 +
Poisson(7). Its mean is 8 steps per block, 4 tokens per forward; it was not measured. A Poisson law is narrow for this
purpose: the work that packing saves grows with the steps of a sequence's slowest block over the mean, and the blocks of
a trained model differ more, so it is not a flattering choice. `--histogram` takes another one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightningrl.benchmarks.gsm_mini import GSM_MINI
from lightningrl.benchmarks.protocol import NO_ROWS, PromptOptions
from lightningrl.config.decoding import Decoding
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.inference.llm import LLM
from lightningrl.models.transformer import Transformer
from lightningrl.types import DecodeStats, Trajectory

STEPS_OF_1000_BLOCKS = tuple(round(1000 * 7**k * math.exp(-7) / math.factorial(k)) for k in range(18))
"""Blocks that take 1, 2, 3, ... steps; fewer than half a block takes more than 18."""
BLOCK_SIZE = 32


def drawn(
    count: int,
    *,
    prompt_tokens: int,
    new_tokens: int,
    block_size: int,
    vocab: int,
    histogram: Sequence[int] = STEPS_OF_1000_BLOCKS,
    seed: int = 0,
) -> list[Trajectory]:
    """Returns `count` trajectories of random tokens below `vocab`, whose blocks' numbers of steps follow the histogram.

    Which step reveals which position is random. new_tokens: rounded up to the block grid.
    """
    rng = np.random.default_rng(seed)
    share = np.asarray(histogram, dtype=float)
    found = []
    for number in range(count):
        steps, before = [], 0
        for start in range(prompt_tokens // block_size * block_size, prompt_tokens + new_tokens, block_size):
            width = start + block_size - max(start, prompt_tokens)
            taken = min(width, 1 + int(rng.choice(len(share), p=share / share.sum())))
            own = np.concatenate([np.arange(taken), rng.integers(0, taken, width - taken)])
            steps.append(before + 1 + rng.permutation(own))
            before += taken
        reveal = np.concatenate(steps)
        prompt, response = (rng.integers(0, vocab, n) for n in (prompt_tokens, len(reveal)))
        nothing = np.zeros(len(reveal), dtype=np.float32)
        stats = DecodeStats(len(reveal), len(reveal), before, 0, 0)
        found.append(
            Trajectory(
                f"bench/train/{number}", 0, prompt, response, len(reveal), reveal, nothing, block_size, 1.0, "length",
                0, stats,
            )
        )  # fmt: skip
    return found


def recorded(
    folder: Path,
    prompts: int,
    *,
    max_new_tokens: int,
    threshold: float,
    block_size: int | None,
    device: str,
    plugins: Sequence[str] = (),
) -> tuple[Transformer, list[Trajectory]]:
    """Returns a checkpoint's model and its responses to test problems of gsm-mini at temperature 1.

    Raises ConfigError for a threshold that is no probability, before anything is loaded."""
    Decoding.model_validate({}).check_parameter("--threshold", threshold)
    llm = LLM(folder, block_size=block_size, device=device, plugins=plugins)
    examples = GSM_MINI.load({"train": 0, "validation": 0, "test": prompts}, 0, NO_ROWS)["test"]
    prompted = [(example.uid, GSM_MINI.render(example, PromptOptions())) for example in examples]
    requests = [llm.request(words, uid=uid, max_new_tokens=max_new_tokens) for uid, words in prompted]
    return llm.model, llm.decoder.decode(requests, DecodePolicy(Threshold(threshold), 1.0))
