"""How responses are decoded: the section of an experiment, published decoders, and what tools are asked directly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from lightningrl.config.registries import DECODER, member, names, near, usable
from lightningrl.config.section import Section
from lightningrl.errors import ConfigError
from lightningrl.utils.numbers import shortest
from lightningrl.utils.registry import resolve

PRESETS = "lightningrl.decoding.presets:PRESETS"
"""Looked up and not imported: the settings know no decoder."""


def preset(name: str) -> dict[str, Any]:
    """Returns a published decoder: `decoding`, `source`, maybe `parameter`. Raises ValueError for an unknown name."""
    presets: dict[str, dict[str, Any]] = resolve(PRESETS)
    if name not in presets:
        raise ValueError(f"there is no preset {name!r}.{near(name, presets)} Allowed: {', '.join(sorted(presets))}")
    return presets[name]


def _increasing(values: list[float]) -> list[float]:
    if not all(map(math.isfinite, values)):
        raise ValueError(f"thresholds must be finite numbers, found {values}")
    if sorted(set(values)) != values:
        raise ValueError(f"thresholds must be strictly increasing, found {values}")
    return values


PROBABILITY = {"selector": "threshold", "ranking": "confidence"}
"""The pieces whose parameter is compared with a probability."""
FORWARDS = ("spans", "gathered", "segments", "turns", "graphs")
"""Those of decoding/engine.py, which would import torch."""


def _known_forwards(name: str) -> str:
    if name not in FORWARDS:
        raise ValueError(f"forwards is {name!r}; expected one of {', '.join(FORWARDS)}")
    return name


Sweep = Annotated[list[float], AfterValidator(_increasing)]
"""Values of a selector's parameter."""
Plugins = Annotated[list[str], AfterValidator(usable)]
"""Modules of other packages that add names to the registries."""
Options = dict[str, bool | int | float | str]


class Decoding(Section):
    """How responses are decoded, in evaluations and in rollouts."""

    UNKEYED = frozenset({"preset"})  # the pieces say it all

    preset: str = ""
    """A published decoder, whose pieces are taken where no key beside it says otherwise: `sdar_dynamic`,
    `entropy_bounded`, `llada`, `fast_dllm_v1_dual`, ...; `lightningrl decoders` lists them with the models they fit."""
    selector: str = "threshold"
    """Which masked positions a forward reveals: `threshold`, `quota_threshold`, `quota` (steps per block), `timestep`
    and `random_timestep` (steps), `factor`, `entropy` and `cumulative_entropy` (nats), `skip_threshold`, `bernoulli`
    and `top_sum` (factor; ranked by a probability), `scripted` (tokens per step), or `module:attribute`. Its
    parameter is what `evaluation.thresholds` sweep."""
    selector_options: Options = Field(default_factory=dict)
    """The selector's other arguments: `{"inclusive": true, "steps": 4}` of `threshold`, `{"compat": true}` of
    `factor`."""
    ranking: str = "confidence"
    """The number by which positions are ordered: `confidence`, `margin`, `neg_entropy`, `planner` (dUltra), `position`,
    `random`, or `module:attribute`."""
    ranking_options: Options = Field(default_factory=dict)
    """The ranking's arguments: `{"alg_temp": 0.2}` draws positions by their numbers, as Dream's option does."""
    schedule: str = "fused"
    """How responses are walked, block by block: `fused` (the forward that writes a finished block's keys and values
    denoises the next one, too), `separate` (a forward of its own, as the published engines do), `recompute` (no cache);
    `sub_block` (Fast-dLLM v2's, whose commits reveal a token); or on a canvas of fixed length: `full_sequence` and
    `whole_sequence` (no cache), `prefix_cache`, `dual_cache` (stale keys and values, as Fast-dLLM's); with several open
    blocks: `block_buffer` (MBD-LMs), `block_pipeline` (D2F), `multi_block` (d3LLM); or, for models without masks, token
    by token: `autoregressive`; or `module:attribute`. The older spelling `cache` is accepted."""
    schedule_options: Options = Field(default_factory=dict)
    """The schedule's arguments: `{"block_size": 32}` of `full_sequence`, `{"refresh_every": 8}` of the caches."""
    stop: str = "finish_block"
    """`finish_block`: a response ends with the block that holds its stop token; `inside_block`: as soon as the stop
    token and all before it are revealed; `whole_canvas`: never, it is cut afterwards; or `module:attribute`."""
    logits_options: Options = Field(default_factory=dict)
    """Changes to the logits before the softmax: `{"untempered": true}`, `{"cfg_scale": 0.5}` and others of
    `decoding/logits.py`. The mask token is banned unless it says `{"bans_mask": false}`."""
    rows: int = Field(256, gt=0)
    """Rows decoded together at most. Changes no result but the last bits of floats."""
    memory_mb: int | None = Field(None, gt=0)
    """Megabytes for the KV cache; rows wait for pages when it is full. Empty: as much as `rows` need. Changes no result
    but the last bits of floats."""
    forwards: Annotated[str, AfterValidator(_known_forwards)] = "spans"
    """How forwards are launched: `spans`, operator by operator, or experimental ones, of which no GPU run is on record.
    `graphs`, for a CUDA device and bfloat16: a turn is one CUDA graph of fused kernels, from the trunk to the tokens.
    `turns` is the same without graphs, on the CPU too; `segments` and `gathered` compute hidden states alone in static
    shapes. Changes no result but the last bits of floats."""

    @model_validator(mode="before")
    @classmethod
    def _settled(cls, tree: Any) -> Any:
        """Read older spellings; then put the preset's pieces beneath the keys that are given, where the options of a
        piece go with it. (`cache` and `scope` were two keys for what a schedule says alone.)"""
        if not isinstance(tree, dict):
            return tree
        if {"cache", "scope"} & tree.keys():
            spelt = {key: tree[key] for key in ("schedule", "cache", "scope") if key in tree}
            named = [name for name in spelt.values() if name != "block"]
            if len(named) > 1:
                found = " and ".join(map(str, named))
                raise ValueError(f"found {found} as schedule, cache or scope; give `schedule` alone")
            tree = {key: value for key, value in tree.items() if key not in spelt}
            tree |= {"schedule": named[0]} if named else {}
        if not tree.get("preset") or not isinstance(tree["preset"], str):
            return tree
        found = preset(tree["preset"])["decoding"]
        replaced = {f"{piece}_options" for piece, name in tree.items() if found.get(piece, name) != name}
        return {key: value for key, value in found.items() if key not in replaced} | tree

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory_mb is None else self.memory_mb * 1_000_000

    @property
    def compares_probabilities(self) -> bool:
        """Whether the selector's parameter is compared with a probability, however selector and ranking are spelt."""
        return all(getattr(self, piece) in (name, names(piece)[name]) for piece, name in PROBABILITY.items())

    def check_parameter(self, where: str, value: float) -> None:
        """Raises ConfigError for a parameter that should be a probability; other bounds are the selector's own."""
        if self.compares_probabilities and not 0 < value <= 1:
            raise ConfigError(f"{where}: a threshold is a probability within (0, 1], found {shortest(value)}")

    def over(self, below: Decoding) -> Decoding:
        """Returns the decoding `below` with the keys that are given here.

        The options of a piece go with it: where another piece is named without any, none are left.
        """
        given = {name: getattr(self, name) for name in self.model_fields_set}
        for piece in DECODER:
            options = f"{piece}_options"
            if hasattr(below, options) and given.get(piece, getattr(below, piece)) != getattr(below, piece):
                given.setdefault(options, {})
        return below.model_copy(update={"preset": ""} | given)

    def members(self, where: str = "", plugins: Iterable[str] = ()) -> dict[str, str]:
        """Returns the `module:attribute` of each piece. Raises ConfigError, which begins with `where` and its key."""
        return {piece: member(piece, getattr(self, piece), f"{where}{piece}", plugins) for piece in DECODER}


