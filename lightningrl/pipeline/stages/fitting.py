"""What `lightningrl validate` knows of models before anything runs: whether decoders fit them, and answers fit in.

The shape of a base that is pre-trained here stands in the config, that of a folder's checkpoint in its files: headers
are read, no weights. What is still to come from the hub is not known; its stages then say the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from lightningrl.config.base import Base
from lightningrl.config.decoding import Decoding
from lightningrl.config.experiment import Experiment
from lightningrl.config.tasks import Benchmark
from lightningrl.decoding.fitting import check_fits
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.errors import CheckpointError
from lightningrl.models.checkpoint import inspect_model
from lightningrl.models.families.registry import plug_in
from lightningrl.models.lora import match, read_adapter
from lightningrl.models.transformer import ModelConfig
from lightningrl.pipeline.stages.pretrain import shape_of
from lightningrl.quantization.open import check_plain


def known_shapes(experiment: Experiment) -> dict[str, ModelConfig]:
    """Returns the shapes of the bases and checkpoints that are known, by name.

    Raises CheckpointError, which begins with the config's key, for a folder that is no checkpoint of a family, whose
    weights are another model's, or whose adapter is missing or another model's.
    """
    plug_in(experiment.plugins)
    found = {}
    if experiment.model is not None:
        unknown = {"vocab_size": sys.maxsize, "initializer_range": 0.02, "mask_token_id": 0}  # the tokenizer is to come
        found["base"] = ModelConfig(**experiment.model.model_dump(), **unknown)
    for each in experiment.bases:
        found[each.name] = shape_of(each.model, each.family, vocab_size=sys.maxsize, mask_token_id=0)
    given = [
        ("base", "base", experiment.base),
        *((each.name, f"checkpoints.{each.name}", each) for each in experiment.checkpoints),
    ]
    for name, where, base in given:
        if base is not None and Path(base.checkpoint).is_dir():
            found[name] = _inspected(base, where)
    return found


def _inspected(base: Base, where: str) -> ModelConfig:
    folder, key = Path(base.checkpoint), "checkpoint"
    try:
        check_plain(folder)
        model, _ = inspect_model(folder, block_size=base.block_size, mask_token_id=base.mask_token_id)
        key = "adapter"
        if base.adapter and (Path(base.adapter).exists() or base.adapter.count("/") != 1):  # else a hub's repository
            match(read_adapter(Path(base.adapter)), model, folder)
    except CheckpointError as error:
        raise CheckpointError(f"{where}.{key}: {error}") from None
    return model.config


def check_lengths(
    shape: ModelConfig,
    policy: DecodePolicy,
    benchmarks: Iterable[Benchmark],
    decoding: Decoding,
    where: str,
    own: str = "",
) -> None:
    """Raises ConfigError where a model cannot be decoded so, or answer each benchmark with as many tokens as it says
    behind the shortest prompt there is. where: what the config calls how it decodes; own: the key of the
    length, if it is not the benchmark's."""
    for each in benchmarks:
        length = own or f"benchmarks.{each.name}.max_new_tokens, for {where}"
        check_fits(shape, policy, each.max_new_tokens, forwards=decoding.forwards, where=where, length=length)
