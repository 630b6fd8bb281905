"""A checkpoint as something to generate with: model, tokenizer, decoder, prompts in and texts out.

llm = LLM("path/to/SDAR-8B-Chat-b32", block_size=32)
[completion] = llm.generate(["How many legs have 3 cats?"], max_new_tokens=256)
print(completion.text, completion.trajectory.stats.tpf)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, DecodeResult, Observer, Request
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import CheckpointError, DecodeError, LightningRLError
from lightningrl.models.checkpoint import load_model
from lightningrl.tokenization import decode_response, encode_prompt, load_tokenizer, stop_token_ids
from lightningrl.types import Trajectory

LONGEST = 512
"""New tokens of a response for which nothing else is said."""

Prompt = str | Sequence[dict[str, str]]
"""A user's turn, or the turns of a conversation (`role`, `content`)."""


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One response."""

    prompt: Prompt
    text: str
    """Up to the first stop token, special tokens left out."""
    trajectory: Trajectory


class LLM:
    """An SDAR checkpoint, ours or an official one, ready to generate.

    block_size: of checkpoints that do not say it themselves (the official ones). dtype: None is as stored. rows,
    memory_bytes: as BlockDecoder's. Raises CheckpointError when the folder cannot be used, saying why.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        block_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        rows: int = 64,
        memory_bytes: int | None = None,
    ):
        self.folder = Path(folder)
        if not (self.folder / "config.json").is_file():
            what = "is no checkpoint: config.json is missing" if self.folder.is_dir() else "does not exist"
            raise CheckpointError(
                f"{self.folder} {what}. Give an SDAR checkpoint's folder; `lightningrl stages` lists those made here."
            )
        self.tokenizer = load_tokenizer(self.folder)
        self.model = load_model(
            self.folder, dtype=dtype, device=device, block_size=block_size, mask_token_id=self.tokenizer.mask_token_id
        )
        self.model.usable_vocab = min(len(self.tokenizer), self.model.config.vocab_size)
        self.decoder = BlockDecoder(self.model, self.stop_ids, rows=rows, memory_bytes=memory_bytes)

    @cached_property
    def stop_ids(self) -> list[int]:
        """The tokenizer's end and pad tokens and those of the checkpoint's generation_config.json."""
        return stop_token_ids(self.tokenizer, self.folder)

    @cached_property
    def fingerprint(self) -> str:
        """Tells models apart without reading all weights: a hash of shape, dtype and norms, which training moves."""
        norms = [p.detach().float().cpu() for p in self.model.parameters() if p.ndim == 1]
        told = f"{self.model.config} {self.model.lm_head.weight.dtype} {self.stop_ids}".encode()
        return hashlib.sha256(told + torch.cat(norms).numpy().tobytes()).hexdigest()

    def request(
        self,
        prompt: Prompt,
        *,
        uid: str,
        sample: int = 0,
        max_new_tokens: int | None = None,
        policy: DecodePolicy | None = None,
    ) -> Request:
        """The prompt through the chat template; `uid` and `sample` are the key of its draws.

        max_new_tokens: left out, LONGEST or as many as the model has room for.
        Raises DecodeError when the template refuses the conversation, BenchmarkError for words it has no tokens for.
        """
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        try:
            ids = encode_prompt(self.tokenizer, messages)
        except LightningRLError:
            raise
        except Exception as error:  # the template is a program of the checkpoint's: it may raise anything
            raise DecodeError(f"{uid}: the chat template or tokenizer refuses this prompt: {error}") from error
        return Request(uid, sample, ids, self.room(len(ids)) if max_new_tokens is None else max_new_tokens, policy)

    def room(self, prompt_tokens: int) -> int:
        """New tokens: LONGEST, or as many as the model has positions for; at least 1, which the decoder may refuse."""
        return min(LONGEST, self.room_left(prompt_tokens))

    def room_left(self, prompt_tokens: int) -> int:
        """As many new tokens as the model has positions for, on its grid of blocks; at least 1."""
        config = self.model.config
        usable = config.max_position_embeddings // config.block_size * config.block_size
        return max(1, usable - prompt_tokens)

    def text(self, trajectory: Trajectory) -> str:
        return decode_response(self.tokenizer, trajectory.response_ids)

    def stream(
        self, requests: Sequence[Request], policy: DecodePolicy | None = None, observer: Observer | None = None
    ) -> Iterator[DecodeResult]:
        """Each request's outcome as soon as it is known."""
        return self.decoder.stream(requests, policy or DecodePolicy(Threshold(0.9)), observer)

    def generate(
        self, prompts: Sequence[Prompt], policy: DecodePolicy | None = None, *, max_new_tokens: int | None = None
    ) -> list[Completion]:
        """One completion a prompt, in order. Greedy at threshold 0.9 unless a policy is given.

        Raises DecodeError when a prompt cannot be decoded.
        """
        requests = [self.request(p, uid=f"prompt/{i}", max_new_tokens=max_new_tokens) for i, p in enumerate(prompts)]
        trajectories = self.decoder.decode(requests, policy or DecodePolicy(Threshold(0.9)))
        return [Completion(p, self.text(t), t) for p, t in zip(prompts, trajectories, strict=True)]
