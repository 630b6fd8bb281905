"""Benchmarks, prompts and the tokenizer: what is asked, and in which words."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from lightningrl.config.section import Section
from lightningrl.utils.registry import resolve

PRESETS = "lightningrl.decoding.presets:PRESETS"
"""Looked up and not imported: the settings know no decoder."""


def preset(name: str) -> dict[str, Any]:
    """Returns a published decoder: `decoding`, `source`, maybe `parameter`. Raises ValueError for an unknown name."""
    presets: dict[str, dict[str, Any]] = resolve(PRESETS)
    if name not in presets:
        near = get_close_matches(str(name), presets, n=1)
        meant = f" Did you mean `{near[0]}`?" if near else ""
        raise ValueError(f"there is no preset {name!r}.{meant} Allowed: {', '.join(sorted(presets))}")
    return presets[name]


def _increasing(values: list[float]) -> list[float]:
    if sorted(set(values)) != values:
        raise ValueError(f"thresholds must be strictly increasing, found {values}")
    return values


Sweep = Annotated[list[float], AfterValidator(_increasing)]
"""Values of a selector's parameter."""


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

    def data_science(self) -> dict[str, object]:
        """What the data depend on: prompt and response length are not part of it."""
        return self.model_dump(mode="json", exclude={"max_new_tokens", "prompt"})


class Tokenizer(Section):
    """The tokenizer, built from the benchmarks' training texts."""

    texts_per_benchmark: int = Field(2000, gt=0)
    """How many training problems of each benchmark its vocabulary is read from."""


class Decoding(Section):
    """How responses are decoded, in evaluations and in rollouts."""

    preset: str = ""
    """A published decoder, whose pieces are taken where no key beside it says otherwise: `sdar_dynamic`, `sdar_static`,
    `sdar_sequential`, `entropy_bounded`, `lmdeploy_dynamic`, `fast_dllm_factor`."""
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
    def _from_preset(cls, tree: Any) -> Any:
        """Put the preset's pieces beneath the keys that are given; the options of a piece go with it."""
        if not isinstance(tree, dict) or not tree.get("preset"):
            return tree
        found = preset(tree["preset"])["decoding"]
        replaced = {f"{piece}_options" for piece, name in tree.items() if found.get(piece, name) != name}
        return {key: value for key, value in found.items() if key not in replaced} | tree

    @model_validator(mode="before")
    @classmethod
    def _older_spelling(cls, found: Any) -> Any:
        """`cache` and `scope` were two keys for what a schedule says alone. Of such validators the last runs first."""
        if not isinstance(found, dict) or not {"cache", "scope"} & found.keys():
            return found
        named = [found[key] for key in ("schedule", "cache", "scope") if found.get(key, "block") != "block"]
        if len(named) > 1:
            raise ValueError(
                f"found {' and '.join(map(str, named))} as schedule, cache or scope; give `schedule` alone"
            )
        rest = {key: value for key, value in found.items() if key not in ("schedule", "cache", "scope")}
        return rest | ({"schedule": named[0]} if named else {})

    @property
    def compares_probabilities(self) -> bool:
        """Whether the selector's parameter is compared with a probability."""
        return (self.selector, self.ranking) == ("threshold", "confidence")

    def over(self, below: Decoding) -> Decoding:
        """Returns the decoding `below` with the keys that are given here.

        The options of a piece go with it: where another piece is named without any, none are left.
        """
        given = {name: getattr(self, name) for name in self.model_fields_set}
        for name, field in type(self).model_fields.items():
            piece = name.removesuffix("_options")
            if name != piece and name not in given and given.get(piece, getattr(below, piece)) != getattr(below, piece):
                given[name] = field.get_default(call_default_factory=True)
        return below.model_copy(update={"preset": ""} | given)

    def science(self) -> dict[str, Any]:
        """Without the preset's name: the pieces say it all."""
        return self.model_dump(mode="json", exclude={"preset"})


class Evaluation(Section):
    """The threshold sweep."""

    split: Literal["test", "validation"] = "test"
    """Which problems: `validation` for a search among recipes, whose choice is then reported on `test`."""

    thresholds: Sweep = Field(min_length=1)
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
