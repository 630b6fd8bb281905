"""What `lightningrl validate` knows of models before anything runs: whether decoders, objectives and answers fit them.

The shape of a base that is pre-trained here stands in the config, that of a folder's checkpoint in its files: headers
are read, no weights. Of what is still to come from the hub only some is known (`hub_shapes`); its stages then say the
same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lightningrl.config.base import Base
from lightningrl.config.decoding import Decoding
from lightningrl.config.experiment import Experiment
from lightningrl.config.model import Architecture
from lightningrl.config.registries import member
from lightningrl.config.tasks import Benchmark
from lightningrl.decoding.fitting import check_fits
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.models.checkpoint import inspect_model
from lightningrl.models.families.registry import plug_in
from lightningrl.models.lora import match, read_adapter
from lightningrl.models.transformer import ModelConfig
from lightningrl.pipeline.stages.hub_shapes import shape_in_hub
from lightningrl.pipeline.stages.pretrain import shape_of
from lightningrl.quantization.open import check_plain
from lightningrl.utils.registry import resolve


def known_shapes(experiment: Experiment) -> dict[str, ModelConfig]:
    """Returns the shapes of the bases and checkpoints that are known, by name.

    Raises CheckpointError, which begins with the config's key, for a folder that is no checkpoint of a family, whose
    weights are another model's, or whose adapter is missing or another model's; so ConfigError for a base that is
    pre-trained here in a shape that its family has not.
    """
    plug_in(experiment.plugins)
    found = {}
    for name, where, model, family in _pretrained(experiment):
        try:  # the tokenizer is to come
            found[name] = shape_of(model, family, vocab_size=sys.maxsize, mask_token_id=0)
        except ConfigError as error:
            raise ConfigError(f"{where}model: {error}") from None
    given = [
        ("base", "base", experiment.base),
        *((each.name, f"checkpoints.{each.name}", each) for each in experiment.checkpoints),
    ]
    for name, where, base in given:
        if base is not None and Path(base.checkpoint).is_dir():
            found[name] = inspected(base, where)
        elif base is not None and (shape := shape_in_hub(base)) is not None:
            found[name] = shape
    return found


def _pretrained(experiment: Experiment) -> Iterator[tuple[str, str, Architecture, str]]:
    """Yields the name, the key, the architecture and the family of each base that is pre-trained here."""
    if experiment.model is not None:
        yield "base", "", experiment.model, "sdar"
    for each in experiment.bases:
        yield each.name, f"bases.{each.name}.", each.model, each.family


def check_objectives(experiment: Experiment, shapes: Mapping[str, ModelConfig]) -> None:
    """Raises ConfigError, which begins with the config's key, for an objective that is not for models of the family of
    its base. shapes: those of `known_shapes`."""
    recipes = {each.name: each.pretrain for each in experiment.bases} | {"base": experiment.pretrain}
    for name, where, *_ in _pretrained(experiment):
        recipe = recipes[name]
        assert recipe is not None, "it goes with `model`"
        for phase, plan in recipe.phases.items():
            key = f"{where}pretrain.{phase}.objective"
            objective = resolve(member("objective", plan.objective, key, experiment.plugins), key)
            try:
                objective(shapes[name], plan)
            except ConfigError as error:
                raise ConfigError(f"{key}: {error}") from None


def inspected(base: Base, where: str) -> ModelConfig:
    """Returns the shape of a folder's checkpoint; `where` is the config's key. Raises as `known_shapes` does."""
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
    needs, fitting = (resolve(f"lightningrl.decoding.presets:{name}") for name in ("needs", "fitting"))
    facts = shape.attention, shape.logit_shift, shape.has_planner
    if decoding.preset and decoding.preset not in (names := fitting(*facts)):
        shift = "shifted" if shape.logit_shift else "unshifted"
        planner = "" if shape.has_planner else ", and no planner"
        raise ConfigError(
            f"{where}: the decoder {decoding.preset} is for models with {needs(decoding.preset)}; this {shape.family} "
            f"model has {shape.attention} attention and {shift} logits{planner}. Decoders that fit it: "
            f"{', '.join(names)}"
        )
    for each in benchmarks:
        length = own or f"benchmarks.{each.name}.max_new_tokens, for {where}"
        check_fits(shape, policy, each.max_new_tokens, forwards=decoding.forwards, where=where, length=length)
