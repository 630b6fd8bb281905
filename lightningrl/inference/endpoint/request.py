"""What a server is asked: the body of each request, from our one form of a prompt and the settings of sampling."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightningrl.config.endpoint import Endpoint
from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.utils import files

Messages = Sequence[dict[str, str]]
Key = tuple[str, int]
"""(uid, sample)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn, whoever draws them."""

    max_tokens: int
    temperature: float
    """0: greedy."""
    seed: int
    """The experiment's; each request has one of its own, which follows from it."""


@dataclass(frozen=True, slots=True)
class EndpointRequest:
    """One request: of one sample of one problem."""

    uid: str
    sample: int
    body: dict[str, Any]
    prompt_sha256: str
    """The hash of the chat turns, or of the rendered text."""
    read_at: str = ""
    """Where the reply's forwards are read (`forwards_at`)."""

    @property
    def key(self) -> Key:
        return self.uid, self.sample

    @property
    def digest(self) -> str:
        """What the answer depends on, as far as we know it: an answer to another body is not gone on from."""
        read = [self.read_at] if self.read_at else []
        return files.sha256_text(files.canonical_json([self.uid, self.sample, self.body, *read]))


def make_requests(
    endpoint: Endpoint,
    conversations: Iterable[tuple[str, Messages]],
    samples: int,
    sampling: Sampling,
    threshold: float,
    compat: bool = False,
) -> list[EndpointRequest]:
    """Returns `samples` requests for each (uid, chat turns), in order.

    compat: as `tokenization.prompt_text`, where the text is rendered here. Raises ConfigError for a prompt that begins
    the answer where the server would not go on from it, and CheckpointError for a tokenizer that cannot be used.
    """
    tokenizer = None if endpoint.chat else load_chat_tokenizer(Path(endpoint.tokenizer))
    found = []
    for uid, messages in conversations:
        asked: dict[str, Any] = {"messages": [dict(turn) for turn in messages]}
        if tokenizer is not None:
            from lightningrl.tokenization import prompt_text

            asked = {"prompt": prompt_text(tokenizer, messages, compat)}
        elif messages[-1]["role"] == "assistant" and not endpoint.extra_body.get("continue_final_message"):
            raise ConfigError(
                f"the prompt of {uid} begins the answer, from which the chat of the OpenAI API does not go on. For "
                'vLLM and SGLang say extra_body: {"continue_final_message": true, "add_generation_prompt": false}; '
                "else ask for completions (chat: false, with a tokenizer)"
            )
        prompt_sha256 = files.sha256_text(files.canonical_json(asked))
        for sample in range(samples):
            body = {"model": endpoint.model, **asked, **endpoint.extra_body, "max_tokens": sampling.max_tokens}
            body |= {"temperature": sampling.temperature, "seed": _seed(sampling.seed, uid, sample), "stream": False}
            body |= {"stop": endpoint.stop} if endpoint.stop else {}
            if endpoint.parameter:
                body[endpoint.parameter] = int(threshold) if threshold == int(threshold) else threshold
            found.append(EndpointRequest(uid, sample, body, prompt_sha256, endpoint.forwards_at))
    return found


def _seed(seed: int, uid: str, sample: int) -> int:
    """Returns the seed of one request, below 2^31."""
    digest = hashlib.sha256(f"{seed} {uid} {sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def load_chat_tokenizer(folder: Path) -> Any:
    """Returns a tokenizer with a chat template, of a local folder; no code of the folder is run.

    Unlike a model of ours, a server's needs no mask token. Raises CheckpointError.
    """
    if not (folder / "tokenizer_config.json").is_file():
        raise CheckpointError(f"{folder} is no tokenizer's folder: it has no tokenizer_config.json")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of damaged files it raises anything
        raise CheckpointError(f"the tokenizer in {folder} cannot be loaded: {error!r}. Restore its files.") from error
    if tokenizer.chat_template is None:
        raise CheckpointError(f"the tokenizer in {folder} has no chat template, which renders the prompts")
    return tokenizer
