"""A stage's decoder, policy and task, from its config and the members that the plan resolved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightningrl.answering import Task
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.errors import ConfigError
from lightningrl.judges.protocol import Judge
from lightningrl.models.transformer import Transformer
from lightningrl.tokenization import stop_token_ids
from lightningrl.utils.registry import resolve


def make_policy(config: Mapping[str, Any], parameter: float, temperature: float = 0.0, seed: int = 0) -> DecodePolicy:
    """The policy of a stage's config: the members the plan resolved, the selector at `parameter`.

    Raises ConfigError when the selector does not take `decoding.selector_options`.
    """
    members, decoding = config["members"], config["decoding"]
    try:
        selector = resolve(members["selector"])(parameter, **decoding.selector_options)
    except TypeError as error:
        raise ConfigError(f"decoding.selector_options {decoding.selector_options}: {error}") from None
    try:
        schedule = resolve(members["schedule"])(**decoding.schedule_options)
    except TypeError as error:
        raise ConfigError(f"decoding.schedule_options {decoding.schedule_options}: {error}") from None
    pieces = {name: resolve(members[name])() for name in ("ranking", "stop")}
    return DecodePolicy(selector, temperature, seed=seed, schedule=schedule, **pieces)


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
