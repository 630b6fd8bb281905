"""A teacher's opinion of responses: the mean log-probability a token that an autoregressive model gives them.

dUltra's distillation reward. The teacher renders the problem by its own chat template and has its own tokenizer. Prompt
and response are tokenised apart and put together, so that every token of the response is the response's; the published
code tokenises them together and takes the last tokens, which is wrong where a token spans the border. In a run of
several processes each has the teacher whole, in the precision of the run's forwards, and scores all responses. What the
teacher has no positions for is cut off: the beginning of a prompt, and the end of a response that alone is too long.

Shapes: N groups of G responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightningrl.answering import Answer
from lightningrl.models.canvas import CanvasRow, causal_limits
from lightningrl.models.checkpoint import load_model
from lightningrl.models.packing import pack_canvases, token_scores
from lightningrl.rl.groups import Groups
from lightningrl.tokenization import encode_prompts, encode_texts, load_tokenizer
from lightningrl.training.shards import PRECISIONS

if TYPE_CHECKING:
    from lightningrl.rl.setup import TrainSetup


class Teacher:
    """An autoregressive model that scores responses: the checkpoint `teacher` of a set-up, so many responses a
    forward."""

    def __init__(self, setup: TrainSetup, microbatch: int):
        folder, dtype = setup.checkpoints["teacher"], PRECISIONS[setup.run.precision]
        self.model = load_model(folder, device=setup.model.device, dtype=dtype).requires_grad_(False)
        self.tokenizer, self.render, self.microbatch = load_tokenizer(folder), setup.task.render, microbatch
        self._known: dict[tuple[int, str, str], float] = {}

    def rewards(self, groups: Groups) -> np.ndarray:
        """Returns (N, G) nats per token. A step asks for its responses several times, and they are scored once; those
        of other steps are forgotten, so that a resumed run computes what an undisturbed one does."""
        answers = {_key(answer): answer for group in groups.answers for answer in group}
        steps = {key[0] for key in answers}
        self._known = {key: value for key, value in self._known.items() if key[0] in steps}
        new = {key: answer for key, answer in answers.items() if key not in self._known}
        self._known |= dict(zip(new, self.mean_log_probs(list(new.values())), strict=True))
        return groups.table(lambda answer: self._known[_key(answer)])

    @torch.no_grad()
    def mean_log_probs(self, answers: Sequence[Answer]) -> list[float]:
        """Returns the mean log-probability a token of each response; of an empty one, that of the end of the text."""
        prompts = encode_prompts(self.tokenizer, [self.render(answer.example) for answer in answers]) if answers else []
        texts = encode_texts(self.tokenizer, [answer.text for answer in answers]) if answers else []
        found: list[float] = []
        for start in range(0, len(answers), self.microbatch):
            part = slice(start, start + self.microbatch)
            responses = [list(ids) or [self.tokenizer.eos_token_id] for ids in texts[part]]
            found += self._score([list(prompt) for prompt in prompts[part]], responses)
        return found

    def _score(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[float]:
        limit, rows = self.model.config.max_position_embeddings, list[CanvasRow]()
        for prompt, response in zip(prompts, responses, strict=True):
            scored = response[: limit - 1]
            ids = np.array([*prompt[-(limit - len(scored)) :], *scored], dtype=np.int64)
            is_scored = np.arange(len(ids)) >= len(ids) - len(scored)
            rows.append(CanvasRow(ids, ids, is_scored, causal_limits(len(ids))))
        logp_n, _ = token_scores(self.model, pack_canvases(rows, self.model.device, self.model.config.logit_shift))
        return [float(part.double().mean()) for part in logp_n.split([row.num_scored for row in rows])]


def _key(answer: Answer) -> tuple[int, str, str]:
    """A response of a step: equal ones have equal numbers."""
    return answer.trajectory.policy_version, answer.example.uid, answer.text
