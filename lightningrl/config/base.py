"""Checkpoints that exist already: the base of an experiment in place of its own pre-training, and further policies."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from lightningrl.config.section import Section

NAME = r"^[a-z0-9][a-z0-9_-]*$"
SIZE = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?b)(?![a-z0-9])")
"""A size in billions within a checkpoint's name: `8b` of `SDAR-8B-Chat-b32`."""


def size_in(checkpoint: str) -> str:
    """The size in the last part of a path or a repository's name; "" where it holds none.

    >>> size_in("JetLM/SDAR-8B-Chat-b32"), size_in("/models/4b/sdar-1.7b-chat"), size_in("models/mine")
    ('8b', '1.7b', '')
    """
    found = SIZE.search(PurePosixPath(checkpoint).name.lower())
    return found[1] if found else ""


class Base(Section):
    """The base policy: a folder or a hub repository in the hub's format, and what its config.json does not say."""

    UNKEYED = frozenset({"size", "published"})

    def science(self, given: bool = False) -> dict[str, Any]:
        """With a `sha256`, where the checkpoint comes from says nothing more; without, its place stands for it. So with
        an adapter; where there is none, none of its keys."""
        where = {"checkpoint", "revision"} if self.sha256 else {"sha256"}
        where |= {"adapter"} if self.adapter_sha256 else {"adapter_sha256"}
        where |= set() if self.adapter else {"adapter"}
        return {key: value for key, value in super().science(given).items() if key not in where}

    checkpoint: str = Field(min_length=1)
    """A folder with config.json, safetensors and tokenizer files, or else the name of a model on the Hugging Face hub,
    like `JetLM/SDAR-8B-Chat-b32`."""
    revision: str | None = Field(None, pattern=r"^[0-9a-f]{40}$")
    """Commit of the hub's repository. Empty: that of the lock (`data.lock`), or the newest, which is written to it;
    `data.require_pins` refuses what neither names."""
    block_size: int | None = Field(None, gt=0)
    """K: tokens denoised together. SDAR's official files do not say it; files and families that do must agree."""
    mask_token_id: int | None = Field(None, ge=0)
    """The token that stands for a masked position, where the checkpoint does not say it itself, as SDAR's official
    files; the tokenizer's mask token must be the same."""
    adapter: str = ""
    """A LoRA over the checkpoint, which the import merges into the weights, like
    `SJTU-Deng-Lab/D2F_LLaDA_Instruct_8B_Lora`: a folder in peft's format, or a repository on the hub. Empty: none."""
    adapter_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """The hash of the adapter's files, as `checkpoint.json` of an earlier import says it; other files are refused."""

    @model_validator(mode="after")
    def _hash_of_an_adapter(self) -> Self:
        if self.adapter_sha256 and not self.adapter:
            raise ValueError("adapter_sha256 is given, and no adapter")
        return self

    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """The hash of the checkpoint's files, as `checkpoint.json` of an earlier import says it. Where it is given, other
    files are refused, and it does not matter whether a folder or the hub has them."""
    size: str | None = Field(None, pattern=r"^[a-z0-9.]+$")
    """The model's size, like `8b`, by which its jobs are sized (`resources.jobs`). Empty: what its name says."""
    published: str = ""
    """The row of the published tables that it stands for, like `SDAR-8B-b32`; empty: none."""

    @property
    def size_label(self) -> str:
        """`size`, else the size that the name holds, else ""."""
        return self.size or size_in(self.checkpoint)


class Checkpoint(Base):
    """A further policy of the experiment: another base to train from, or weights that others have trained."""

    UNKEYED = Base.UNKEYED | {"name", "role", "base", "evaluate_on"}

    name: str = Field(pattern=NAME)
    """Names its folder and its policy in tables."""
    role: Literal["before", "released"] = "before"
    """`before`: runs may start from it; `released`: trained by others, only evaluated."""
    base: str | None = None
    """released: the policy it was trained from, which it is compared with; `base` or another checkpoint's name."""
    evaluate_on: list[str] | None = None
    """Benchmarks whose test problems it is evaluated on; default: all that have any; []: none."""
