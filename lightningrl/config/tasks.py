"""Benchmarks, prompts and the tokenizer: what is asked, and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lightningrl.config.section import Section
from lightningrl.utils.registry import resolve

REGISTRY = "lightningrl.benchmarks.registry:BENCHMARKS"
"""Looked up and not imported: the settings know no benchmark, but a misspelt name is said before what refers to it."""


class Prompt(Section):
    """How a problem becomes the prompt of evaluation and of rollouts."""

    suffix: str | None = None
    """Appended to the user's turn after a newline; "": nothing is; left out: the benchmark's own wording."""
    style: str = "default"
    """The wording: `default`; for mathematics also `system` (the request as a system turn) and `think`."""
    shots: int = Field(0, ge=0)
    """Worked examples before the problem: 0; `math500` also 4, `mbpp` also 3."""
    compat: bool = False
    """The published code's text: one newline less at the end of the prompt."""


class Benchmark(Section):
    """One benchmark with the sizes of its splits."""

    name: str
    """A name of the registry (`gsm-mini`, `code-mini`) or `module:attribute`."""
    train: int | None = Field(None, ge=0)
    """Problems to train on; left out: all there are (published benchmarks only)."""
    validation: int | None = Field(None, ge=0)
    """Problems on which checkpoints are chosen, taken from those published for training."""
    test: int | None = Field(None, ge=0)
    """Problems that evaluations report on; never used to choose anything. 0: it is not evaluated on."""
    max_new_tokens: int = Field(gt=0)
    """Longest response in tokens; rounded up to the block grid by the decoder."""
    prompt: Prompt = Prompt()

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        known: Mapping[str, str] = resolve(REGISTRY)
        if name in known or ":" in name:
            return name
        near = get_close_matches(name, known, n=1)
        meant = f" Did you mean `{near[0]}`?" if near else ""
        allowed = ", ".join(sorted(known))
        raise ValueError(f"there is no benchmark {name!r}.{meant} Allowed: {allowed}, or your own as module:attribute")

    def data_science(self) -> dict[str, object]:
        """What the data depend on: prompt and response length are not part of it."""
        return self.model_dump(mode="json", exclude={"max_new_tokens", "prompt"})


class Tokenizer(Section):
    """The tokenizer, built from the benchmarks' training texts."""

    texts_per_benchmark: int = Field(2000, gt=0)
    """How many training problems of each benchmark its vocabulary is read from."""


class Decoding(Section):
    """How responses are decoded, in evaluations and in rollouts."""

    selector: str = "threshold"
    """Which masked positions a forward reveals: `threshold`, `quota` (steps a block), `factor`, `cumulative_entropy`
    (nats), `scripted` (tokens a step), or `module:attribute`. Its parameter is what `evaluation.thresholds` sweep."""
    selector_options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """The selector's other arguments: `{inclusive: true, steps: 4}` of `threshold`, `{compat: true}` of `factor`."""
    ranking: str = "confidence"
    """The number by which positions are ordered: `confidence`, `neg_entropy`, `position`, or `module:attribute`."""
    schedule: str = "fused"
    """How responses are walked, and what is kept between forwards. Block by block: `fused` (the forward that writes a
    finished block's clean keys and values also denoises the next block), `separate` (a forward of its own, as the
    published engines do), `recompute` (no cache). On a canvas of fixed length: `full_sequence`. Or `module:attribute`.
    The older spelling `cache` is accepted."""
    schedule_options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """The schedule's arguments: `{block_size: 32}` of `full_sequence`."""
    stop: str = "finish_block"
    """`finish_block`: a response ends with the block that holds its stop token; `inside_block`: as soon as the stop
    token and all before it are revealed; or `module:attribute`."""
    rows: int = Field(256, gt=0)
    """Rows decoded together at most. Changes no result but the last bits of floats."""
    memory_mb: int | None = Field(None, gt=0)
    """Megabytes for the KV cache; rows wait for pages when it is full. Empty: as much as `rows` need. Changes no result
    but the last bits of floats."""

    @model_validator(mode="before")
    @classmethod
    def _older_spelling(cls, found: Any) -> Any:
        """`cache` and `scope` were two keys for what a schedule says alone."""
        if not isinstance(found, dict) or not {"cache", "scope"} & found.keys():
            return found
        named = [found[key] for key in ("schedule", "cache", "scope") if found.get(key, "block") != "block"]
        if len(named) > 1:
            raise ValueError(
                f"found {' and '.join(map(str, named))} as schedule, cache or scope; give `schedule` alone"
            )
        rest = {key: value for key, value in found.items() if key not in ("schedule", "cache", "scope")}
        return rest | ({"schedule": named[0]} if named else {})


class Evaluation(Section):
    """The threshold sweep."""

    split: Literal["test", "validation"] = "test"
    """Which problems: `validation` for a search among recipes, whose choice is then reported on `test`."""

    thresholds: list[float] = Field(min_length=1)
    """The selector's parameter, strictly increasing; for `threshold`: the confidence above which a position is
    revealed, within (0, 1)."""
    primary_threshold: float = 0.9
    """The threshold of the headline numbers; must be one of `thresholds`."""
    samples: int = Field(1, gt=0)
    """Responses a problem."""
    temperature: float = Field(0.0, ge=0)
    """0: greedy."""
    shard: int = Field(250, gt=0)
    """Problems a shard: what an interrupted evaluation loses at most."""

    @field_validator("thresholds")
    @classmethod
    def _increasing(cls, values: list[float]) -> list[float]:
        if sorted(set(values)) != values:
            raise ValueError(f"thresholds must be strictly increasing, found {values}")
        return values
