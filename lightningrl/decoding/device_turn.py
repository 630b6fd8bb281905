"""Whole turns on the device, one CUDA graph each: trunk, head, draw, selection, and the tokens that the next one reads.

The device has each slot's canvas (a token id, or -1 where a position is masked). A turn sends one table of whole
numbers, a line for each block computed, and takes one back, four numbers for each position of the active blocks; both
through pinned memory. The host reads it before the next turn: rows, pages and trajectories are as in
decoding/scheduler.py, which decides what a turn computes.

What cannot run this way takes the other path of the same engine, turn by turn: prefill; observers; top-k and top-p;
selectors without a `bound` and rankings from outside; schedules that compute more than a block and the one before it,
or open less than what is masked.

On a CPU nothing is captured, and the kernels are their plain twins. Experimental; off unless `decoding.forwards` asks.
Shapes: R slots; T positions of a canvas; K positions of a block; S blocks computed, the B active ones first; P pages of
the longest row; n = B K.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightningrl.decoding.canvas import Schedule
from lightningrl.decoding.head_draw import head_draw
from lightningrl.decoding.proposals import places
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.rankings import Confidence, NegEntropy, Position
from lightningrl.decoding.row_state import Rows
from lightningrl.models.attention import PagedKV, unique_writes
from lightningrl.models.fused_trunk import FusedTrunk
from lightningrl.models.static_forward import Kernel, captured, current, size_of
from lightningrl.models.transformer import Transformer

SLOT, FIRST, USED, WRITE, KEY, FORWARD, TEMPERATURE, TAU, INCLUSIVE, RANKING, LEAST, PAGES = range(12)
"""The columns of a block's line: its row's slot, first position, keys seen, first slot in the cache; then of its row,
if the block is active; then the row's pages. TEMPERATURE and TAU are float64, bit for bit."""
RANKINGS = (Confidence, NegEntropy, Position)
MASKED = -1


class Rule(NamedTuple):
    """What a turn needs to know of a policy."""

    temperature: float
    tau: float
    inclusive: bool
    ranking: int
    least_K: np.ndarray


def rule_of(policy: DecodePolicy, size: int) -> Rule | None:
    """The rule of a policy over the model's blocks of `size`; None where it has none and decodes by the other path."""
    schedule, bound = policy.schedule, getattr(policy.selector, "bound", None)
    if bound is None or type(policy.ranking) not in RANKINGS or policy.top_k or policy.top_p < 1:
        return None
    if getattr(policy.ranking, "uses_noise", False):
        return None
    if not policy.logits.is_plain or schedule.least_forwards > 1 or schedule.window > 1:
        return None
    ways = type(schedule)
    if ways.open is not Schedule.open or ways.canvas is not Schedule.canvas or schedule.block_size not in (None, size):
        return None
    tau, inclusive, least_K = bound(size)
    ranking = RANKINGS.index(type(policy.ranking))
    return Rule(policy.temperature, tau, inclusive, ranking, least_K.numpy().astype(np.int64))


class Drawn(NamedTuple):
    """What a turn drew at the n positions of the active blocks, on the host; it means something where one was open."""

    token_n: np.ndarray
    logp_n: np.ndarray
    entropy_n: np.ndarray
    chosen_n: np.ndarray


