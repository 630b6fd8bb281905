"""A checkpoint that exists already, as the base of an experiment in place of its own pre-training."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lightningrl.config.section import Section


class Base(Section):
    """The base policy: a folder or a hub repository in the hub's format, and what its config.json does not say."""

    def science(self) -> dict[str, Any]:
        """With a `sha256`, where the checkpoint comes from says nothing more; without, its place stands for it."""
        where = {"checkpoint", "revision"} if self.sha256 else {"sha256"}
        return self.model_dump(mode="json", exclude=where)

    checkpoint: str = Field(min_length=1)
    """A folder with config.json, safetensors and tokenizer files, or else the name of a model on the Hugging Face hub,
    like `JetLM/SDAR-8B-Chat-b32`."""
    revision: str | None = Field(None, pattern=r"^[0-9a-f]{40}$")
    """Commit of the hub's repository. Empty: that of the lock (`data.lock`), or the newest, which is written to it;
    `data.require_pins` refuses what neither names."""
    block_size: int = Field(gt=0)
    """K: tokens denoised together. The official files do not say it; a file that does must say the same."""
    mask_token_id: int = Field(ge=0)
    """The token that stands for a masked position; the tokenizer's mask token must be the same."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Of the checkpoint's files, as `checkpoint.json` of an earlier import says it. Given, other files are refused, and
    it does not matter whether a folder or the hub has them."""
