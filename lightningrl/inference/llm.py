"""The Python interface: a checkpoint with its tokenizer and decoder, which turns prompts into texts.

llm = LLM("path/to/SDAR-8B-Chat-b32", block_size=32)
[completion] = llm.generate(["How many legs have 3 cats?"], max_new_tokens=256)
print(completion.text, completion.trajectory.stats.tpf)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, DecodeResult, Observer, Request
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import CheckpointError, DecodeError, LightningRLError
from lightningrl.models.config_file import family_named
from lightningrl.quantization.open import open_model
from lightningrl.tokenization import check_mask, decode_response, encode_prompt, load_tokenizer, stop_token_ids
from lightningrl.types import Trajectory
from lightningrl.utils.registry import resolve

if TYPE_CHECKING:
    from lightningrl.inference.sharing import ModelCard

DEFAULT_MAX_NEW_TOKENS = 512
"""The longest response where the caller names no length."""
DEFAULT_POLICY = DecodePolicy(Threshold(0.9))
"""How requests are decoded for which the caller names no policy."""

PLUG_IN = "lightningrl.models.families.registry:plug_in"
"""Looked up and not imported: a registry is in no stage's key."""
SAVE, PUSH = "lightningrl.inference.sharing:save", "lightningrl.inference.sharing:push_to_hub"
"""Likewise: no stage saves a model by them."""

