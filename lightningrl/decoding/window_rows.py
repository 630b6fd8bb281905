"""What the scheduler does for rows whose schedule is a `Window`: several of their blocks are open at once.

Where rows of other schedules have one line of K positions in which a forward may reveal, these have one for each open
block with masks. A row that gives its pages up takes their contents along, on the host: under a stale cache they could
not be computed again.

Shapes: R slots; B rows; L lines; K positions of a block; J blocks of the longest response; G rows of a span; Q queries
of a row; N positions of a forward; n open positions; H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightningrl.decoding.row_state import Rows
from lightningrl.decoding.window import Plan, Window, WindowProgress
from lightningrl.errors import DecodeError
from lightningrl.models.attention import PagedKV, key_limits
from lightningrl.models.transformer import ModelConfig


class Lines(NamedTuple):
    """The blocks in which one forward may reveal positions."""

    slots_L: np.ndarray
    row_L: np.ndarray
    """The index of the block's row among those that denoise."""
    start_L: np.ndarray
    """First position of the block."""
    at_L: np.ndarray
    """Where in the forward the state lies that predicts it."""
    begins_L: np.ndarray
    """Where in the forward the row's states begin."""
    queries_L: np.ndarray
    """How many they are."""
    must_L: np.ndarray | None = None
    """bool: at least one position must be revealed; None: in all."""
    first_L: np.ndarray | None = None
    """First position of the row's forward; None: nowhere behind the position that predicts the block's first."""


