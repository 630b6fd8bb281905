"""A stage's decoder, policy, task and requests, from its config and the members that the plan resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightningrl.answering import Task
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import Request
from lightningrl.judges.protocol import Judge
from lightningrl.models.config_file import family_named
from lightningrl.models.transformer import Transformer
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.loading import load_policy
from lightningrl.tokenization import encode_prompts, stop_token_ids
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


def load_decoder(context: StageContext, config: Config, role: str = "policy") -> tuple[BlockDecoder, Any]:
    """Loads the weights of an input in the stage's precision; returns the decoder of a config with its tokenizer."""
    checkpoint = context.inputs[role]
    model, tokenizer = load_policy(checkpoint, device_of(context.device), context.config["precision"])
    return make_decoder(config, model, tokenizer, checkpoint), tokenizer


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
