"""What one forward of a stream reveals: draws at the open positions of all rows, the choice, and what is written.

Shapes: B rows; L lines, the blocks in which they may reveal; K positions of a block; N positions of a forward; n open
positions of it; H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lightningrl.decoding.checks import check_computed, check_open, check_revealed
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.planning import plan_rows
from lightningrl.decoding.protocol import DecodePolicy, Observation, Observer
from lightningrl.decoding.row_state import Rows
from lightningrl.decoding.sampler import Draws, draw_by_rule, needs_margins, select
from lightningrl.decoding.window import Window
from lightningrl.decoding.window_rows import Lines, WindowRows
from lightningrl.models.transformer import Transformer

if TYPE_CHECKING:
    from lightningrl.decoding.device_turn import Drawn


@dataclass(slots=True, eq=False)
class Revealer:
    """Reveals positions of the rows of one stream."""

    model: Transformer
    rows: Rows
    windows: WindowRows | None
    observer: Observer | None

    def reveal(
        self,
        slots_B: np.ndarray,
        lines: Lines,
        hidden_NH: Tensor | None,
        twin_NH: Tensor | None,
        device: Drawn | None,
    ) -> tuple[np.ndarray, list[int]]:
        """Write what is chosen among the open positions of the rows' blocks, one or more each. device: what the device
        has drawn already, at all positions of these blocks.

        Returns how many each row revealed, and the slots whose probabilities were not finite.
        """
        rows, slots_L = self.rows, lines.slots_L
        rows.denoise_forwards[slots_B] += 1
        positions_LK = lines.start_L[:, None] + np.arange(rows.size)
        open_LK, groups = rows.masked[slots_L[:, None], positions_LK], rows.by_policy(slots_L)
        if device is None:
            masked_LK = open_LK.copy()
            if self.windows is not None:
                masked_LK |= rows.refilled[slots_L[:, None], positions_LK]
            for policy, mine in groups:
                open_LK[mine] = policy.schedule.open(masked_LK[mine])
                check_open(policy.schedule, open_LK[mine], masked_LK[mine])
                if not isinstance(policy.schedule, Window):
                    places_LK = (lines.at_L - lines.begins_L)[mine, None] + np.arange(rows.size)
                    check_computed(policy.schedule, places_LK, open_LK[mine], lines.queries_L[mine])
        line_n, column_n = np.nonzero(open_LK)
        decision_L = np.zeros(len(slots_L))
        if not len(line_n):
            rows.note(slots_L, decision_L)
            return np.zeros(len(slots_B), dtype=np.int64), []
        slots_n, position_n = slots_L[line_n], positions_LK[line_n, column_n]
        if device is None:
            assert hidden_NH is not None
            at_n = lines.at_L[line_n] + column_n
            plan_LK = plan_rows(self.model, rows, lines, hidden_NH, open_LK, groups)
            if self.windows is not None and lines.first_L is not None:
                hidden_NH, at_n = self.windows.predicting(hidden_NH, at_n, slots_n, position_n, lines.first_L[line_n])
            places_n = torch.from_numpy(at_n).to(hidden_NH.device)
            twin_at_n = None if twin_NH is None else places_n.clamp(max=len(twin_NH) - 1)  # no window has a twin
            states = hidden_NH[places_n], None if twin_NH is None else twin_NH[twin_at_n]
            drawn = self._draw(lines, line_n, position_n, at_n, states, open_LK, groups, plan_LK)
            token_n, logp_n, entropy_n, chosen_n, decision_L = drawn
        else:
            token_n, logp_n, entropy_n, chosen_n = (column[line_n * rows.size + column_n] for column in device)
        rows.note(slots_L, decision_L)
        finite_n = np.isfinite(logp_n)
        failed = [] if finite_n.all() else np.unique(slots_n[~finite_n]).tolist()
        at = slots_n[chosen_n], position_n[chosen_n]
        rows.tokens[at], rows.masked[at] = token_n[chosen_n], False
        rows.reveal[at] = rows.denoise_forwards[at[0]]
        rows.logp[at], rows.entropy[at] = logp_n[chosen_n], entropy_n[chosen_n]
        revealed_L = np.bincount(line_n[chosen_n], minlength=len(slots_L))
        due_LK = open_LK if lines.must_L is None else open_LK & lines.must_L[:, None]
        for policy, mine in groups:
            check_revealed(policy.selector, revealed_L[mine] + np.isin(slots_L[mine], failed), due_LK[mine])
        return np.bincount(lines.row_L, revealed_L, len(slots_B)).astype(np.int64), failed

    @torch.no_grad()
    def _draw(
        self,
        lines: Lines,
        line_n: np.ndarray,
        position_n: np.ndarray,
        at_n: np.ndarray,
        states: tuple[Tensor, Tensor | None],
        open_LK: np.ndarray,
        groups: Sequence[tuple[DecodePolicy, np.ndarray]],
        plan_LK: Tensor | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Token, log-probability and entropy at the open positions, which of them are revealed, and the log-probability
        of each line's choice; observed."""
        rows, slots_L, slots_n = self.rows, lines.slots_L, lines.slots_L[line_n]
        forward_n = rows.denoise_forwards[slots_n]
        draws = Draws(
            hidden_nH=states[0],
            twin_nH=states[1],
            key_n=rows.key[slots_n],
            position_n=position_n,
            forward_n=forward_n,
            temperature_n=rows.temperature[slots_n],
            top_k_n=rows.top_k[slots_n],
            top_p_n=rows.top_p[slots_n],
        )
        rules: dict[Logits, list[np.ndarray]] = {}
        for policy, mine in groups:
            rules.setdefault(policy.logits, []).append(mine)
        of_rule = [(rule, np.flatnonzero(np.isin(line_n, np.concatenate(mine)))) for rule, mine in rules.items()]
        of_rule = [(rule, here) for rule, here in of_rule if len(here)]
        alternatives = self.observer.alternatives if self.observer else 0
        drawn = draw_by_rule(self.model, draws, of_rule, alternatives, needs_margins([p for p, _ in groups]))
        since_L = rows.denoise_forwards[slots_L] - 1 - rows.begun[slots_L, lines.start_L]
        step_L = np.where(rows.is_window[slots_L], since_L, rows.block_step[slots_L])
        chosen_n, decision_L = select(drawn, draws, open_LK, step_L, groups, lines.must_L, lines.row_L, plan_LK)
        token_n, logp_n, entropy_n, chosen_n = drawn.to_host(chosen_n)
        if self.observer is not None:
            index_n = np.array([rows.item[slot].index for slot in slots_n.tolist()])
            top = drawn.top_ids_nA.cpu().numpy(), drawn.top_logp_nA.cpu().numpy()
            seen = Observation(index_n, forward_n, position_n, token_n, logp_n, entropy_n, chosen_n, *top, at_n)
            self.observer.observe(seen)
        return (
            token_n,
            logp_n,
            entropy_n,
            chosen_n,
            np.zeros(len(slots_L)) if decision_L is None else decision_L.cpu().numpy(),
        )
