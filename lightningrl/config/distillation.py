"""Where a distillation's training answers come from, and which weights it trains."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from lightningrl.config.decoding import Decoding
from lightningrl.config.section import Section


class DistillData(Section):
    """The answers that a distillation trains on; a stage of its own, `distill_data`, writes them."""

    source: Literal["own", "worked", "dataset"] = "own"
    """`own`: the base's answers to the train problems; `worked`: the benchmark's worked answers; `dataset`:
    `dataset`."""
    keep: Literal["correct", "all"] = "correct"
    """Which of the base's answers: those that the judge finds correct, as published, or all."""
    samples: int = Field(default=1, gt=0)
    """own: answers per problem; several differ only at a temperature."""
    temperature: float = Field(default=0.0, ge=0)
    """own: 0, greedy, as published."""
    decoding: Decoding = Decoding()
    """own: what differs from the experiment's `decoding` while the base answers. d3LLM's trajectories have one token a
    forward: `{selector: quota}` with the block's size as `threshold`."""
    threshold: float | None = None
    """own: the selector's parameter; default: the run's `threshold`."""
    problems: int | None = Field(default=None, gt=0)
    """own, worked: the first so many train problems; default: all."""
    shard: int = Field(default=64, gt=0)
    """own: problems that are decoded together and saved; changes no result but the last bits of floats."""
    dataset: str = ""
    """dataset: a data set of the hub, like `Zigeng/dParallel_LLaDA_Distill_Data`, whose rows have `question` (through
    the chat template already) and `llm_response`; or a folder of its files."""
    files: list[str] = []
    """dataset: the files of it to read, in order (.jsonl, .json, .parquet); default: all files of a folder, by
    name."""

    content_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """dataset: the hash of the rows, as `summary.json` of an earlier run says it. Where it is given, other rows are
    refused, and it does not matter where they are; without it the name stands for them, whatever they are, and
    `data.require_pins` refuses it."""

    UNKEYED = frozenset({"shard"})

    def science(self, given: bool = False) -> dict[str, Any]:
        """Returns what keys hold: with a `content_sha256`, where the data set is says nothing more; without, its place
        stands for it."""
        where = {"dataset", "files"} if self.content_sha256 else {"content_sha256"}
        return {key: value for key, value in super().science(given).items() if key not in where}

    @model_validator(mode="after")
    def _has_a_dataset(self) -> DistillData:
        if (self.source == "dataset") != bool(self.dataset):
            raise ValueError("`dataset` goes with `source: dataset`, and only with it; give both or neither")
        if self.content_sha256 and not self.dataset:
            raise ValueError("`content_sha256` is given, and no `dataset`")
        return self


class LowRank(Section):
    """Adapters (LoRA) in place of training all weights; they are merged into the checkpoint that the run leaves, and
    written beside it in peft's format."""

    rank: int = Field(128, gt=0)
    alpha: float | None = Field(None, gt=0)
    """The update is scaled by alpha / rank; default: the rank, so the scale is 1, as in every publication here."""
    targets: list[str] = []
    """Ends of modules' names as the checkpoint's files have them; default: the seven matrices of each layer. A name
    that is no module is passed over, as peft does: the list that dParallel published (q_proj, k_proj, v_proj, o_proj,
    gate_proj, up_proj, down_proj) reaches q, k, v and up of a LLaDA, whose other matrices have other names."""

    @property
    def scaled_by(self) -> float:
        """Alpha with its default filled in."""
        return self.rank if self.alpha is None else self.alpha
