"""Reveal every position ranked over tau, and at least the step's quota: SDAR's `low_confidence_dynamic`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightningrl.decoding.proposals import Bound, Proposals
from lightningrl.decoding.selectors.quota import require_steps, step_quota
from lightningrl.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Threshold:
    """Strict `>`; when too few pass, the highest ranked ones, whether they pass or not.

    tau is compared with the ranking's number: a probability under `confidence`, minus nats under `neg_entropy`.
    inclusive: `>=`, as the published results' engine has it. steps: as in Quota, the least revealed a step; None is one
    step a token, so one position.
    """

    tau: float
    inclusive: bool = False
    steps: int | None = None

    def __post_init__(self) -> None:
        if math.isnan(self.tau):
            raise DecodeError("threshold: tau is no number")
        if self.steps is not None:
            require_steps("threshold", self.steps)

    def select(self, candidates: Proposals) -> Tensor:
        score_BK, size = candidates.score_BK, candidates.score_BK.shape[-1]
        passed_BK = score_BK >= self.tau if self.inclusive else score_BK > self.tau
        least_B = step_quota(size, int(self.steps or size), candidates.step_B)
        return (passed_BK & candidates.open_BK) | candidates.best(least_B)

    def bound(self, size: int) -> Bound:
        return Bound(self.tau, self.inclusive, step_quota(size, int(self.steps or size), torch.arange(size)))
