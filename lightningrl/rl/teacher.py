"""A teacher's opinion of responses: the mean log-probability a token that an autoregressive model gives them.

dUltra's distillation reward. The teacher renders the problem by its own chat template and has its own tokenizer. Prompt
and response are tokenised apart and put together, so that every token of the response is the response's; the published
code tokenises them together and takes the last tokens, which is wrong where a token spans the border. In a run of
several processes each has the teacher whole and scores all responses.

Shapes: N groups of G responses; B texts of a forward; T positions; n response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightningrl.answering import Answer
from lightningrl.errors import ConfigError
from lightningrl.models.checkpoint import load_model
from lightningrl.models.head import token_log_probs
from lightningrl.rl.groups import Groups
from lightningrl.tokenization import encode_prompts, encode_texts, load_tokenizer

if TYPE_CHECKING:
    from lightningrl.rl.algorithms.dultra import TeacherReward
    from lightningrl.rl.setup import TrainSetup

MOST_KNOWN = 1 << 16
"""Responses whose numbers are kept: a step asks for them several times."""


class Teacher:
    """An autoregressive model that scores responses. Raises ConfigError for one that is not."""

    def __init__(self, settings: TeacherReward, setup: TrainSetup):
        folder = Path(settings.checkpoint)
        self.model = load_model(folder, device=setup.model.device).requires_grad_(False)
        if self.model.config.attention != "causal":
            raise ConfigError(
                f"runs.{setup.run.name}.method.teacher: {folder} is a {self.model.config.family} model with "
                f"{self.model.config.attention} attention, expected an autoregressive one such as Qwen2.5"
            )
        self.tokenizer, self.render, self.microbatch = load_tokenizer(folder), setup.task.render, settings.microbatch
        self._known: dict[tuple[str, str], float] = {}

    def rewards(self, groups: Groups) -> np.ndarray:
        """Returns (N, G) nats a token."""
        answers = [answer for group in groups.answers for answer in group]
        new = {(a.example.uid, a.text): a for a in answers if (a.example.uid, a.text) not in self._known}
        if len(self._known) + len(new) > MOST_KNOWN:
            self._known, new = {}, {(a.example.uid, a.text): a for a in answers}
        values = self.mean_log_probs(list(new.values()))
        self._known |= dict(zip(new, values, strict=True))
        return groups.table(lambda a: self._known[a.example.uid, a.text])

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
        rows = [torch.tensor([*prompt, *response]) for prompt, response in zip(prompts, responses, strict=True)]
        # Padded on the right, where no earlier position looks.
        ids_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.model.device)
        positions_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device).expand_as(ids_BT)
        hidden_BTH = self.model.hidden(ids_BT, positions_BT, _causal)
        found = []
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            before = slice(len(prompt) - 1, len(prompt) - 1 + len(response))
            target_n = torch.tensor(response, device=ids_BT.device)
            logp_n, _ = token_log_probs(self.model, hidden_BTH[row, before], target_n)
            found.append(float(logp_n.double().mean()))
        return found


def _causal(layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
    is_grouped = q_BNQD.shape[1] != k_BMQD.shape[1]
    return F.scaled_dot_product_attention(q_BNQD, k_BMQD, v_BMQD, is_causal=True, enable_gqa=is_grouped)
