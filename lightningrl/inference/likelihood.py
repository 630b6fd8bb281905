"""The log-likelihood of given continuations, by which multiple choice is answered: a bound by drawn masks, or exact.

Three methods. `bound` is what LLaDA's paper calls its Monte Carlo estimate (arXiv 2502.09992, appendix B): of the L
tokens of an answer a number l is drawn uniformly from 1 to L, l of them are masked, and L / l times the sum of their
log-probabilities estimates a lower bound of log p(answer | context). Numbers are drawn systematically (evenly spaced
from one uniform start, modulo L), which is uniform for each and lowers the variance; where there are no more sets of
masks than samples, each set is computed once and nothing is drawn. Where positions see the whole canvas, the answer is
one segment; a model of blocks has one per block, each behind its clean past, as its likelihood factors.

`left_to_right` is the exact probability of revealing the answer from left to right, one token a forward: everything
behind a token is masked when it is scored. It is another distribution of the same model, and no bound of the first.
A causal model has its plain likelihood, whichever is asked for.

Behind the answer, a model of blocks sees masks to the end of the block, as when it decodes; one that sees whole
canvases sees none. Draws are keyed by a seed and the tokens. All is in batches of a bounded number of positions.

Shapes: L tokens of a segment; K block size; n states (sets of masks) of a segment; m scored tokens of a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightningrl.errors import ConfigError, DecodeError
from lightningrl.models.canvas import CanvasRow, causal_limits
from lightningrl.models.head import CHUNK_LOGITS
from lightningrl.models.packing import PackedRow, pack, pack_canvases, scored_hidden
from lightningrl.models.transformer import ModelConfig, Transformer
from lightningrl.tokenization import encode_texts

BOUND, LEFT_TO_RIGHT = METHODS = ("bound", "left_to_right")
POSITIONS = 16384
"""Positions that are computed together: what bounds the memory. One state with its clean past always is."""


@dataclass(frozen=True, slots=True, eq=False)
class Continuation:
    """A text that is scored behind another one."""

    context_ids: np.ndarray
    """[P] int64, at least one."""
    target_ids: np.ndarray
    """[L] int64, at least one."""

    @property
    def ids(self) -> np.ndarray:
        return np.concatenate([self.context_ids, self.target_ids]).astype(np.int64)

    def fitted(self, config: ModelConfig) -> Continuation:
        """Returns it with the beginning of its context cut off, as much as the model has no positions for.

        Raises DecodeError where the target leaves no position for a context, or there is nothing to score.
        """
        limit = config.max_position_embeddings
        if config.attention == "block_causal":  # the last block is whole
            limit = limit // config.block_size * config.block_size
        room = limit - len(self.target_ids)
        if not len(self.context_ids) or not len(self.target_ids) or room < 1:
            raise DecodeError(
                f"a continuation of {len(self.target_ids)} tokens behind {len(self.context_ids)} cannot be scored: "
                f"each must have one at least, and the model has {limit} positions for both"
            )
        return Continuation(self.context_ids[-room:], self.target_ids)


class Likelihood(NamedTuple):
    """What was found of a continuation."""

    logp: float
    """Nats."""
    is_greedy: bool | None
    """Whether each token was the likeliest one at its turn from left to right; None under `bound`."""


class States(NamedTuple):
    """The sets of masks of one segment, and what is scored in them."""

    masked_nL: np.ndarray
    scored_nL: np.ndarray
    weight_n: np.ndarray
    """What a scored log-probability of the state counts."""


class _Work(NamedTuple):
    owner: int
    row: PackedRow | CanvasRow
    weight_m: np.ndarray


def encode_continuation(tokenizer: Any, context: str, continuation: str, keep_blanks: bool = False) -> Continuation:
    """Returns the tokens of a pair, encoded as one text and divided behind the context's, as lm-evaluation-harness
    does: blanks at the context's end belong to the continuation, unless they are kept in place.

    An empty context is the token that begins a text, or else the one that ends one.
    """
    kept = context if keep_blanks else context.rstrip()
    continuation = context[len(kept) :] + continuation
    if not kept:
        first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return Continuation(np.array([first]), encode_texts(tokenizer, [continuation])[0])
    before, whole = encode_texts(tokenizer, [kept, kept + continuation])
    return Continuation(before, whole[len(before) :])


def mask_sets(length: int, samples: int, draw: np.random.Generator) -> States:
    """Returns the states of `bound` for a segment: all sets of masks where `samples` are enough, else drawn ones."""
    if length < 62 and 2**length - 1 <= samples:
        masked = (np.arange(1, 2**length)[:, None] >> np.arange(length)) % 2 == 1
        count = masked.sum(1)
        weight = np.array([1 / (comb(length, int(c)) * int(c)) for c in count])
        return States(masked, masked, weight)
    start = int(draw.integers(length))
    count = (start + np.arange(samples) * length // samples) % length + 1
    place = draw.random((samples, length)).argsort(1).argsort(1)
    masked = place < count[:, None]
    return States(masked, masked, length / count / samples)


def in_order(length: int) -> States:
    """Returns the states of `left_to_right`: at its turn a token and all behind it are masked."""
    place = np.arange(length)
    return States(place >= place[:, None], np.eye(length, dtype=bool), np.ones(length))


@torch.no_grad()
def log_likelihoods(
    model: Transformer,
    continuations: Sequence[Continuation],
    method: str = BOUND,
    samples: int = 128,
    seed: int = 0,
    positions: int = POSITIONS,
) -> list[Likelihood]:
    """Returns what was found of each continuation, in order.

    samples: states a segment under `bound`. Batches take rows of any continuation, the longest first. Raises
    ConfigError for an unknown method, and DecodeError for a continuation that the model has no positions for.
    """
    if method not in METHODS:
        raise ConfigError(f"likelihood: found {method!r}, allowed: {', '.join(METHODS)}")
    if samples < 1 or positions < 1:
        raise ConfigError(f"likelihood: found {samples} samples and {positions} positions, expected 1 or more")
    fitted = [each.fitted(model.config) for each in continuations]
    logp, greedy = np.zeros(len(fitted)), np.ones(len(fitted), dtype=bool)
    for batch in _batches(_work(model.config, fitted, method, samples, seed, positions), positions):
        hidden_mH, target_m = _hidden(model, [work.row for work in batch])
        found_m, likeliest_m = _scores(model, hidden_mH, target_m)
        owner_m = np.repeat([work.owner for work in batch], [len(work.weight_m) for work in batch])
        np.add.at(logp, owner_m, found_m * np.concatenate([work.weight_m for work in batch]))
        np.logical_and.at(greedy, owner_m, likeliest_m)
    is_exact = method == LEFT_TO_RIGHT or model.config.attention == "causal"
    return [Likelihood(float(a), bool(b) if is_exact else None) for a, b in zip(logp, greedy, strict=True)]


def _work(
    config: ModelConfig, continuations: Sequence[Continuation], method: str, samples: int, seed: int, positions: int
) -> Iterator[_Work]:
    """Yields the rows of all continuations, none with more positions than it must have."""
    order = sorted(range(len(continuations)), key=lambda n: -len(continuations[n].ids))
    for owner in order:
        each = continuations[owner]
        begin, ids = len(each.context_ids), each.ids
        if config.attention == "causal":
            row = CanvasRow(ids, ids, np.arange(len(ids)) >= begin, causal_limits(len(ids)))
            yield _Work(owner, row, np.ones(row.num_scored))
            continue
        key = np.frombuffer(hashlib.sha256(ids.tobytes() + np.int64(begin).tobytes()).digest(), dtype=np.uint32)

        def states(first: int, last: int, key: np.ndarray = key) -> States:
            draw = np.random.default_rng([seed, first, *key.tolist()])
            return mask_sets(last - first, samples, draw) if method == BOUND else in_order(last - first)

        if config.attention == "full":
            for masked_L, scored_L, weight in zip(*states(begin, len(ids)), strict=True):
                masked, scored = (np.r_[np.zeros(begin, dtype=bool), each_L] for each_L in (masked_L, scored_L))
                row = CanvasRow(np.where(masked, config.mask_token_id, ids), ids, scored)
                yield _Work(owner, row, np.full(row.num_scored, weight))
        else:
            yield from _of_blocks(config, owner, ids, begin, states, positions)


def _of_blocks(
    config: ModelConfig, owner: int, ids: np.ndarray, begin: int, states: Any, positions: int
) -> Iterator[_Work]:
    """Yields a continuation's blocks as packed rows: its clean past once, behind it the states of its blocks."""
    size, mask = config.block_size, config.mask_token_id
    blocks = range(begin // size, -(-len(ids) // size))
    canvas = np.full(blocks.stop * size, mask)
    canvas[: len(ids)] = ids
    copies, scored, weights, numbers = [], [], [], []
    for block in blocks:
        first, last = max(begin, block * size), min(len(ids), (block + 1) * size)
        masked_nL, scored_nL, weight_n = states(first, last)
        own = slice(first - block * size, last - block * size)
        shown = np.tile(canvas[block * size : (block + 1) * size], (len(weight_n), 1))
        shown[:, own][masked_nL] = mask
        is_scored = np.zeros(shown.shape, dtype=bool)
        is_scored[:, own] = scored_nL
        copies.append(shown)
        scored.append(is_scored)
        weights.append(weight_n)
        numbers.append(np.full(len(weight_n), block))
    block_C, scored_CK, weight_C = np.concatenate(numbers), np.concatenate(scored), np.concatenate(weights)
    row = PackedRow(
        canvas[: (blocks.stop - 1) * size],
        block_C,
        np.concatenate(copies),
        canvas.reshape(-1, size)[block_C],
        scored_CK,
    )
    for part in row.split(positions):
        yield _Work(owner, row.part(part), np.repeat(weight_C[part], scored_CK[part].sum(1)))


def _batches(work: Iterator[_Work], positions: int) -> Iterator[list[_Work]]:
    """Yields the rows in batches of at most so many positions, or of one row."""
    batch, total = list[_Work](), 0
    for each in work:
        cost = each.row.num_tokens
        total += cost
        if batch and total > positions:
            yield batch
            batch, total = [], cost
        batch.append(each)
    if batch:
        yield batch


def _hidden(model: Transformer, rows: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Returns (m, H) hidden states and (m,) targets of the scored tokens, in row, state, position order."""
    put = pack_canvases if isinstance(rows[0], CanvasRow) else pack
    packed = put(rows, model.device, model.config.logit_shift)
    return scored_hidden(model, packed), packed.target_n


def _scores(model: Transformer, hidden_mH: Tensor, target_m: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Returns (m,) the log-probability of each target, nats, and whether it is the likeliest token; a few at a time."""
    found, likeliest = list[Tensor](), list[Tensor]()
    chunk = max(1, CHUNK_LOGITS // model.config.vocab_size)
    for hidden, target in zip(hidden_mH.split(chunk), target_m.split(chunk), strict=True):
        logp_cV = model.log_probs(hidden)
        found.append(logp_cV.gather(1, target[:, None])[:, 0].double().cpu())
        likeliest.append((logp_cV.argmax(1) == target).cpu())
    return torch.cat(found).numpy(), torch.cat(likeliest).numpy()
