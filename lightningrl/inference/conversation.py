"""A conversation with a model: turns kept, answers shown while they are decoded.

Inside a block tokens are revealed in any order, so what is shown is the text of finished blocks, which only grows, and
the active block as a draft: a piece for every revealed token, None for every masked one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lightningrl.decoding.protocol import DecodePolicy, Observation, Request
from lightningrl.errors import DecodeError
from lightningrl.inference.llm import LLM
from lightningrl.tokenization import decode_response
from lightningrl.types import Trajectory

Draft = list[str | None]
Show = Callable[[str, Draft], None]
"""Called after every forward with the text of the finished blocks and the active block's draft."""


class Watch:
    """An `Observer` of one request alone."""

    alternatives = 0

    def __init__(self, llm: LLM, request: Request, show: Show):
        self._llm, self._show = llm, show
        self._prompt_len, self._size = len(request.prompt_ids), llm.model.config.block_size
        self._tokens: dict[int, int] = {}
        self.text = ""
        """Of the finished blocks, up to the first stop token; what could still change with the next token left out."""

    def observe(self, seen: Observation) -> None:
        chosen = seen.chosen_n
        self._tokens.update(zip(seen.position_n[chosen].tolist(), seen.token_n[chosen].tolist(), strict=True))
        block = int(seen.position_n[0]) // self._size * self._size
        active = range(max(block, self._prompt_len), block + self._size)
        full = all(position in self._tokens for position in active)
        finished = [self._tokens[position] for position in range(self._prompt_len, active.stop if full else block)]
        stopped = np.flatnonzero(np.isin(finished, self._llm.stop_ids))
        ids = finished[: stopped[0]] if len(stopped) else finished
        self.text = decode_response(self._llm.tokenizer, ids).rstrip("\ufffd")
        self._show(self.text, [] if full else [self._piece(self._tokens.get(position)) for position in active])

    def _piece(self, token: int | None) -> str | None:
        return None if token is None else decode_response(self._llm.tokenizer, [token])


@dataclass
class Conversation:
    """Turns so far, and the model that answers them."""

    llm: LLM
    max_new_tokens: int | None = None
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    answers: int = 0
    """Asked for in all: part of the key of the draws, so that a question asked again is answered anew."""

    def clear(self) -> None:
        self.messages.clear()

    def answer(self, text: str, policy: DecodePolicy, show: Show) -> Trajectory:
        """Ask, show the answer as it comes, keep both turns.

        An answer has at most the tokens that the context still holds. Interrupted (KeyboardInterrupt), what was shown
        of finished blocks is kept as the answer, or the question forgotten when that is nothing. Raises DecodeError
        when the conversation does not fit, BenchmarkError for words the tokenizer does not have; the question is then
        forgotten.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        self.answers += 1
        request = self.llm.request(
            [*system, *asked], uid=f"chat/{self.answers}", max_new_tokens=self.max_new_tokens, policy=policy
        )
        request = self._fitted(request)
        watch = Watch(self.llm, request, show)
        try:
            [outcome] = self.llm.stream([request], observer=watch)
        except KeyboardInterrupt:
            if watch.text:
                self.messages = [*asked, {"role": "assistant", "content": watch.text}]
            raise
        if outcome.trajectory is None:
            assert outcome.error is not None
            raise outcome.error
        self.messages = [*asked, {"role": "assistant", "content": self.llm.text(outcome.trajectory)}]
        return outcome.trajectory

    def _fitted(self, request: Request) -> Request:
        config, prompt = self.llm.model.config, len(request.prompt_ids)
        left = config.max_position_embeddings // config.block_size * config.block_size - prompt
        if left < 1:
            raise DecodeError(
                f"the conversation has {prompt} tokens, the model's context {config.max_position_embeddings}: no room "
                "for an answer is left; begin a new one"
            )
        return Request(request.uid, 0, request.prompt_ids, min(request.max_new_tokens, left), request.policy)
