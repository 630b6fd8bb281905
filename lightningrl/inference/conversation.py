"""A conversation with a model, whose answers are shown while they are decoded.

Inside a block tokens are revealed in any order. So two things are shown: the text of the finished blocks, which only
grows, and the active block as a draft, with a piece for every revealed token and None for every masked one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from lightningrl.decoding.protocol import DecodePolicy, Observation, Request
from lightningrl.errors import DecodeError
from lightningrl.inference.llm import DEFAULT_POLICY, LLM
from lightningrl.tokenization import decode_response
from lightningrl.types import Trajectory

Draft = list[str | None]
Show = Callable[[str, Draft], None]
"""A function that is called after every forward with the text of the finished blocks and the active block's draft."""


class DraftObserver:
    """An `Observer` of a single request, which calls `show` after every forward."""

    alternatives = 0

    def __init__(self, llm: LLM, request: Request, show: Show):
        self._llm, self._show = llm, show
        schedule = (request.policy or DEFAULT_POLICY).schedule
        self._prompt_len = len(request.prompt_ids)
        self._size = schedule.size(request.max_new_tokens, llm.model.config.block_size)
        self._origin = schedule.canvas(self._prompt_len, request.max_new_tokens, self._size).origin
        self._tokens: dict[int, int] = {}
        self.text = ""
        """The text of the finished blocks up to the first stop token, but for what the next token could still
        change."""

    def observe(self, seen: Observation) -> None:
        chosen = seen.chosen_n
        self._tokens.update(zip(seen.position_n[chosen].tolist(), seen.token_n[chosen].tolist(), strict=True))
        block = self._origin + (int(seen.position_n[0]) - self._origin) // self._size * self._size
        active = range(max(block, self._prompt_len), block + self._size)
        draft = [self._tokens.get(position) for position in active]
        is_full = None not in draft
        end = active.stop if is_full else block
        while is_full and all(position in self._tokens for position in range(end, end + self._size)):
            end += self._size  # of a window, whose later blocks may have been finished before
        finished = [self._tokens[position] for position in range(self._prompt_len, end)]
        stopped = np.flatnonzero(np.isin(finished, self._llm.stop_ids))
        ids = finished[: stopped[0]] if len(stopped) else finished
        self.text = decode_response(self._llm.tokenizer, ids).rstrip("\ufffd")
        pieces = [token if token is None else decode_response(self._llm.tokenizer, [token]) for token in draft]
        self._show(self.text, [] if is_full else pieces)


@dataclass
class Conversation:
    """The turns so far, and the model that answers them."""

    llm: LLM
    max_new_tokens: int | None = None
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    answers: int = 0
    """How many answers were begun: part of the key of the draws, so that a repeated question gets another answer."""

    def clear(self) -> None:
        self.messages.clear()

    def answer(self, text: str, policy: DecodePolicy, show: Show) -> Trajectory:
        """Decodes the answer to a question, shows it as it comes, and keeps both turns.

        The answer has at most the tokens for which the context has room. On KeyboardInterrupt the finished blocks are
        kept as the answer; if there are none, the question is dropped. Raises DecodeError when the conversation does
        not fit and BenchmarkError for words that the tokenizer does not know; the question is then dropped.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        self.answers += 1
        request = self.llm.request(
            [*system, *messages], uid=f"chat/{self.answers}", max_new_tokens=self.max_new_tokens, policy=policy
        )
        prompt_tokens = len(request.prompt_ids)
        left = self.llm.tokens_left(prompt_tokens, policy)
        if left < 1:
            raise DecodeError(
                f"the conversation has {prompt_tokens} tokens, the model's context "
                f"{self.llm.model.config.max_position_embeddings}: no room for an answer is left; begin a new one"
            )
        observer = DraftObserver(self.llm, request, show)
        request = replace(request, max_new_tokens=min(request.max_new_tokens, left))
        try:
            [result] = self.llm.stream([request], observer=observer)
        except KeyboardInterrupt:
            if observer.text:
                self.messages = [*messages, {"role": "assistant", "content": observer.text}]
            raise
        if result.trajectory is None:
            assert result.error is not None
            raise result.error
        self.messages = [*messages, {"role": "assistant", "content": self.llm.text(result.trajectory)}]
        return result.trajectory