ELSEWHERE = {"revision", "adapter", "block_size", "dtype", "device", "rows", "memory_mb", "forwards"}
"""Keys of `DirectDecoding` that belong to the model, or change no result but the last bits of floats."""


class DirectDecoding(Decoding):
    """How tools decode that are given a checkpoint and no experiment; the options of their verbs are these keys."""

    threshold: float = 0.9
    """The selector's parameter: a confidence, a number of steps, nats, or what else it is called with."""
    temperature: float = 0.0
    """0: greedy."""
    top_k: int = 0
    """0: all tokens."""
    top_p: float = 1.0
    """1: all tokens."""
    seed: int = 0
    """Part of the key of every draw."""
    rows: int = Field(64, gt=0)
    revision: str = ""
    """The branch, tag or commit of a repository of the hub; empty: its newest commit."""
    block_size: int | None = None
    """K, for checkpoints that say it neither in config.json nor in their name, as `SDAR-8B-Chat-b32` does."""
    adapter: str = ""
    """The folder of a LoRA in peft's format, merged into the weights as they are loaded. D2F's are such."""
    dtype: str = "stored"
    """`float32`, `bfloat16`, `float64`, or `stored`."""
    device: str = "auto"
    """`cpu`, `cuda`, one of several, like `cuda:1`, or `auto`: a GPU where there is one."""
    plugins: Plugins = []
    """A module of another package that adds names by its `MEMBERS`, as the config's `plugins` do; may be repeated."""

    @model_validator(mode="before")
    @classmethod
    def _published_parameter(cls, tree: Any) -> Any:
        """A preset's selector has the parameter that it was published with, unless another one is given."""
        if not isinstance(tree, dict) or not isinstance(tree.get("preset") or None, str) or "threshold" in tree:
            return tree
        published = preset(tree["preset"])
        if tree.get("selector", published["decoding"]["selector"]) != published["decoding"]["selector"]:
            return tree
        if "parameter" not in published:
            raise ValueError(
                f"preset {tree['preset']} leaves its parameter to you; say `--threshold` (in a config, `thresholds`)"
            )
        return tree | {"threshold": published["parameter"]}

    def identity(self) -> dict[str, Any]:
        """Returns what responses depend on, but for the selector's parameter and the model; for a plug-in's name, what
        it stands for."""
        outside = {piece: found for piece, found in self.members().items() if getattr(self, piece) not in names(piece)}
        return self.model_dump(exclude={"threshold", "preset", "plugins", *ELSEWHERE}) | outside

    def members(self, where: str = "", plugins: Iterable[str] = ()) -> dict[str, str]:
        """As those of a section of an experiment, whose plug-ins here are its own."""
        return super().members(where, [*plugins, *self.plugins])
