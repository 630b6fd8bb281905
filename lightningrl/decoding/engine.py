"""The block-parallel decoder: rows at different blocks and denoise steps share forwards over one KV cache.

A row's life: its prompt's full blocks are prefilled; the rest of the prompt opens the first decoded block; each
denoise forward draws every masked position of the active block and the selector says which are revealed; a finished
block's clean keys and values are committed, by default in the same forward that first denoises the next block
(`fused`: 2K queries), else in a forward of its own (`separate`). A row ends with the block in which its response has
a stop token, or at its length limit; the tail of that block is kept. A finished row's slot is given to the next
request at once.

Randomness is keyed (decoding/keyed.py), so a row does not depend on its neighbours but through rounding.
Shapes: R slots; B rows of one forward; K block size; T cache positions; n masked positions of a forward.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from lightningrl.decoding.keyed import row_key, uniform
from lightningrl.decoding.ledger import Forward, Ledger
from lightningrl.decoding.protocol import Policy, Request
from lightningrl.decoding.sampling import draw
from lightningrl.errors import DecodeError
from lightningrl.models.attention import CachedBlocks, KVCache
from lightningrl.models.sdar import SDAR
from lightningrl.types import DecodeStats, Trajectory


class BlockDecoder:
    """A `Decoder` over an SDAR model on one device.

    stop_token_ids: any of them in the response ends it. rows: slots decoded together.
    """

    def __init__(self, model: SDAR, stop_token_ids: Collection[int], *, rows: int = 256):
        self.model, self.rows = model, rows
        self.ledger = Ledger()
        self.stop_ids = torch.tensor(sorted(stop_token_ids), device=model.lm_head.weight.device)

    @torch.no_grad()
    def decode(self, requests: Sequence[Request], policy: Policy) -> list[Trajectory]:
        """One trajectory a request, in order. Raises DecodeError for a request that cannot fit the model."""
        if not requests:
            return []
        for request in requests:
            self._check(request)
        pool = _Pool(self.model, min(self.rows, len(requests)), max(map(self._end, requests)))
        waiting = deque(enumerate(requests))
        finished: dict[int, Trajectory] = {}
        while waiting or pool.busy.any():
            entering = []
            for slot in torch.nonzero(~pool.busy).flatten().tolist()[: len(waiting)]:
                index, request = waiting.popleft()
                pool.enter(slot, index, request, self._end(request), policy)
                entering.append(slot)
            self._prefill(pool, entering)
            self._forward_all(pool, policy)
            for slot in self._advance(pool):
                finished[pool.index[slot]] = pool.leave(slot, policy, self.stop_ids)
        return [finished[index] for index in range(len(requests))]

    def _end(self, request: Request) -> int:
        size = self.model.config.block_size
        return -(-(len(request.prompt_ids) + request.max_new_tokens) // size) * size

    def _check(self, request: Request) -> None:
        limit, prompt = self.model.config.max_position_embeddings, request.prompt_ids
        if self._end(request) > limit:
            raise DecodeError(
                f"{request.uid}: {len(prompt)} prompt tokens and {request.max_new_tokens} new ones need "
                f"{self._end(request)} positions, the model has {limit}: shorten the prompt or max_new_tokens"
            )
        if prompt.min() < 0 or prompt.max() >= self.model.config.vocab_size:
            raise DecodeError(f"{request.uid}: a prompt token lies outside the vocabulary")

    def _prefill(self, pool: _Pool, slots: list[int]) -> None:
        """Write the clean keys and values of the full blocks of the prompts of `slots`."""
        slots = [slot for slot in slots if pool.start[slot] > 0]
        if not slots:
            return
        rows_B = torch.tensor(slots, device=pool.tokens.device)
        length_B = pool.start[rows_B]
        offset_Q = torch.arange(int(length_B.max()), device=rows_B.device)
        real_BQ = offset_Q < length_B[:, None]
        size = self.model.config.block_size
        positions_BQ = offset_Q.expand(len(slots), -1)
        limit_BQ = torch.where(real_BQ, (positions_BQ // size + 1) * size, 1)
        trash_BQ = torch.where(real_BQ, positions_BQ, pool.trash)
        began = time.perf_counter()
        attend = CachedBlocks(pool.cache, rows_B, trash_BQ, limit_BQ)
        self.model.hidden(pool.tokens[rows_B, : len(offset_Q)], positions_BQ, attend)
        self._note("prefill", positions_BQ, attend, 0, began)
        pool.prefill_forwards[rows_B] += 1

    def _forward_all(self, pool: _Pool, policy: Policy) -> None:
        """One engine iteration: every busy row takes part in one forward."""
        pending = pool.busy & pool.uncommitted
        if policy.commit == "fused":
            self._denoise(pool, torch.nonzero(pending).flatten(), policy, with_previous=True)
        elif pending.any():
            self._commit(pool, torch.nonzero(pending).flatten())
        self._denoise(pool, torch.nonzero(pool.busy & ~pending).flatten(), policy, with_previous=False)

    def _commit(self, pool: _Pool, rows_B: Tensor) -> None:
        size = self.model.config.block_size
        positions_BK = pool.start[rows_B, None] - size + torch.arange(size, device=rows_B.device)
        limit_BK = pool.start[rows_B, None].expand(-1, size)
        began = time.perf_counter()
        attend = CachedBlocks(pool.cache, rows_B, positions_BK, limit_BK)
        self.model.hidden(pool.tokens[rows_B[:, None], positions_BK], positions_BK, attend)
        self._note("commit", positions_BK, attend, 0, began)
        pool.uncommitted[rows_B] = False
        pool.commit_forwards[rows_B] += 1

    def _denoise(self, pool: _Pool, rows_B: Tensor, policy: Policy, *, with_previous: bool) -> None:
        """A denoise forward of the active blocks; with_previous also commits the block before each."""
        if not len(rows_B):
            return
        size = self.model.config.block_size
        start_B1 = pool.start[rows_B, None]
        offsets_Q = torch.arange(-size if with_previous else 0, size, device=rows_B.device)
        positions_BQ = start_B1 + offsets_Q
        limit_BQ = torch.where(offsets_Q < 0, start_B1, start_B1 + size)
        began = time.perf_counter()
        attend = CachedBlocks(pool.cache, rows_B, positions_BQ, limit_BQ)
        hidden_BQH = self.model.hidden(pool.tokens[rows_B[:, None], positions_BQ], positions_BQ, attend)
        pool.uncommitted[rows_B] = False
        pool.denoise_forwards[rows_B] += 1
        revealed = self._reveal(pool, rows_B, positions_BQ[:, -size:], hidden_BQH[:, -size:], policy)
        self._note("fused" if with_previous else "denoise", positions_BQ, attend, revealed, began)

    def _note(self, kind: str, positions_BQ: Tensor, attend: CachedBlocks, revealed: int, began: float) -> None:
        rows, queries = positions_BQ.shape
        self.ledger.add(Forward(kind, rows, queries, attend.span, revealed, time.perf_counter() - began))

    def _reveal(self, pool: _Pool, rows_B: Tensor, positions_BK: Tensor, hidden_BKH: Tensor, policy: Policy) -> int:
        """Draw the masked positions of the active blocks, reveal those selected; returns how many."""
        masked_BK = pool.masked[rows_B[:, None], positions_BK]
        forward_B = pool.denoise_forwards[rows_B]
        row_n, column_n = torch.nonzero(masked_BK, as_tuple=True)
        log_probs_nV = self.model.log_probs(hidden_BKH[row_n, column_n], policy.temperature or 1.0)
        uniform_n = None
        if policy.temperature:
            uniform_n = uniform(pool.key[rows_B][row_n], positions_BK[row_n, column_n], forward_B[row_n])
        token_n, logp_n = draw(log_probs_nV, policy.temperature, uniform_n)
        if not bool(torch.isfinite(logp_n).all()):
            raise DecodeError("the model's probabilities are not finite: its weights are damaged, or training diverged")
        confidence_BK = torch.zeros(masked_BK.shape, dtype=logp_n.dtype, device=logp_n.device)
        confidence_BK[row_n, column_n] = logp_n.exp()
        kept_n = policy.selector.select(confidence_BK, masked_BK)[row_n, column_n]
        slot_k, position_k = rows_B[row_n[kept_n]], positions_BK[row_n[kept_n], column_n[kept_n]]
        pool.tokens[slot_k, position_k] = token_n[kept_n]
        pool.masked[slot_k, position_k] = False
        pool.logp[slot_k, position_k] = logp_n[kept_n].float()
        pool.reveal[slot_k, position_k] = forward_B[row_n[kept_n]]
        return len(slot_k)

    def _advance(self, pool: _Pool) -> list[int]:
        """Move rows with a finished block to the next one; return the slots of finished rows."""
        size = self.model.config.block_size
        block_RK = pool.start[:, None] + torch.arange(size, device=pool.start.device)
        full_R = pool.busy & ~pool.uncommitted & ~pool.masked.gather(1, block_RK.clamp(max=pool.trash)).any(dim=1)
        if not full_R.any():
            return []
        inside_RK = block_RK >= pool.prompt_len[:, None]
        tokens_RK = pool.tokens.gather(1, block_RK.clamp(max=pool.trash))
        stopped_R = (torch.isin(tokens_RK, self.stop_ids) & inside_RK).any(dim=1)
        done_R = full_R & (stopped_R | (pool.start + size >= pool.end))
        onward_R = full_R & ~done_R
        pool.start[onward_R] += size
        pool.uncommitted[onward_R] = True
        return torch.nonzero(done_R).flatten().tolist()


class _Pool:
    """State of the slots; every array has one row a slot. The last cache column takes what nobody reads."""

    def __init__(self, model: SDAR, slots: int, length: int):
        config, weight = model.config, model.lm_head.weight
        self.size, self.mask_id, self.trash = config.block_size, config.mask_token_id, length
        self.cache = KVCache(
            config.num_hidden_layers, slots, length + 1, config.num_key_value_heads, config.head_dim, weight
        )

        def array(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(slots, *shape, dtype=dtype, device=weight.device)

        self.tokens, self.reveal = array(length + 1), array(length + 1)
        self.masked, self.logp = array(length + 1, dtype=torch.bool), array(length + 1, dtype=torch.float32)
        self.start, self.prompt_len, self.end, self.key = array(), array(), array(), array()
        self.busy, self.uncommitted = array(dtype=torch.bool), array(dtype=torch.bool)
        self.denoise_forwards, self.commit_forwards, self.prefill_forwards = array(), array(), array()
        self.index = [0] * slots
        self.request: list[Request | None] = [None] * slots

    def enter(self, slot: int, index: int, request: Request, end: int, policy: Policy) -> None:
        """Lay a request into a free slot: prompt, masks, empty counters."""
        prompt = torch.from_numpy(np.ascontiguousarray(request.prompt_ids, dtype=np.int64))
        self.tokens[slot, : len(prompt)] = prompt.to(self.tokens.device)
        self.tokens[slot, len(prompt) :] = self.mask_id
        self.masked[slot] = False
        self.masked[slot, len(prompt) : end] = True
        self.start[slot] = len(prompt) // self.size * self.size
        self.prompt_len[slot], self.end[slot] = len(prompt), end
        self.key[slot] = row_key(policy.seed, policy.step, request.uid, request.sample)
        self.busy[slot], self.uncommitted[slot] = True, False
        for counter in (self.denoise_forwards, self.commit_forwards, self.prefill_forwards):
            counter[slot] = 0
        self.index[slot], self.request[slot] = index, request

    def leave(self, slot: int, policy: Policy, stop_ids: Tensor) -> Trajectory:
        """Free a finished slot and return what happened in it."""
        request = self.request[slot]
        assert request is not None
        self.busy[slot] = False
        decoded = slice(int(self.prompt_len[slot]), int(self.start[slot]) + self.size)

        stops = torch.nonzero(torch.isin(self.tokens[slot, decoded], stop_ids)).flatten()
        emitted = decoded.stop - decoded.start
        response_len = int(stops[0]) + 1 if len(stops) else emitted

        def array(values: Tensor) -> np.ndarray:
            return values[slot, decoded].cpu().numpy().copy()

        stats = DecodeStats(
            response_tokens=response_len,
            emitted_tokens=emitted,
            denoise_forwards=int(self.denoise_forwards[slot]),
            commit_forwards=int(self.commit_forwards[slot]),
            prefill_forwards=int(self.prefill_forwards[slot]),
        )
        return Trajectory(
            uid=request.uid, sample=request.sample, prompt_ids=np.asarray(request.prompt_ids, dtype=np.int64),
            token_ids=array(self.tokens), response_len=response_len, reveal_step=array(self.reveal),
            behaviour_logp=array(self.logp), block_size=self.size, temperature=policy.temperature,
            stop="eos" if len(stops) else "length", policy_version=policy.step, stats=stats,
        )  # fmt: skip
