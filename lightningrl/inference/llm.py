"""The Python interface: a checkpoint with its tokenizer and decoder, which turns prompts into texts.

llm = LLM("JetLM/SDAR-8B-Chat-b32", threshold=0.9)
[completion] = llm.generate("How many legs do 3 cats have?", max_new_tokens=256)
print(completion.text, completion.trajectory.stats.tpf)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, DecodeResult, Observer, Request
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import CheckpointError, DecodeError, LightningRLError
from lightningrl.inference.policy import policy_of, require_fitting
from lightningrl.models.config_file import family_named
from lightningrl.models.hub import block_size_named, located
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

    folder: its folder, or a repository of the Hugging Face hub such as `JetLM/SDAR-8B-Chat-b32`, at `revision`.
    block_size: needed for checkpoints that name it neither in their config.json nor, as SDAR's official ones, in their
    name. adapter: the folder of a LoRA in peft's format, merged into the weights. dtype: None keeps the stored one.
    device: `auto` is a GPU where torch finds one, else the CPU. threshold, temperature, decoder: how it decodes where a
    call says nothing else; `lightningrl decoders` lists the published decoders. rows, memory_bytes, forwards: those of
    BlockDecoder. plugins: modules that add families of checkpoints, as a config's `plugins` do; `policy_of` takes them
    too, for the names of a decoder's pieces. Raises CheckpointError, saying why, when a folder cannot be used, and
    ConfigError for a plug-in that cannot be used.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        revision: str | None = None,
        block_size: int | None = None,
        adapter: Path | str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "auto",
        threshold: float | None = None,
        temperature: float | None = None,
        decoder: str | None = None,
        rows: int = 64,
        memory_bytes: int | None = None,
        forwards: str = "spans",
        plugins: str | Iterable[str] = (),
    ):
        resolve(PLUG_IN)(plugins)
        self.words = {"parameter": threshold, "temperature": temperature, "preset": decoder}
        self.policy = _policy(self.words) or DEFAULT_POLICY
        self.folder = located(folder, revision)
        if not (self.folder / "config.json").is_file():
            what = "is no checkpoint: config.json is missing" if self.folder.is_dir() else "does not exist"
            raise CheckpointError(
                f"{self.folder} {what}. Give a checkpoint's folder (`lightningrl stages` lists those made here), or a "
                "repository of the Hugging Face hub as owner/name."
            )
        require_fitting(self.folder, decoder or "")
        block_size, device = block_size or block_size_named(folder, self.folder), usual_device(device)
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
        schedule, limit = (policy or self.policy).schedule, self.model.config.max_position_embeddings
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
        return self.decoder.stream(requests, policy or self.policy, observer)

    def generate(
        self, prompts: Prompt | Sequence[Prompt], policy: DecodePolicy | None = None, *,
        max_new_tokens: int | None = None, threshold: float | None = None, temperature: float | None = None,
        decoder: str | None = None,
    ) -> list[Completion]:  # fmt: skip
        """Returns one completion for each prompt, in order. A string is one prompt, and so is a list of messages.

        How it decodes is said by `policy`, or by the words after it; what neither says is as the model was opened with,
        and else greedy at threshold 0.9. Raises DecodeError when a prompt cannot be decoded, and ConfigError for words
        that name no decoder or none that fits the model.
        """
        is_one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], dict))
        listed = [cast(Prompt, prompts)] if is_one else cast(Sequence[Prompt], prompts)
        if policy is None:
            require_fitting(self.folder, decoder or "")
            said = {"parameter": threshold, "temperature": temperature, "preset": decoder}
            policy = _policy(self.words | {key: value for key, value in said.items() if value is not None})
        policy = policy or self.policy  # which says also what length is whole blocks
        how = {"max_new_tokens": max_new_tokens, "policy": policy}
        requests = [self.request(p, uid=f"prompt/{i}", **how) for i, p in enumerate(listed)]
        trajectories = self.decoder.decode(requests, policy)
        return [Completion(p, self.text(t), t) for p, t in zip(listed, trajectories, strict=True)]

    def __repr__(self) -> str:
        config, weight = self.model.config, self.model.lm_head.weight
        size = f"{config.num_parameters / 1e9:.2g} B" if config.num_parameters > 1e8 else f"{config.num_parameters:,}"
        dtype = str(weight.dtype).removeprefix("torch.")
        return f"LLM({str(self.folder)!r}: {config.family}, {size} parameters, {dtype} on {weight.device})"


def usual_device(device: torch.device | str) -> torch.device | str:
    """Returns what `auto` stands for, a GPU where torch finds one; any other device as it is."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _policy(words: Mapping[str, Any]) -> DecodePolicy | None:
    """Returns the policy of the words that are not None; None where there are none."""
    said = {key: value for key, value in words.items() if value is not None}
    return policy_of(**said) if said else None


def _row_sums(weight: torch.Tensor) -> torch.Tensor:
    """Returns (rows,) int64: of each row the sum of its bits, read as whole numbers of 8 bytes, or of 1."""
    is_whole = weight.shape[-1] * weight.element_size() % 8 == 0
    return weight.contiguous().view(torch.int64 if is_whole else torch.uint8).sum(-1, dtype=torch.int64)
