"""A stage's decoder, policy, task and requests, from its config and the members that the plan resolved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lightningrl.answering import Task
from lightningrl.config.decoding import Decoding
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.fitting import check_fits
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.judges.protocol import Judge
from lightningrl.models.config_file import family_named, read_config
from lightningrl.models.transformer import Transformer
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.loading import load_policy
from lightningrl.tokenization import encode_prompts, load_tokenizer, stop_token_ids
from lightningrl.training.world import device_of
from lightningrl.types import Example
from lightningrl.utils.registry import resolve

Config = Mapping[str, Any]


def make_decoder(
    config: Config, model: Transformer, tokenizer: Any, checkpoint: Path | None = None, forwards: str = ""
) -> BlockDecoder:  # fmt: skip
    """Returns the decoder of a stage's config; `checkpoint`: the folder that says what else ends a response; forwards:
    in place of the config's."""
    decoding, named = config["decoding"], family_named(model.config.family).stop_tokens
    stops = stop_token_ids(tokenizer, checkpoint, named)
    return BlockDecoder(
        model, stops, rows=decoding.rows, memory_bytes=decoding.memory_bytes, forwards=forwards or decoding.forwards
    )  # fmt: skip


def load_decoder(
    context: StageContext,
    config: Config,
    policy: DecodePolicy,
    examples: Sequence[Example],
    role: str = "policy",
    where: str = "",
) -> tuple[BlockDecoder, Any]:
    """Loads the weights of an input in the stage's precision; returns the decoder of a config with its tokenizer.

    config: the stage's, or what stands in its place for this input. policy, examples: what it is for; where: the key
    that says how it decodes, if that is neither the experiment's nor a system's. Raises ConfigError, before a weight is
    read, where the checkpoint's family cannot be decoded so, or one of the problems does not fit into its context.
    """
    checkpoint = context.inputs[role]
    tokenizer = load_tokenizer(checkpoint)
    name = config.get("policy") or config.get("name") or role
    where = where or f"the decoder of {name} (`decoding`, or its entry of `systems`)"
    check_decoding(config, config["decoding"], checkpoint, tokenizer, [policy], examples, where)
    model, tokenizer = load_policy(checkpoint, device_of(context.device), context.config["precision"])
    return make_decoder(config, model, tokenizer, checkpoint), tokenizer


def check_decoding(
    config: Config,
    decoding: Decoding,
    checkpoint: Path,
    tokenizer: Any,
    policies: Iterable[DecodePolicy],
    examples: Sequence[Example],
    where: str,
    has_planner: bool = False,
) -> None:
    """Raises ConfigError, by config.json and the tokenizer alone, where a checkpoint cannot answer these problems by
    one of the policies. config: the stage's, which says how problems are worded; where: what the decoder is;
    has_planner: it will have one when it decodes, if it has none yet."""
    shape = read_config(checkpoint)
    shape = replace(shape, has_planner=shape.has_planner or has_planner)
    longest = max(make_requests(config, tokenizer, examples), key=lambda request: len(request.prompt_ids))
    benchmark = longest.uid.partition("/")[0]
    for policy in policies:
        check_fits(
            shape, policy, longest.max_new_tokens, len(longest.prompt_ids), forwards=decoding.forwards, where=where,
            length=f"benchmarks.{benchmark}.max_new_tokens, or its prompts, the longest of which is {longest.uid}",
        )  # fmt: skip


def make_task(config: Config, judge: Judge) -> Task:
    """Returns the benchmark as the config words it."""
    benchmark, prompt = resolve(config["members"]["benchmark"]), config["prompt"]
    return Task(lambda example: benchmark.render(example, prompt), judge, config["max_new_tokens"], prompt.compat)


def make_requests(config: Config, tokenizer: Any, examples: Sequence[Example]) -> list[Request]:
    """Returns a request for each problem, as the config words it."""
    benchmark, prompt = resolve(config["members"]["benchmark"]), config["prompt"]
    encoded = encode_prompts(tokenizer, [benchmark.render(example, prompt) for example in examples], prompt.compat)
    length = config["max_new_tokens"]
    return [Request(example.uid, 0, np.asarray(ids), length) for example, ids in zip(examples, encoded, strict=True)]
