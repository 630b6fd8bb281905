"""Benchmarks, prompts and the tokenizer: what is asked, and in which words."""

from __future__ import annotations

from pydantic import Field, field_validator

from lightningrl.config.section import Section

NAME = r"^[a-z0-9][a-z0-9_-]*$"


class Prompt(Section):
    """How a problem becomes the prompt of evaluation and of rollouts."""

    suffix: str = ""
    """Appended to the user's turn after a newline; empty: nothing is appended."""


class Benchmark(Section):
    """One benchmark with the sizes of its splits."""

    name: str
    """A name of the registry (`gsm-mini`, `code-mini`) or `module:attribute`."""
    train: int = Field(gt=0)
    """Problems to train on."""
    validation: int = Field(gt=0)
    """Problems on which checkpoints are chosen."""
    test: int = Field(gt=0)
    """Problems that evaluations report on; never used to choose anything."""
    max_new_tokens: int = Field(gt=0)
    """Longest response in tokens; rounded up to the block grid by the decoder."""
    prompt: Prompt = Prompt()

    def data_science(self) -> dict[str, object]:
        """What the generated data depend on: prompt and response length are not part of it."""
        return self.model_dump(mode="json", exclude={"max_new_tokens", "prompt"})


class Tokenizer(Section):
    """The tokenizer, built from the benchmarks' training texts."""

    texts_per_benchmark: int = Field(2000, gt=0)
    """How many training problems of each benchmark its vocabulary is read from."""


class Decoding(Section):
    """How responses are decoded, in evaluations and in rollouts."""

    selector: str = "threshold"
    """Which masked positions a forward reveals: a name of the registry or `module:attribute`."""
    commit: str = Field("fused", pattern="^(fused|separate)$")
    """`fused`: the forward that writes a finished block's clean KV also denoises the next block; `separate`: a
    forward of its own, as the published engines do."""
    rows: int = Field(256, gt=0)
    """Rows decoded together. Changes no result but the last bits of floats."""


class Evaluation(Section):
    """The threshold sweep on the test split."""

    thresholds: list[float] = Field(min_length=1)
    """Confidence above which a position is revealed, strictly increasing, each within (0, 1)."""
    primary_threshold: float = Field(0.9, gt=0, lt=1)
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
        for value in values:
            if not 0 < value < 1:
                raise ValueError(f"a threshold is a probability within (0, 1), found {value}")
        if sorted(set(values)) != values:
            raise ValueError(f"thresholds must be strictly increasing, found {values}")
        return values
