"""Which checkpoint a run ends with: chosen on validation, never on test.

A policy-gradient run takes, among checkpoints whose validation accuracy is at most `tolerance_pct` points below the
base's, the one with the highest validation TPF, and if there is none the most accurate. Of equals the last is taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightningrl.models.sdar import SDAR
from lightningrl.training.shards import full_weights


class Selection(ABC):
    """Keeps the best weights seen so far and why. `rule` says in words what `rank` computes."""

    rule: str

    def __init__(self) -> None:
        self.base: dict[str, float] = {}
        self.candidates: list[dict[str, Any]] = []
        self.weights: dict[str, Tensor] = {}
        self.keeps_weights = True
        """Whether this process holds the chosen weights: one of several is enough."""

    def start(self, base: dict[str, float]) -> None:
        """The base's validation figures: the yardstick."""
        self.base = base

    @abstractmethod
    def rank(self, validation: Mapping[str, float]) -> tuple[float, ...]:
        """What candidates are ordered by; the largest is chosen."""
        ...

    def offer(self, step: int, validation: dict[str, float], model: SDAR) -> None:
        """Consider the weights after `step`; later ones win ties."""
        self.candidates.append({"step": step, "rank": list(self.rank(validation))} | validation)
        if self.chosen["step"] == step:
            self.weights = full_weights(model, self.keeps_weights)

    @property
    def chosen(self) -> dict[str, Any]:
        """The best candidate's figures."""
        return max(self.candidates, key=lambda candidate: (*candidate["rank"], candidate["step"]))

    def report(self) -> dict[str, Any]:
        """The content of `selection.json`."""
        return {"rule": self.rule, "base": self.base, "chosen": self.chosen, "candidates": self.candidates}

    def state_dict(self) -> dict[str, Any]:
        return {"base": self.base, "candidates": self.candidates, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.base, self.candidates, self.weights = state["base"], state["candidates"], state["weights"]


class Fastest(Selection):
    """The fastest checkpoint that is about as accurate as the base."""

    def __init__(self, tolerance_pct: float):
        super().__init__()
        self.tolerance_pct = tolerance_pct
        self.rule = (
            f"highest validation TPF among checkpoints at most {tolerance_pct:g} points of validation accuracy below "
            "the base; if there is none, the most accurate"
        )

    def rank(self, validation: Mapping[str, float]) -> tuple[float, ...]:
        accurate = validation["validation_accuracy_pct"]
        within = accurate >= self.base["validation_accuracy_pct"] - self.tolerance_pct
        return (1.0, validation["validation_tpf"]) if within else (0.0, accurate)
