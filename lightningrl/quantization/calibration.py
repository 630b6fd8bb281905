"""The forwards that quantizers look at: clean texts, the states that a decoder visits, or random masks.

- `clean`: problems with their worked answers, no position masked, as the published methods are calibrated.
- `decode`: the forwards of a decoder that answers the problems, recorded as they happen: prompts, blocks with the masks
  they had then, blocks that are committed, with the keys that each position saw. It is the distribution that the
  quantised model will meet.
- `random`: the answers' blocks, each masked at a rate drawn uniformly from 0 to 1, behind their clean past.

Only positions that are computed count. No page of the cache that a forward writes to is larger than a row needs.
Shapes: Q positions of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch

from lightningrl.decoding.canvas import SMALLEST_PAGE_TOKENS, page_size
from lightningrl.decoding.protocol import DecodePolicy, Observation, Observer, Request
from lightningrl.errors import ConfigError
from lightningrl.models.attention import PagedAttention, PagedKV, PagedSpan, key_limits
from lightningrl.models.transformer import ModelConfig, Transformer
from lightningrl.quantization.protocol import Calibration, CalibrationSequence, Copied, Forward, Opened

ROWS = 16
"""Problems that are decoded together."""
Event = Forward | Copied


class Decodes(Protocol):
    """A decoder, as far as it is needed here."""

    def decode(self, requests: Sequence[Request], policy: DecodePolicy, observer: Observer | None = None) -> Any:
        """Answers the requests."""
        ...


def clean(config: ModelConfig, sequences: Sequence[CalibrationSequence], tokens: int, seed: int = 0) -> Calibration:
    """Returns a forward for each sequence, as many as have at most so many tokens together, at least one."""
    kept, table = _whole(config, sequences, tokens)
    forwards = [_forward(config, table, ids, 0, len(ids), len(ids)) for ids, _ in kept]
    return Calibration(sequences[: len(kept)], seed, forwards, *_pages(table))


def random(config: ModelConfig, sequences: Sequence[CalibrationSequence], tokens: int, seed: int = 0) -> Calibration:
    """Returns the clean forward of each sequence, then one for each of its masked blocks, the last block first: a
    forward writes masked keys over its block's clean ones, which only blocks behind it would see.

    Where a position sees the whole canvas, it is one forward of the whole answer, masked at one rate. Draws are keyed
    by the seed and the number of the sequence. Raises ConfigError for a model without a mask token.
    """
    if not config.has_mask:
        raise ConfigError(f"calibration: random masks, but a {config.family} model has no mask token; take clean text")
    block = config.attention == "block_causal"
    kept, table = _whole(config, sequences, tokens // (2 if block else 1))
    forwards = []
    for number, (ids, prompt) in enumerate(kept):
        draw = np.random.default_rng([seed, number])
        if block:
            forwards.append(_forward(config, table, ids, 0, len(ids), len(ids)))
        size, answer = config.block_size if block else len(ids), list[Forward]()
        for start in range(prompt // size * size, len(ids), size):
            masked = ids.copy()
            own = np.arange(start, min(start + size, len(ids)))
            hidden = own[(draw.random(len(own)) < draw.random()) & (own >= prompt)]
            masked[hidden] = config.mask_token_id
            answer.append(_forward(config, table, masked, start if block else 0, int(own[-1]) + 1, len(ids)))
        forwards += reversed(answer)
    return Calibration(sequences[: len(kept)], seed, forwards, *_pages(table))


def visited(
    model: Transformer, decoder: Decodes, requests: Sequence[Request], policy: DecodePolicy, tokens: int, seed: int = 0,
    sequences: Sequence[CalibrationSequence] = (), report: Callable[[str], None] = lambda line: None,
) -> Calibration:  # fmt: skip
    """Returns the forwards of a decoder over this model that answers the requests, some at a time.

    tokens: how many positions they have together at most, one row's forward aside. Of forwards that see nothing but
    what they compute themselves, as on a canvas without a cache, so many rows are kept, evenly in time, that every
    problem has its share; others are of the first problems, whole ones, and where the first has more than so many
    positions, they are its first ones. The decoder must run operator by operator (`forwards="spans"`).
    """
    events, pages, page_tokens, asked = list[Event](), 0, 1, 0
    room, each, alone = tokens, 0, False
    while asked < len(requests):
        count = ROWS if alone else min(ROWS, room // each) if each else 1
        if not count:
            break
        some, recorder = requests[asked : asked + count], _Recorder(model)
        with recorder:
            decoder.decode(some, policy, recorder)
        found = recorder.events
        if alone := _stand_alone(found):
            share = tokens * (asked + len(some)) // len(requests) - (tokens - room)
            found = _thinned(found, share, least=not events)
        size = _tokens(found)
        each = max(each, -(-size // len(some)))  # of a problem, about
        if size > room and not alone:
            if len(some) > 1:
                continue  # with fewer
            if events:
                break
            found = _first(found, tokens)
        events += found
        room -= _tokens(found)
        pages, page_tokens = max(pages, recorder.pages), max(page_tokens, recorder.page_tokens)
        asked += len(some)
    report(f"calibrated on the states of {asked} of {len(requests)} problems")
    return Calibration(sequences[:asked], seed, events, pages, page_tokens)


class _Recorder:
    """While it is entered, keeps every forward that the model computes, by hooks; nothing is computed twice. As the
    decoder's observer it notes what each forward may reveal."""

    alternatives = 0

    def __init__(self, model: Transformer):
        self.model, self.events = model, list[Event]()
        self.pages, self.page_tokens = 0, 1
        self._ids: torch.Tensor | None = None
        self._cache: PagedKV | None = None
        self._stack = ExitStack()

    def __enter__(self) -> None:
        trunk = self.model.model
        for module, hook in ((trunk.embed_tokens, self._embedded), (trunk.layers[0], self._attends)):
            self._stack.callback(module.register_forward_pre_hook(hook).remove)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _embedded(self, module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        self._ids = inputs[0]

    def _attends(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        attend = inputs[2]
        assert isinstance(attend, PagedAttention) and self._ids is not None
        self.events.append(Forward(self._ids[0].cpu().numpy(), attend.spans))
        if self._cache is not attend.cache:
            self._cache = attend.cache
            self.pages, self.page_tokens = max(self.pages, attend.cache.pages), attend.cache.page_tokens
            self._note_copies(attend.cache)

    def observe(self, seen: Observation) -> None:
        """See `decoding.protocol.Observer`."""
        forward = self.events[-1]
        assert isinstance(forward, Forward)
        here = seen.at_n < len(forward.ids_N)  # else the state that predicts it is of another forward
        self.events[-1] = replace(forward, opened=Opened(seen.at_n[here], seen.chosen_n[here]))

    def _note_copies(self, cache: PagedKV) -> None:
        copy = cache.copy

        def noted(sources_N: np.ndarray, targets_N: np.ndarray) -> None:
            self.events.append(Copied(sources_N, targets_N))
            copy(sources_N, targets_N)

        cache.copy = noted  # type: ignore[method-assign]
        self._stack.callback(delattr, cache, "copy")


def _stand_alone(events: Iterable[Event]) -> bool:
    """Whether no forward sees a key that it has not computed itself."""
    return all(
        isinstance(each, Forward) and all((span.positions_GQ[:, 0] == 0).all() for span in each.spans)
        and all(span.kv_tokens <= span.queries for span in each.spans) for each in events
    )  # fmt: skip


def _tokens(events: Iterable[Event]) -> int:
    return sum(len(each.ids_N) for each in events if isinstance(each, Forward))


def _first(events: Sequence[Event], tokens: int) -> list[Event]:
    """Returns the first events, as many as have at most so many tokens, and one forward at least."""
    count, total = 0, 0
    for event in events:
        total += len(event.ids_N) if isinstance(event, Forward) else 0
        if total > tokens and any(isinstance(each, Forward) for each in events[:count]):
            break
        count += 1
    return list(events[:count])


def _thinned(events: Sequence[Event], tokens: int, least: int) -> list[Event]:
    """Returns some rows of forwards that stand alone, evenly spaced, as many as have at most so many tokens, but at
    least so many rows."""
    forwards = [each for each in events if isinstance(each, Forward)]
    rows = [(number, row, queries) for number, each in enumerate(forwards)
            for row, queries in enumerate(_queries(each))]  # fmt: skip
    count = len(rows)
    while count > least and (over := sum(queries for *_, queries in _even(rows, count))) > tokens:
        count = max(least, min(count - 1, count * max(0, tokens) // over))
    kept: dict[int, list[int]] = {}
    for number, row, _ in _even(rows, count):
        kept.setdefault(number, []).append(row)
    return [_of_rows(forwards[number], some) for number, some in kept.items()]


def _even(rows: Sequence[Any], count: int) -> list[Any]:
    return [rows[number * len(rows) // count] for number in range(count)]


def _queries(forward: Forward) -> list[int]:
    """Returns how many positions each row of a forward has."""
    return [span.queries for span in forward.spans for _ in range(span.rows)]


def _of_rows(forward: Forward, rows: Sequence[int]) -> Forward:
    """Returns a forward of some of its rows alone."""
    row_N = np.repeat(np.arange(sum(span.rows for span in forward.spans)), _queries(forward))
    is_kept_N, spans, first = np.isin(row_N, rows), [], 0
    for span in forward.spans:
        mine = [row - first for row in rows if first <= row < first + span.rows]
        spans += [span.of_rows(mine)] if mine else []
        first += span.rows
    opened, place_N = forward.opened, np.cumsum(is_kept_N) - 1
    if opened is not None:
        here = is_kept_N[opened.at_n]
        opened = Opened(place_N[opened.at_n[here]], opened.revealed_n[here])
    return Forward(forward.ids_N[is_kept_N], spans, opened)


def _whole(
    config: ModelConfig, sequences: Sequence[CalibrationSequence], tokens: int
) -> tuple[list[tuple[np.ndarray, int]], tuple[np.ndarray, int]]:
    """Returns the ids of the first sequences with the lengths of their prompts, and one row's pages."""
    kept, count = list[tuple[np.ndarray, int]](), 0
    for each in sequences:
        ids = np.concatenate([each.prompt_ids, each.response_ids]).astype(np.int64)[: config.max_position_embeddings]
        if kept and count + len(ids) > tokens:
            break
        kept.append((ids, len(each.prompt_ids)))
        count += len(ids)
    page_tokens = page_size(config.block_size, SMALLEST_PAGE_TOKENS)
    longest = max((len(ids) for ids, _ in kept), default=1)
    return kept, (np.arange(-(-longest // page_tokens))[None], page_tokens)


def _pages(table: tuple[np.ndarray, int]) -> tuple[int, int]:
    return table[0].shape[1], table[1]


def _forward(
    config: ModelConfig, table: tuple[np.ndarray, int], ids: np.ndarray, first: int, last: int, end: int
) -> Forward:
    """The forward over positions from `first` up to `last` of a row that ends at `end`."""
    positions_1Q = np.arange(first, last)[None]
    limits_1Q = key_limits(config, positions_1Q, np.array([end]))
    return Forward(ids[first:last], [PagedSpan(table[0], positions_1Q, limits_1Q, table[1])])