class DeviceTurns:
    """The turns of decoders with up to `rows` slots, over one cache. `graphs`: as CUDA graphs, captured by `prepare`.

    The cache's last page must be nobody's: blocks that only fill a graph's size up see and write that one.
    """

    def __init__(
        self, model: Transformer, cache: PagedKV, trunk: FusedTrunk, kernel: Kernel, *, rows: int, pages: int,
        graphs: bool,
    ):  # fmt: skip
        self.model, self.cache, self.trunk, self.kernel, self.graphs = model, cache, trunk, kernel, graphs
        self.rows, self.pages, self.size = rows, pages, model.config.block_size
        self.usable_vocab = model.usable_vocab
        device, most = cache.keys.device, size_of(rows)
        self.device, pin = device, device.type == "cuda" and torch.cuda.is_available()
        self._current = current(device)
        length = pages * cache.page_tokens
        self.state_RT = torch.full((rows + 1, length), 0, dtype=torch.int64, device=device)
        """The last row is nobody's."""
        self._given_SC = torch.zeros(2 * most, PAGES + pages, dtype=torch.int64, device=device)
        self._found = torch.zeros(4 * most * self.size, dtype=torch.float64, device=device)
        self._host_state_RT, self._canvas_RT = _on_host((rows, length), torch.int64, pin)
        self._host_given_SC, self._table = _on_host(tuple(self._given_SC.shape), torch.int64, pin)
        self._host_found, self._result = _on_host(tuple(self._found.shape), torch.float64, pin)
        self._at_K = torch.arange(self.size, device=device)
        self._floats = self._table.view(np.float64)
        self._filler = np.zeros(PAGES + pages, dtype=np.int64)
        spare = cache.pages - 1
        self._filler[[SLOT, USED, WRITE]] = rows, self.size, spare * cache.page_tokens
        self._filler[PAGES:] = spare
        self._known: dict[int, tuple[int, int]] = {}
        """The rows that the device has, by slot: which one (by its admission), after how many denoise forwards."""
        self._rules: dict[int, Rule | None] = {}
        """Those of the stream's policies."""
        self._replays: dict[tuple[int, int], Callable[[], Any]] = {}

    @property
    def is_current(self) -> bool:
        """Whether the graphs still are of the model's weights and vocabulary: else new turns are due."""
        return self.trunk.is_current and self.usable_vocab == self.model.usable_vocab

    def forget(self) -> None:
        """Forgets which rows the device has, and the rules of their policies: another stream's are others."""
        self._known.clear()
        self._rules.clear()

    def turn(
        self, rows: Rows, slots_B: np.ndarray, first_B: np.ndarray, last_B: np.ndarray, denoises_B: np.ndarray
    ) -> Drawn | None:
        """One forward of the slots' rows, the draws and the choice, of those that denoise, in their order; None where
        they do not run whole on the device. first, last: the positions that each row's forward computes."""
        start_B, pending_B = rows.start[slots_B], rows.pending[slots_B]
        blocks = start_B - self.size * pending_B, start_B + self.size * denoises_B
        if not (np.array_equal(first_B, blocks[0]) and np.array_equal(last_B, blocks[1])):
            return None
        if rows.entering[slots_B].any():
            return None
        rules = [self._rule(rows.item[slot].policy) for slot in slots_B.tolist()]
        if any(rule is None for rule in rules):
            return None
        active = [rule for rule, denoises in zip(rules, denoises_B.tolist(), strict=True) if rule and denoises]
        return self.run(rows, slots_B[denoises_B], slots_B[pending_B], active)

    def _rule(self, policy: DecodePolicy) -> Rule | None:
        if id(policy) not in self._rules:
            self._rules[id(policy)] = rule_of(policy, self.size)
        return self._rules[id(policy)]

    @torch.no_grad()
    def prepare(self, slots: int, pool: Any) -> None:
        """Captures the graphs of all sizes that up to so many rows can meet, the largest first, in one memory pool."""
        if self.graphs:
            for shape in sorted(shapes(slots) - self._replays.keys(), reverse=True):
                with self._current:
                    self._replays[shape] = self._capture(shape, pool)

    def _capture(self, shape: tuple[int, int], pool: Any) -> Callable[[], Any]:
        self._table[: shape[1]] = self._filler
        self._given_SC.copy_(self._host_given_SC)
        return captured(lambda: self._compute(*shape), pool)

    @torch.no_grad()
    def run(self, rows: Rows, slots_B: np.ndarray, committed_C: np.ndarray, rules: list[Rule]) -> Drawn:
        """One turn: the active blocks of the slots B, each by its rule, and the pending ones of the slots C."""
        active, shape = len(slots_B), shape_of(len(slots_B), len(committed_C))
        taken = 4 * shape[0] * self.size
        self._fill_in(rows, slots_B, committed_C, rules, shape)
        with self._current:
            self._send_rows(rows, slots_B, committed_C)
            self._given_SC[: shape[1]].copy_(self._host_given_SC[: shape[1]], non_blocking=True)
            self._replays.get(shape, partial(self._compute, *shape))()
            self._host_found[:taken].copy_(self._found[:taken], non_blocking=True)
            self._wait()
        for slot in slots_B.tolist():
            self._known[slot] = int(rows.admitted[slot]), int(rows.denoise_forwards[slot]) + 1
        token_n, logp_n, entropy_n, chosen_n = self._result[:taken].reshape(4, -1)[:, : active * self.size]
        return Drawn(token_n.astype(np.int64), logp_n.astype(np.float32), entropy_n.astype(np.float32), chosen_n > 0)

    def found(self, active: int) -> Tensor:
        """(4, n) the result on the device of so many active blocks: token, log-probability, entropy, choice."""
        return self._found[: 4 * active * self.size].view(4, -1)

    def stub(self, replay: Callable[[DeviceTurns, int, np.ndarray], None]) -> None:
        """Calls replay(self, active blocks, the turn's table) in place of every launch: to measure the host alone."""
        for shape in shapes(self.rows):
            self._replays[shape] = partial(replay, self, shape[0], self._table)

    def _wait(self) -> None:
        """The turn's one wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def _send_rows(self, rows: Rows, *slots: np.ndarray) -> None:
        """Sends the canvases of rows that are new on the device, or that another path has worked on since."""
        for slot in {slot for each in slots for slot in each.tolist()}:
            now = int(rows.admitted[slot]), int(rows.denoise_forwards[slot])
            if self._known.get(slot) != now:
                length = rows.tokens.shape[-1]
                self._canvas_RT[slot, :length] = np.where(rows.masked[slot], MASKED, rows.tokens[slot])
                self.state_RT[slot, :length].copy_(self._host_state_RT[slot, :length], non_blocking=True)
                self._known[slot] = now

    def _fill_in(
        self, rows: Rows, slots_B: np.ndarray, committed_C: np.ndarray, rules: list[Rule], shape: tuple[int, int]
    ) -> None:
        """Writes the turn's table on the host."""
        table, floats, tokens, most = self._table, self._floats, rows.page_tokens, rows.table_RP.shape[-1]
        table[: shape[1]] = self._filler
        starts_B, starts_C = rows.start[slots_B], rows.start[committed_C] - self.size
        for at, slots, starts in ((0, slots_B, starts_B), (shape[0], committed_C, starts_C)):
            if len(slots):
                here, pages = slice(at, at + len(slots)), rows.table_RP[slots]
                table[here, SLOT], table[here, FIRST], table[here, USED] = slots, starts, starts + self.size
                first = pages[np.arange(len(slots)), starts // tokens]
                table[here, WRITE] = first * tokens + starts % tokens
                table[here, PAGES : PAGES + most] = pages
                table[here, PAGES + most :] = pages[:, :1]
        table[: len(slots_B), KEY], table[: len(slots_B), FORWARD] = (
            rows.key[slots_B],
            rows.denoise_forwards[slots_B] + 1,
        )
        for line, (rule, step) in enumerate(zip(rules, rows.block_step[slots_B].tolist(), strict=True)):
            floats[line, TEMPERATURE], floats[line, TAU] = rule.temperature, rule.tau
            table[line, INCLUSIVE : LEAST + 1] = rule.inclusive, rule.ranking, rule.least_K[step]

    def _compute(self, active: int, count: int) -> None:
        """The turn on the device, of so many blocks, from the table there to the result there."""
        given_SC, size = self._given_SC[:count], self.size
        positions_SK = given_SC[:, FIRST, None] + self._at_K
        places_SK = given_SC[:, SLOT, None] * self.state_RT.shape[1] + positions_SK
        state_N = self.state_RT.view(-1)
        now_N = state_N.index_select(0, places_SK.flatten())
        masked_N = now_N < 0
        ids_N = now_N.masked_fill(masked_N, self.model.config.mask_token_id)
        slots_N = (given_SC[:, WRITE, None] + self._at_K).flatten()
        pages_SP, used_S = given_SC[:, PAGES:].to(torch.int32), given_SC[:, USED].to(torch.int32)

        def mix(q_NAD: Tensor, *tables: Tensor) -> Tensor:
            keys, values = (table_SMD.unflatten(0, (-1, self.cache.page_tokens)) for table_SMD in tables)
            return self.kernel(q_NAD.unflatten(0, (count, size)), keys, values, pages_SP, used_S).flatten(0, 1)

        hidden_NH = self.trunk.hidden(ids_N, positions_SK.flatten(), slots_N, self.cache, mix)
        positions = active * size
        row_BC, open_n, now_n = given_SC[:active], masked_N[:positions], now_N[:positions]
        keyed = row_BC[:, KEY], row_BC[:, FORWARD], row_BC[:, TEMPERATURE].view(torch.float64)
        token_n, logp_n, entropy_n = head_draw(
            self.model.logits(hidden_NH[:positions]), *keyed, positions_SK[:active].flatten(), self.usable_vocab,
            self.model.config.mask_token_id,
        )  # fmt: skip
        open_BK = open_n.view(active, size)
        chosen_n = self._chosen(
            row_BC, open_BK, logp_n.exp().view(active, size), entropy_n.view(active, size)
        ).flatten()
        with unique_writes(self.device):
            state_N.index_copy_(0, places_SK[:active].flatten(), torch.where(chosen_n, token_n, now_n))
        for column_n, values_n in zip(self.found(active).unbind(), (token_n, logp_n, entropy_n, chosen_n), strict=True):
            column_n.copy_(values_n)

    def _chosen(self, row_BC: Tensor, open_BK: Tensor, confidence_BK: Tensor, entropy_BK: Tensor) -> Tensor:
        """(B, K) bool: as `sampler.select` with the rows' rules."""
        ranking_B1, kind = row_BC[:, RANKING, None], confidence_BK.dtype
        other_BK = torch.where(ranking_B1 == 1, -entropy_BK, -self._at_K.to(kind))
        score_BK = torch.where(ranking_B1 == 0, confidence_BK, other_BK).masked_fill(~open_BK, float("-inf"))
        tau_B1 = row_BC[:, TAU].view(torch.float64).to(kind)[:, None]  # as torch rounds a number that it compares with
        at_tau_BK = (score_BK == tau_B1) & (row_BC[:, INCLUSIVE, None] > 0)
        best_BK = places(score_BK, open_BK) < row_BC[:, LEAST, None]
        return ((score_BK > tau_B1) | at_tau_BK | best_BK) & open_BK


def _on_host(shape: tuple[int, ...], dtype: torch.dtype, pin: bool) -> tuple[Tensor, np.ndarray]:
    """Zeros on the host, pinned where a GPU copies from them without waiting; as a tensor and as the same array."""
    if pin:
        tensor = torch.zeros(shape, dtype=dtype, pin_memory=True)
        return tensor, tensor.numpy()
    array = np.zeros(shape, dtype=np.int64 if dtype == torch.int64 else np.float64)
    return torch.from_numpy(array), array


def shape_of(active: int, pending: int) -> tuple[int, int]:
    """The sizes of the graph for so many active and pending blocks: active ones, at least 1, and all together.

    Pending blocks come in quarters of the active ones.

    >>> shape_of(1, 0), shape_of(1, 1), shape_of(0, 1), shape_of(9, 3)
    ((1, 1), (1, 2), (1, 2), (16, 20))
    """
    most = size_of(max(1, active, pending))
    quarter = max(1, most // 4)
    return most, most + -(-pending // quarter) * quarter


def shapes(slots: int) -> set[tuple[int, int]]:
    """All that `shape_of` gives for up to so many rows.

    >>> sorted(shapes(2)), len(shapes(256))
    ([(1, 1), (1, 2), (2, 2), (2, 3), (2, 4)], 95)
    """
    counts = range(slots + 1)
    return {shape_of(active, pending) for active in counts for pending in counts if active or pending}
