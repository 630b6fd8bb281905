"""The forwards of the official decoding loop, with our model and our cache: the yardstick of the engines.

It decodes one row. For each block it runs denoise forwards of K queries, with the head at all K positions, until
nothing is masked, and then one more forward that stores the clean block. It ends at the length and knows no stop
tokens.
"""

from __future__ import annotations

import numpy as np
import torch

from lightningrl.decoding.proposals import Proposals
from lightningrl.decoding.protocol import Request, Selector
from lightningrl.models.attention import PagedAttention, PagedKV, PagedSpan, key_limits
from lightningrl.models.transformer import Transformer


class OfficialLoop:
    """Greedy decoding of one request at a time; `forwards` counts all forwards, prefill and stores included."""

    def __init__(self, model: Transformer, length: int):
        config, self.model, self.forwards = model.config, model, 0
        self.page_tokens = config.block_size
        pages = -(-length // self.page_tokens)
        self.pages_1P = np.arange(pages)[None]
        self.cache = PagedKV(
            config.num_hidden_layers, pages, self.page_tokens, config.num_key_value_heads, config.head_dim,
            model.lm_head.weight,
        )  # fmt: skip

    @torch.no_grad()
    def decode(self, request: Request, selector: Selector) -> np.ndarray:
        """Returns [L] the token ids of prompt and response, to the end of the last block."""
        size, mask_id = self.model.config.block_size, self.model.config.mask_token_id
        device = self.cache.keys.device
        prompt_len = len(request.prompt_ids)
        end = -(-(prompt_len + request.max_new_tokens) // size) * size
        ids_L = torch.full((end,), mask_id, dtype=torch.int64, device=device)
        ids_L[:prompt_len] = torch.from_numpy(request.prompt_ids).to(device)
        first = prompt_len // size * size
        if first:
            self._hidden(ids_L, 0, first)
        for start in range(first, end, size):
            block_K, step = ids_L[start : start + size], 0
            while (open_K := block_K == mask_id).any():
                log_probs_KV = self.model.log_probs(self._hidden(ids_L, start, size))
                logp_K, token_K = log_probs_KV.max(dim=-1)
                confidence_1K, open_1K = logp_K.exp()[None], open_K[None]
                score_1K = confidence_1K.masked_fill(~open_1K, float("-inf"))
                step_1 = torch.tensor([step], device=device)
                seen = Proposals(open_1K, confidence_1K, torch.zeros_like(confidence_1K), score_1K, step_1)
                chosen_K = selector.select(seen)[0]
                block_K[chosen_K] = token_K[chosen_K]
                step += 1
            self._hidden(ids_L, start, size)
        return ids_L.cpu().numpy()

    def _hidden(self, ids_L: torch.Tensor, start: int, queries: int) -> torch.Tensor:
        self.forwards += 1
        at_1Q = start + np.arange(queries)[None]
        limits_1Q = key_limits(self.model.config, at_1Q, np.array([start + queries]))
        span = PagedSpan(self.pages_1P, at_1Q, limits_1Q, self.page_tokens)
        positions_1Q = torch.from_numpy(at_1Q).to(ids_L.device)
        ids_1Q = ids_L[start : start + queries][None]
        return self.model.hidden(ids_1Q, positions_1Q, PagedAttention(self.cache, [span]))[0]
