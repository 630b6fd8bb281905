"""Dream's `origin`: each masked position is revealed by chance, with the share of its timestep as probability."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightningrl.decoding.proposals import Proposals
from lightningrl.decoding.selectors.quota import require_steps
from lightningrl.decoding.selectors.timestep import timestep_shares
from lightningrl.errors import DecodeError


@dataclass(frozen=True, slots=True)
class RandomTimestep:
    """Step i of S (from 0) reveals each masked position with probability 1 - t_(i+1) / t_i; the last step all of them.

    The times are those of `Timestep`; no ranking matters. How many a step reveals is by chance too, and may be none; by
    chance also, all are revealed before the last step. (Dream, arXiv 2508.15487, generation_utils.py, `origin`.)
    """

    steps: float
    eps: float = 1e-3

    may_wait = True
    uses_noise = True

    def __post_init__(self) -> None:
        require_steps("random_timestep", self.steps)
        if not 0 < self.eps < 1:
            raise DecodeError(f"random_timestep: eps is {self.eps}, expected more than 0 and less than 1")

    def select(self, candidates: Proposals) -> Tensor:
        assert candidates.noise_BK is not None
        steps, step_B = int(self.steps), candidates.step_B
        share_S = timestep_shares(steps, self.eps).to(step_B.device)
        share_B = share_S[step_B.clamp(max=steps - 1)].masked_fill(step_B >= steps - 1, 1.0)
        chosen_BK = (candidates.noise_BK < share_B[:, None]) & candidates.open_BK
        return chosen_BK & candidates.must_B1 if candidates.must_B is not None else chosen_BK
