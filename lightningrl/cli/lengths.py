"""What `lightningrl validate` can say of lengths: canvases of whole blocks, and within the model's context."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lightningrl.config.base import Base
from lightningrl.config.experiment import Experiment
from lightningrl.config.systems import System
from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.utils.registry import resolve

if TYPE_CHECKING:
    from lightningrl.decoding.protocol import DecodePolicy
    from lightningrl.models.transformer import ModelConfig


def check_lengths(experiment: Experiment, system: System, policy: DecodePolicy, benchmarks: list[str]) -> None:
    """Raises ConfigError where a system's responses cannot be as long as it says: a canvas that is no whole number of
    blocks, or longer than a context that is known before the weights are: of a folder, or of a base trained here."""
    base, size, limit = base_of(experiment, system), None, 0
    known = experiment.model if base is None else config_of(base)
    if known is not None:
        size, limit = known.block_size, known.max_position_embeddings
    elif base is not None:
        size = base.block_size
    entry = next((each for each in experiment.systems if each.name == system.name), None)
    for name in benchmarks:
        longest = system.longest(experiment.benchmark(name))
        own = entry is not None and entry.max_new_tokens is not None
        where = f"systems.{system.name}.max_new_tokens" if own else f"benchmarks.{name}.max_new_tokens"
        schedule = policy.schedule
        block = None if schedule.is_whole else schedule.block_size or size
        if schedule.fills_canvas and block and longest % block:
            few = f"{longest // block * block} or " if longest > block else ""
            raise ConfigError(
                f"{where}: found {longest}, no whole number of blocks of {block}, and the length of a canvas changes "
                f"what {system.name} answers; allowed: {few}{-(-longest // block) * block}"
            )
        if limit and schedule.fills_canvas and longest >= limit:
            raise ConfigError(
                f"{where}: found {longest}, but the model of {system.name} has {limit} positions for prompt and canvas"
            )


def base_of(experiment: Experiment, system: System) -> Base | None:
    """Returns the checkpoint that a system's weights are, or were trained from; None: pre-trained here."""
    runs = {run.name: run.base for run in experiment.runs}
    return experiment.base_named(runs.get(system.policy, system.policy))


def config_of(base: Base) -> ModelConfig | None:
    """Returns what a checkpoint's config.json says, where it is a folder of this machine. Raises ConfigError for one
    that cannot be used."""
    folder = Path(base.checkpoint)
    if not (folder / "config.json").is_file():
        return None
    read = resolve("lightningrl.models.config_file:read_config")
    try:
        return read(folder, block_size=base.block_size, mask_token_id=base.mask_token_id)
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
