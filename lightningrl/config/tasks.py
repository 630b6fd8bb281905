"""The tasks of an experiment and how they are measured: benchmarks, prompts, the tokenizer, evaluations, speed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lightningrl.config.decoding import Sweep
from lightningrl.config.section import Section


class Prompt(Section):
    """How a problem becomes the prompt of evaluation and of rollouts."""

    suffix: str | None = None
    """Appended to the user's turn after a newline; "": nothing is; default: the benchmark's own wording."""
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
    """Problems to train on; default: all there are (published benchmarks only)."""
    validation: int | None = Field(None, ge=0)
    """Problems on which checkpoints are chosen, taken from those published for training."""
    test: int | None = Field(None, ge=0)
    """Problems that evaluations report on; never used to choose anything. 0: it is not evaluated on."""
    max_new_tokens: int = Field(gt=0)
    """Longest response in tokens; rounded up to the block grid by the decoder."""
    prompt: Prompt = Prompt()

    def data_science(self) -> dict[str, object]:
        """Returns what the data depend on: prompt and response length are not part of it."""
        return self.model_dump(mode="json", exclude={"max_new_tokens", "prompt"})


class Tokenizer(Section):
    """The tokenizer, built from the benchmarks' training texts."""

    texts_per_benchmark: int = Field(2000, gt=0)
    """How many training problems of each benchmark its vocabulary is read from."""


class Likelihood(Section):
    """How choices are compared on benchmarks that are answered by likelihood; others do not read it."""

    method: Literal["bound", "left_to_right"] = "bound"
    """`bound`: LLaDA's Monte Carlo bound, block by block where the model has blocks; `left_to_right`: the probability
    of revealing the choice from left to right, one token a forward. A causal model has its plain likelihood."""
    samples: int = Field(128, gt=0)
    """`bound`: sets of masks of a choice, or of each of its blocks; fewer where there are no more."""


class Evaluation(Section):
    """The threshold sweep."""

    split: Literal["test", "validation"] = "test"
    """Which problems: `validation` for a search among recipes, whose choice is then reported on `test`."""

    thresholds: Sweep = Field(min_length=1)
    """The selector's parameter, strictly increasing; for `threshold`: the confidence above which a position is
    revealed, within (0, 1]."""
    primary_threshold: float = 0.9
    """The threshold of the headline numbers; must be one of `thresholds`."""
    samples: int = Field(1, gt=0)
    """Responses a problem."""
    temperature: float = Field(0.0, ge=0)
    """0: greedy."""
    shard: int = Field(250, gt=0)
    """Problems a shard: what an interrupted evaluation loses at most."""
    likelihood: Likelihood = Likelihood()
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """The precision of the weights and forwards of evaluations, speeds, probes and replays, and part of their keys.
    `auto`: bfloat16 where `resources.device` is cuda, float32 on the CPU; a key holds what it stands for, not the word,
    so one key is one precision. Name one where results of both devices are to share keys."""

    def precision_on(self, device: str) -> str:
        """Returns the precision on a device, with what `auto` stands for there.

        >>> found = Evaluation(thresholds=[0.9])
        >>> found.precision_on("cpu"), found.precision_on("cuda")
        ('float32', 'bfloat16')
        """
        if self.precision != "auto":
            return self.precision
        return "bfloat16" if device == "cuda" else "float32"


class Speed(Section):
    """Wall-clock tokens per second (Table 7): measured only where a table or figure asks for it, at
    `evaluation.primary_threshold`."""

    benchmarks: list[str] = []
    """On which benchmarks; default: those that the table asks for."""
    prompts: int = Field(100, gt=0)
    """Test problems, the first ones; all where a benchmark has fewer."""
    warmup: int = Field(3, ge=0)
    """The first of them are decoded once before anything counts."""
    batch: int = Field(1, gt=0)
    """Problems decoded together; the next ones begin when the last of these has ended."""
    repeats: int = Field(3, gt=0)
    """How often all of them are decoded; the median counts."""
