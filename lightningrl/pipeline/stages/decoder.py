"""A stage's decoder, policy and task, from its config and the members that the plan resolved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightningrl.answering import Task
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.inference.build_policy import build_policy
from lightningrl.judges.protocol import Judge
from lightningrl.models.transformer import Transformer
from lightningrl.tokenization import stop_token_ids
from lightningrl.utils.registry import resolve


def make_policy(config: Mapping[str, Any], parameter: float, temperature: float = 0.0, seed: int = 0) -> DecodePolicy:
    """Returns the policy of a stage's config, its selector at `parameter`. Raises what `build_policy` raises."""
    return build_policy(config["decoding"], config["members"], parameter, temperature=temperature, seed=seed)


def make_decoder(
    config: Mapping[str, Any], model: Transformer, tokenizer: Any, checkpoint: Path | None = None
) -> BlockDecoder:
    """The decoder of a stage's config; `checkpoint`: the folder that says what else ends a response."""
    decoding = config["decoding"]
    budget = None if decoding.memory_mb is None else decoding.memory_mb * 1_000_000
    return BlockDecoder(model, stop_token_ids(tokenizer, checkpoint), rows=decoding.rows, memory_bytes=budget)


def make_task(config: Mapping[str, Any], judge: Judge) -> Task:
    """The benchmark as the config words it."""
    benchmark, prompt = resolve(config["members"]["benchmark"]), config["prompt"]
    return Task(lambda example: benchmark.render(example, prompt), judge, config["max_new_tokens"], prompt.compat)
