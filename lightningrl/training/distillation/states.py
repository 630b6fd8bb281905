"""States for distillation: which positions of an answer are masked, seen and scored.

Answers of models that see a canvas are put in whole rows (models/canvas.py): what lies before a segment is clean, what
lies behind it is masked and no target. Those of block-causal models are packed (models/packing.py): every block of the
response is a segment by itself, behind its clean past, and nothing behind a block is seen anyway. A *view* is one of
two states whose masks complement each other.

Shapes: L positions of an answer, prompt included; K block size; C copies; n scored positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightningrl.models.canvas import CanvasRow
from lightningrl.models.packing import PackedRow
from lightningrl.training.distillation.answers import Target


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """The states of one unit of answers, all of one kind of rows."""

    rows: list[CanvasRow] | list[PackedRow]
    view_n: np.ndarray
    """[n] int64: the view, 0 or 1, that each scored token belongs to, in the order of the rows."""
    weight_n: np.ndarray | None = None
    """[n] what each token's loss is multiplied by; None: 1."""

    @property
    def num_tokens(self) -> int:
        """Positions of the forward: the cost."""
        return sum(row.num_tokens for row in self.rows)


def merged(units: Sequence[Views]) -> Views:
    """Returns several answers' states as those of one unit."""
    rows = [row for unit in units for row in unit.rows]
    weights = [unit.weight_n for unit in units if unit.weight_n is not None]
    view_n = np.concatenate([unit.view_n for unit in units])
    return Views(rows, view_n, np.concatenate(weights) if weights else None)  # type: ignore[arg-type]


def segment_views(ids_L: np.ndarray, start: int, masked_S: np.ndarray, mask_token_id: int) -> Views:
    """Returns the two states of a segment of a canvas: its masked positions hold the mask, in the other state the rest
    of it; all behind it is masked in both and scored in neither.

    masked_S: bool, of the segment's positions from `start` on.
    """
    end, rows = start + len(masked_S), []
    for chosen_S in (masked_S, ~masked_S):
        scored_L = np.zeros(len(ids_L), dtype=bool)
        scored_L[start:end] = chosen_S
        hidden_L = scored_L | (np.arange(len(ids_L)) >= end)
        rows.append(CanvasRow(np.where(hidden_L, mask_token_id, ids_L), ids_L, scored_L))
    return Views(rows, np.repeat([0, 1], [row.num_scored for row in rows]))


def block_views(ids_L: np.ndarray, masked_L: np.ndarray, prompt_len: int, size: int, mask_token_id: int) -> Views:
    """Returns two copies of each block of the response, on the grid from position 0: one with `masked_L`, one with the
    complement among the response's positions. The answer ends on the grid."""
    blocks = np.arange(prompt_len // size, len(ids_L) // size)
    target_CK = np.repeat(ids_L.reshape(-1, size)[blocks], 2, axis=0)
    is_response_L = np.arange(len(ids_L)) >= prompt_len
    both = [(each & is_response_L).reshape(-1, size)[blocks] for each in (masked_L, ~masked_L)]
    scored_CK = np.stack(both, axis=1).reshape(-1, size)
    row = PackedRow(
        clean_ids=ids_L[: len(ids_L) - size],
        copy_block=np.repeat(blocks, 2),
        copy_ids=np.where(scored_CK, mask_token_id, target_CK),
        target_ids=target_CK,
        scored=scored_CK,
    )
    view_CK = np.broadcast_to((np.arange(len(scored_CK)) % 2)[:, None], scored_CK.shape)
    return Views([row], view_CK[scored_CK])


def drawn_segment(target: Target, size: int, rng: np.random.Generator, compat: bool) -> tuple[int, int]:
    """Returns start and end of one segment of the response, each alike: K positions, or the rest that is left of them.

    compat: there is one more to be drawn, which has no position where K divides the response, as in the published code.
    """
    length = len(target.response_ids)
    count = length // size + 1 if compat else -(-length // size)
    start = target.prompt_len + int(rng.integers(count)) * size
    return start, min(start + size, target.length)