@dataclass(slots=True, eq=False)
class WindowRows:
    """The window rows of one stream."""

    rows: Rows
    cache: PagedKV
    config: ModelConfig
    stop_ids: np.ndarray
    carried: dict[int, Tensor] = field(default_factory=dict)
    """(H,) of each slot: the state at the last position that is kept, where logits are shifted."""
    planned: dict[int, tuple[int, int, np.ndarray]] = field(default_factory=dict)
    """What each slot keeps and leaves in the forward that runs, and (J,) the blocks that must reveal."""

    def widen(self) -> None:
        """Opens what blocks the schedules open before the next forward of each row, once a forward."""
        rows = self.rows
        slots_B = np.flatnonzero(rows.busy & rows.is_window & ~rows.entering)
        number_B = rows.denoise_forwards[slots_B] + rows.commit_forwards[slots_B] + 1
        here = rows.widened[slots_B] < number_B
        slots_B = slots_B[here]
        rows.widened[slots_B] = number_B[here]
        for policy, mine in rows.by_policy(slots_B):
            schedule, slots = _window(policy.schedule), slots_B[mine]
            at = self.progress(slots)
            open_B = schedule.widen(at, rows.size)
            if (open_B < at.open_B).any() or (open_B > at.end_B).any() or ((open_B - at.first_B) % rows.size).any():
                raise DecodeError(
                    f"{schedule}: `widen` says that open blocks end at {open_B.tolist()}, and they did at "
                    f"{at.open_B.tolist()}; expected whole blocks, no fewer than before, up to {at.end_B.tolist()}"
                )
            rows.opened[slots] = open_B
            for slot, *new in zip(slots.tolist(), at.open_B.tolist(), open_B.tolist(), strict=True):
                rows.begun[slot, slice(*new)] = rows.denoise_forwards[slot]

    def progress(self, slots_B: np.ndarray) -> WindowProgress:
        """How far the rows in these slots are."""
        rows, (_, masked_BT, reveal_BT, _) = self.rows, self._positions(slots_B)
        shape = (len(slots_B), -1, rows.size)
        return WindowProgress(
            rows.first[slots_B], rows.end[slots_B], rows.opened[slots_B], rows.stored[slots_B],
            rows.denoise_forwards[slots_B] + 1, rows.stopped[slots_B], masked_BT.reshape(shape).sum(axis=2),
            np.maximum.accumulate(reveal_BT.reshape(shape).max(axis=2), axis=1),
        )  # fmt: skip

    def _positions(self, slots_B: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(B, T) of the longest response's positions from each row's first block on: where they are, whether they are
        masked, the forward that revealed them, and whether they lie on the canvas; what does not is not masked."""
        rows = self.rows
        length = int((rows.end[slots_B] - rows.first[slots_B]).max(initial=rows.size))
        positions_BT = rows.first[slots_B, None] + np.arange(length)
        inside_BT = positions_BT < rows.end[slots_B, None]
        at = slots_B[:, None], np.minimum(positions_BT, rows.length - 1)
        return positions_BT, rows.masked[at] & inside_BT, np.where(inside_BT, rows.reveal[at], 0), inside_BT

    def spans(self, schedule: Window, slots_B: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What the next forward of rows with this schedule computes, from `first` up to, but not including, `last`;
        whether it may reveal anything; whether it refreshes their cache."""
        rows, at = self.rows, self.progress(slots_B)
        plan, size = schedule.plan(at, rows.size), rows.size
        left_B = plan.stored_B if plan.left_B is None else plan.left_B
        blocks_B = (at.open_B - at.first_B) // size
        open_BJ = (np.arange(at.masks_BJ.shape[1]) < blocks_B[:, None]) & (at.masks_BJ > 0)
        forced_BJ = schedule.forced(at, size) & open_BJ
        denoises_B = open_BJ.any(axis=1)
        self._check(schedule, at, plan, denoises_B, forced_BJ.any(axis=1))
        for i, slot in enumerate(slots_B.tolist()):
            self.planned[slot] = int(plan.stored_B[i]), int(left_B[i]), forced_BJ[i]
        self._keep_twice(slots_B, plan.first_B)
        return plan.first_B, plan.last_B, denoises_B, plan.refreshes_B

    def _check(self, schedule: Window, at: WindowProgress, plan: Plan, denoises_B: np.ndarray, must_B: np.ndarray):
        """Raises DecodeError for a plan that leaves out what it must compute, or with which a row would never end."""
        is_whole_B = (plan.first_B <= at.stored_B) & (at.open_B <= plan.last_B) & (plan.last_B <= at.end_B)
        keeps_B = (at.stored_B <= plan.stored_B) & (plan.stored_B <= at.finished_until(self.rows.size))
        wrong = np.flatnonzero(~(is_whole_B & keeps_B & np.where(denoises_B, must_B, plan.stored_B > at.stored_B)))
        if len(wrong):
            one = {name: int(value[wrong[0]]) for name, value in plan._asdict().items() if value is not None}
            raise DecodeError(
                f"{schedule}: its plan {one} of a row with open blocks up to {at.open_B[wrong[0]]}, of which "
                f"{at.stored_B[wrong[0]]} positions are kept, leaves something out or would never end. A forward "
                "computes all from what is kept to the last open block; one block with masks must be forced, or, where "
                "there is none, more be kept; and only finished blocks are kept"
            )

    def _keep_twice(self, slots_B: np.ndarray, first_B: np.ndarray) -> None:
        """Where more is left than is kept, a forward over what is not kept does not write over it: its keys and values
        go behind the canvas, where they count a second time. A forward over the whole canvas drops them."""
        rows, pages = self.rows, self.rows.page_tokens
        rows.twice[slots_B[first_B == 0]] = 0
        for slot, first in zip(slots_B.tolist(), first_B.tolist(), strict=True):
            count = int(rows.left[slot]) - first
            if first and count > 0:
                sources = first + np.arange(count)
                targets = rows.end[slot] + np.arange(count)
                self.cache.copy(*(rows.table_RP[slot, p // pages] * pages + p % pages for p in (sources, targets)))
                rows.twice[slot] = count

    def limits(self, slots_G: np.ndarray, positions_GQ: np.ndarray) -> np.ndarray:
        """(G, Q) how many keys each position sees, of rows of any schedule."""
        rows, found_GQ = self.rows, np.empty_like(positions_GQ)
        for policy, mine in rows.by_policy(slots_G):
            slots, end_G = slots_G[mine], rows.end[slots_G[mine]]
            if isinstance(policy.schedule, Window):
                given = positions_GQ[mine], rows.prompt_len[slots], end_G + rows.twice[slots]
                found_GQ[mine] = policy.schedule.limits(self.config, *given)
            else:
                found_GQ[mine] = key_limits(self.config, positions_GQ[mine], end_G)
        return found_GQ

    def keys(self, slots_B: np.ndarray, first_B: np.ndarray, last_B: np.ndarray, keys_B: np.ndarray) -> np.ndarray:
        """(B,) the sums of `limits` over the positions of each row's forward. keys_B: those that the model alone says,
        which stay for rows of other schedules."""
        rows, found_B = self.rows, keys_B.copy()
        for policy, mine in rows.by_policy(slots_B):
            if isinstance(policy.schedule, Window) and len(here := mine[~rows.entering[slots_B[mine]]]):
                positions_GQ = first_B[here, None] + np.arange((last_B - first_B)[here].max())
                computed_GQ = positions_GQ < last_B[here, None]
                found_B[here] = (self.limits(slots_B[here], positions_GQ) * computed_GQ).sum(axis=1)
        return found_B

    def stores(self, slots_B: np.ndarray) -> np.ndarray:
        """(B,) bool: whether the forward that runs keeps more than was kept before it."""
        kept = (self.planned[slot][0] if slot in self.planned else 0 for slot in slots_B.tolist())
        return np.fromiter(kept, dtype=np.int64, count=len(slots_B)) > self.rows.stored[slots_B]

    def lines(self, lines: Lines, first_B: np.ndarray) -> Lines:
        """The blocks that may reveal, from one for each row that denoises: as it is, or every open block with masks of
        a window. first: the first position of each row's forward, which is not noted as `kept` yet."""
        rows, found = self.rows, []
        columns = (column.tolist() for column in (lines.slots_L, lines.start_L, lines.at_L, first_B))
        for at, (slot, start, where, computed) in enumerate(zip(*columns, strict=True)):
            if not rows.is_window[slot]:
                found.append((slot, at, start, where, True, computed))
                continue
            first, end = int(rows.first[slot]), int(rows.opened[slot])
            open_JK = (rows.masked[slot, first:end] | rows.refilled[slot, first:end]).reshape(-1, rows.size)
            for block in np.flatnonzero(open_JK.any(axis=1)).tolist():
                begin, must = first + block * rows.size, bool(self.planned[slot][2][block])
                found.append((slot, at, begin, where + begin - start, must, computed))
        slots_L, row_L, start_L, at_L, must_L, first_L = (np.array(column) for column in zip(*found, strict=True))
        return Lines(slots_L, row_L, start_L, at_L, lines.begins_L[row_L], lines.queries_L[row_L], must_L, first_L)

    def predicting(
        self, hidden_NH: Tensor, at_n: np.ndarray, slots_n: np.ndarray, position_n: np.ndarray, first_n: np.ndarray
    ) -> tuple[Tensor, np.ndarray]:
        """The states of a forward, with those carried behind them, and where among them the ones lie that predict the
        open positions, whose places without carried ones are `at`."""
        outside_n = self.rows.is_window[slots_n] & (position_n - self.config.logit_shift < first_n)
        if not outside_n.any():
            return hidden_NH, at_n
        at_n, extra = at_n.copy(), []
        for i in np.flatnonzero(outside_n).tolist():
            slot = int(slots_n[i])
            if _window(self.rows.item[slot].policy.schedule).keeps_own_logit:
                at_n[i] += 1
            else:
                at_n[i] = len(hidden_NH) + len(extra)
                extra.append(self.carried[slot])
        return torch.cat([hidden_NH, torch.stack(extra)]) if extra else hidden_NH, at_n

    def kept(self, slots_B: np.ndarray, first_B: np.ndarray, begins_B: np.ndarray, hidden_NH: Tensor) -> None:
        """Notes what a forward has kept, and the state at the last position of it. begins: where each row's states
        begin."""
        rows = self.rows
        for slot, first, begins in zip(slots_B.tolist(), first_B.tolist(), begins_B.tolist(), strict=True):
            if slot in self.planned:
                rows.stored[slot], rows.left[slot], _ = self.planned.pop(slot)
                if self.config.logit_shift and first < rows.stored[slot]:
                    self.carried[slot] = hidden_NH[begins + int(rows.stored[slot]) - 1 - first].clone()

    def prefilled(self, slots_B: np.ndarray, last_B: np.ndarray, begins_B: np.ndarray, hidden_NH: Tensor) -> None:
        """Keeps the state at the last position of a prompt's forward. last: one past it."""
        for at in np.flatnonzero(self.rows.is_window[slots_B]).tolist():
            slot, last, first = int(slots_B[at]), int(last_B[at]), int(self.rows.prefilled[slots_B[at]])
            if self.config.logit_shift:
                self.carried[slot] = hidden_NH[int(begins_B[at]) + last - 1 - first].clone()

    def put_off(self, slot: int) -> None:
        """Saves the contents of a row's pages with its request, before it gives them up."""
        if self.rows.is_window[slot] and not self.rows.entering[slot]:
            item = self.rows.item[slot]
            item.pages = self.cache.taken(self.rows.held[slot]), self.carried.get(slot)
        self.left(slot)

    def left(self, slot: int) -> None:
        """Forgets what a slot carries, whose row has ended or given its pages up."""
        self.carried.pop(slot, None)
        self.planned.pop(slot, None)

    def come_back(self, slot: int) -> None:
        """Gives a row that has entered again what it had in its pages."""
        item = self.rows.item[slot]
        if item.pages is not None:
            contents, carried = item.pages
            self.cache.put(self.rows.held[slot][: contents.shape[2]], contents)
            if carried is not None:
                self.carried[slot] = carried
            self.rows.entering[slot], item.pages = False, None

    def advance(self) -> list[int]:
        """Fills what lies behind stop tokens where the schedule does; returns the slots of rows that have ended."""
        rows, ended = self.rows, []
        slots_B = np.flatnonzero(rows.busy & rows.is_window & ~rows.entering)
        for policy, mine in rows.by_policy(slots_B):
            schedule, slots = _window(policy.schedule), slots_B[mine]
            positions_BT, masked_BT, *_ = self._positions(slots)
            at = slots[:, None], np.minimum(positions_BT, rows.length - 1)
            open_BT = positions_BT < rows.opened[slots, None]
            stop_BT = (rows.tokens[at][..., None] == self.stop_ids).any(axis=-1) & open_BT & ~masked_BT
            stop_BT &= positions_BT >= rows.prompt_len[slots, None]
            rows.stopped[slots] = policy.stop.ended(stop_BT, np.zeros_like(masked_BT))
            rows.refilled[slots] = False
            if schedule.fills_stop:
                for i in np.flatnonzero(rows.stopped[slots] & masked_BT.any(axis=1)).tolist():
                    masked_BT[i] &= positions_BT[i] < self._fill(schedule, int(slots[i]))
            open_masked_BT = masked_BT & (positions_BT < rows.opened[slots, None])
            left_B = open_masked_BT.any(axis=1) | (rows.opened[slots] < rows.end[slots])
            ended += slots[policy.stop.ended(stop_BT, open_masked_BT) | ~left_B].tolist()
            rows.start[slots] = np.minimum(self.progress(slots).finished_until(rows.size), rows.opened[slots])
        return ended

    def _fill(self, schedule: Window, slot: int) -> int:
        """Makes everything behind a row's first stop token that token, as if nothing had been revealed there; returns
        the position behind it."""
        rows = self.rows
        prompt_len, end = int(rows.prompt_len[slot]), int(rows.end[slot])
        is_stop = np.isin(rows.tokens[slot, prompt_len:end], self.stop_ids) & ~rows.masked[slot, prompt_len:end]
        behind = prompt_len + int(np.flatnonzero(is_stop)[0]) + 1
        rows.refilled[slot, behind:end] = rows.masked[slot, behind:end] & schedule.decodes_filled
        rows.tokens[slot, behind:end], rows.masked[slot, behind:end] = rows.tokens[slot, behind - 1], False
        for column in (rows.reveal, rows.logp, rows.entropy):
            column[slot, behind:end] = 0
        rows.begun[slot, rows.opened[slot] : end] = rows.denoise_forwards[slot]
        rows.opened[slot] = end
        return behind


def _window(schedule: object) -> Window:
    assert isinstance(schedule, Window)
    return schedule