Prompt = str | Sequence[dict[str, str]]
"""A user's turn, or the turns of a conversation with `role` and `content`."""


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One response."""

    prompt: Prompt
    text: str
    """The text up to the first stop token, without special tokens."""
    trajectory: Trajectory


class LLM:
    """A checkpoint, ours or an official one, ready to generate.

    block_size: needed for checkpoints that do not name it (the official ones). adapter: the folder of a LoRA in peft's
    format, merged into the weights. dtype: None keeps the stored one. rows, memory_bytes, forwards: those of
    BlockDecoder. plugins: modules that add families of checkpoints, as a config's `plugins` do; `policy_of` takes them
    too, for the names of a decoder's pieces. Raises CheckpointError, saying why, when a folder cannot be used, and
    ConfigError for a plug-in that cannot be used.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        block_size: int | None = None,
        adapter: Path | str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        rows: int = 64,
        memory_bytes: int | None = None,
        forwards: str = "spans",
        plugins: str | Iterable[str] = (),
    ):
        resolve(PLUG_IN)(plugins)
        self.folder = Path(folder)
        if not (self.folder / "config.json").is_file():
            what = "is no checkpoint: config.json is missing" if self.folder.is_dir() else "does not exist"
            raise CheckpointError(
                f"{self.folder} {what}. Give a checkpoint's folder; `lightningrl stages` lists those made here."
            )
        self.tokenizer = load_tokenizer(self.folder)
        self.model = open_model(
            self.folder, adapter=adapter, dtype=dtype, device=device, block_size=block_size,
            mask_token_id=self.tokenizer.mask_token_id,
        )  # fmt: skip
        check_mask(self.model.config.mask_token_id, self.tokenizer, self.folder)
        self.model.usable_vocab = min(len(self.tokenizer), self.model.config.vocab_size)
        self.decoder = BlockDecoder(
            self.model, self.stop_ids, rows=rows, memory_bytes=memory_bytes, forwards=forwards
        )  # fmt: skip

    @cached_property
    def stop_ids(self) -> list[int]:
        """The end and pad tokens of the tokenizer, of the checkpoint's generation_config.json and of its family."""
        return stop_token_ids(self.tokenizer, self.folder, family_named(self.model.config.family).stop_tokens)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of shape, dtype and stop tokens, and of each weight: vectors whole, of matrices the sum of each row's
        bits, which is exact on every device. Changed weights, trained or quantised, are so another model."""
        found = hashlib.sha256(f"{self.model.config} {self.model.lm_head.weight.dtype} {self.stop_ids}".encode())
        for weight in (each.detach() for each in self.model.parameters()):
            found.update((weight.float() if weight.ndim == 1 else _row_sums(weight)).cpu().numpy().tobytes())
        return found.hexdigest()

    def save(self, folder: Path | str, card: ModelCard) -> Path:
        """Writes the model, its tokenizer and a model card to a new folder (inference/sharing.py) and returns it."""
        return resolve(SAVE)(self, folder, card)

    def push_to_hub(self, repo: str, card: ModelCard, **options: Any) -> str:
        """Pushes what `save` writes to a repository of the Hugging Face hub, a private one unless `private=False`, and
        returns the commit's address. options: those of `push_to_hub` in inference/sharing.py."""
        return resolve(PUSH)(self, repo, card, **options)

    def request(
        self,
        prompt: Prompt | np.ndarray,
        *,
        uid: str,
        sample: int = 0,
        max_new_tokens: int | None = None,
        policy: DecodePolicy | None = None,
    ) -> Request:
        """Returns the request of token ids, or of those that the chat template makes of a prompt.

        `uid` and `sample` are the key of its draws. max_new_tokens: None means DEFAULT_MAX_NEW_TOKENS, or as many as
        the model has positions for. Raises DecodeError when the template refuses the conversation, and BenchmarkError
        for words without tokens.
        """
        ids = prompt if isinstance(prompt, np.ndarray) else self._encode(prompt, uid)
        if max_new_tokens is None:
            max_new_tokens = max(1, self.tokens_left(len(ids), policy, DEFAULT_MAX_NEW_TOKENS))
        return Request(uid, sample, ids, max_new_tokens, policy)

    def _encode(self, prompt: Prompt, uid: str) -> np.ndarray:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        try:
            return encode_prompt(self.tokenizer, messages)
        except LightningRLError:
            raise
        except Exception as error:  # the template is a program of the checkpoint and may raise anything
            raise DecodeError(f"{uid}: the chat template or tokenizer refuses this prompt: {error}") from error

    def tokens_left(self, prompt_tokens: int, policy: DecodePolicy | None = None, most: int | None = None) -> int:
        """Returns for how many new tokens the model has positions, on the grid of blocks; below 1 where for none. most:
        it is never more, and on a grid that begins at the prompt's end it is whole blocks."""
        schedule, limit = (policy or DEFAULT_POLICY).schedule, self.model.config.max_position_embeddings
        new = max(1, limit - prompt_tokens)
        size = schedule.size(new, self.model.config.block_size)
        canvas = schedule.canvas(prompt_tokens, new, size)
        left = (canvas.end if canvas.end <= limit else canvas.end - size) - prompt_tokens
        if most is None or left <= most:
            return left
        has_blocks = schedule.fills_canvas and canvas.origin and not schedule.is_whole
        return max(size, most // size * size) if has_blocks else most

    def text(self, trajectory: Trajectory) -> str:
        return decode_response(self.tokenizer, trajectory.response_ids)

    def stream(
        self, requests: Sequence[Request], policy: DecodePolicy | None = None, observer: Observer | None = None
    ) -> Iterator[DecodeResult]:
        """Yields the result of each request as soon as it is known."""
        return self.decoder.stream(requests, policy or DEFAULT_POLICY, observer)

    def generate(
        self, prompts: Sequence[Prompt], policy: DecodePolicy | None = None, *, max_new_tokens: int | None = None
    ) -> list[Completion]:
        """Returns one completion for each prompt, in order; without a policy it decodes greedily at threshold 0.9.

        Raises DecodeError when a prompt cannot be decoded.
        """
        policy = policy or DEFAULT_POLICY  # which says also what length is whole blocks
        how = {"max_new_tokens": max_new_tokens, "policy": policy}
        requests = [self.request(p, uid=f"prompt/{i}", **how) for i, p in enumerate(prompts)]
        trajectories = self.decoder.decode(requests, policy)
        return [Completion(p, self.text(t), t) for p, t in zip(prompts, trajectories, strict=True)]


def _row_sums(weight: torch.Tensor) -> torch.Tensor:
    """Returns (rows,) int64: of each row the sum of its bits, read as whole numbers of 8 bytes, or of 1."""
    is_whole = weight.shape[-1] * weight.element_size() % 8 == 0
    return weight.contiguous().view(torch.int64 if is_whole else torch.uint8).sum(-1, dtype=torch.int64)
