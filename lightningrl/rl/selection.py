"""Which checkpoint a run ends with: chosen on validation problems, never on test problems.

A policy-gradient run takes the fastest checkpoint of which the validation problems show that it is hardly less accurate
than the base, by a lower bound of the paired difference: the difference itself would favour the lucky ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from lightningrl.models.transformer import Transformer
from lightningrl.training.chosen_file import Chosen
from lightningrl.training.shards import full_weights

Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Validation:
    """Means over the validation problems by name (`validation_tpf`, ...), and whether each was answered right."""

    figures: dict[str, float]
    correct: list[bool]


def lower_bound_of_difference(correct: Sequence[bool], base: Sequence[bool]) -> float:
    """Returns the lower end of a 95 % interval of the difference in accuracy on the same problems, percentage points.

    Wald's interval after half a problem is added to each of the four outcomes of a pair, so that few problems, or two
    models that differ on none, do not give an interval of no width (Agresti and Min, 2005).

    >>> round(lower_bound_of_difference([True] * 97 + [False] * 3, [True] * 100), 2)
    -6.74
    """
    only_here = 0.5 + sum(ours and not theirs for ours, theirs in zip(correct, base, strict=True))
    only_there = 0.5 + sum(theirs and not ours for ours, theirs in zip(correct, base, strict=True))
    total = len(base) + 2
    difference = (only_here - only_there) / total
    variance = ((only_here + only_there) / total - difference**2) / total
    return 100 * (difference - Z_95 * sqrt(variance))


class Selection:
    """Keeps the best weights seen so far and why.

    rank: what candidates are ordered by, of their figures; the largest is chosen. rule: the same in words.
    keeps_weights: whether this process holds the chosen weights; one of several is enough. dtype: in which they are
    held, None: in their own. They are not part of the state, in which they would be written at every save: they have a
    file of their own (`Trainer.chosen`).
    """

    def __init__(
        self, rule: str, rank: Callable[[Mapping[str, float]], tuple[float, ...]],
        keeps_weights: bool = True, dtype: torch.dtype | None = None,
    ):  # fmt: skip
        self.rule, self.rank, self.keeps_weights, self.dtype = rule, rank, keeps_weights, dtype
        self.base: dict[str, float] = {}
        self.base_correct: list[bool] = []
        self.candidates: list[dict[str, Any]] = []
        self.weights: dict[str, Tensor] = {}

    def start(self, base: Validation) -> None:
        """Takes the base's validation, the yardstick."""
        self.base, self.base_correct = base.figures, base.correct

    def offer(self, step: int, validation: Validation, model: Transformer) -> dict[str, float]:
        """Consider the weights after `step`; later ones win ties. Returns the figures that they were judged by."""
        low = lower_bound_of_difference(validation.correct, self.base_correct)
        figures = validation.figures | {"validation_difference_low_pct": low}
        self.candidates.append({"step": step, "rank": list(self.rank(figures))} | figures)
        if self.chosen["step"] == step:
            self.weights = {}  # gone before its successor asks for memory
            self.weights = full_weights(model, self.keeps_weights, self.dtype)
        return figures

    @property
    def chosen(self) -> dict[str, Any]:
        """The best candidate's figures."""
        return max(self.candidates, key=lambda candidate: (*candidate["rank"], candidate["step"]))

    def report(self) -> dict[str, Any]:
        """Returns the content of `selection.json`."""
        return {"rule": self.rule, "base": self.base, "chosen": self.chosen, "candidates": self.candidates}

    @property
    def chosen_weights(self) -> Chosen | None:
        """The best candidate's weights, for the file beside the states; None before there is one, and in processes that
        do not hold them."""
        return Chosen(self.chosen["step"], self.weights) if self.weights else None

    def take_chosen(self, weights: dict[str, Tensor]) -> None:
        """Restores the weights of `chosen_weights`."""
        self.weights = weights

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("base", "base_correct", "candidates")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def fastest(tolerance_pct: float, keeps_weights: bool = True, dtype: torch.dtype | None = None) -> Selection:
    """Selects the fastest checkpoint that is shown to be about as accurate as the base; see `Selection`."""

    def rank(figures: Mapping[str, float]) -> tuple[float, ...]:
        low = figures["validation_difference_low_pct"]
        return (1.0, figures["validation_tpf"]) if low >= -tolerance_pct else (0.0, low)

    rule = (
        f"highest validation TPF among checkpoints whose validation accuracy is at most {tolerance_pct:g} points below "
        "the base's by the lower end of a paired 95 % interval; if there is none, the one with the highest lower end"
    )
    return Selection(rule, rank, keeps_weights, dtype)
