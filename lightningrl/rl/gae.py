"""Generalised advantage estimation over denoise steps, and the settings of the value model it is taken from.

Steps, not tokens, are discounted: tokens that are revealed together share a step (TraceRL, Wang et al.).
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from lightningrl.config.section import Section


class Value(Section):
    """The value model: the policy's own network with a linear head that starts at zero (TraceRL)."""

    learning_rate: float = Field(default=5e-6, gt=0)
    clip: float = Field(default=0.2, gt=0)
    """Values are clipped to their old ones +- this in the loss."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount a denoise step."""
    lam: float = Field(default=1.0, ge=0, le=1)
    """lambda of the generalised advantage estimate over denoise steps."""


def estimate(
    step_n: np.ndarray, reward_n: np.ndarray, value_n: np.ndarray, gamma: float, lam: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns R and advantages A of one trajectory's n actions (TraceRL's step-level estimate).

    step_n: the denoise step of each action, in any numbers that grow with time; reward_n, value_n: of each action.
    With r*_t, V*_t the means over step t: R*_t = r*_t + gamma R*_{t+1}, delta_t = r*_t - V*_t + gamma V*_{t+1},
    A*_t = delta_t + gamma lam A*_{t+1}; an action of step t: R = r + gamma R*_{t+1},
    A = r - V + gamma V*_{t+1} + gamma lam A*_{t+1}.
    """
    steps_T, index_n = np.unique(step_n, return_inverse=True)
    count_T = np.bincount(index_n)
    reward_T = np.bincount(index_n, reward_n) / count_T
    value_T = np.bincount(index_n, value_n) / count_T
    next_return_T, next_value_T, next_advantage_T = (np.zeros(len(steps_T)) for _ in range(3))
    later_return = later_value = later_advantage = 0.0
    for t in range(len(steps_T) - 1, -1, -1):
        next_return_T[t], next_value_T[t], next_advantage_T[t] = later_return, later_value, later_advantage
        later_advantage = reward_T[t] - value_T[t] + gamma * later_value + gamma * lam * later_advantage
        later_return = reward_T[t] + gamma * later_return
        later_value = value_T[t]
    returns_n = reward_n + gamma * next_return_T[index_n]
    advantage_n = reward_n - value_n + gamma * next_value_T[index_n] + gamma * lam * next_advantage_T[index_n]
    return returns_n, advantage_n
