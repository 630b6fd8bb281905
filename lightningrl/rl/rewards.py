"""Rewards of groups: each read off the answers, scaled on its own in its group, weighted, added (Eq. 5, 6); and what
becomes of the sum, the advantages (Eq. 2, 7).

Shapes: (N, G): N groups (prompts) of G responses.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import field_validator

from lightningrl.config.section import Section
from lightningrl.errors import ConfigError
from lightningrl.rl.groups import Groups
from lightningrl.rl.text_rewards import apps, code_fence, correct, math_format, math_string, steps, think_format
from lightningrl.utils.registry import resolve

EPSILON = 1e-8


def group_z_score(values_NG: np.ndarray) -> np.ndarray:
    """Returns (value - mean) / std inside each group, population std; all 0 where the group is constant (Eq. 5)."""
    return _standardised(values_NG, values_NG.mean(axis=1), values_NG.std(axis=1), if_constant=0.0)


def group_minmax(values_NG: np.ndarray) -> np.ndarray:
    """Returns (value - min) / (max - min) inside each group; all 0.5 where it is constant (published code)."""
    return _standardised(values_NG, values_NG.min(axis=1), np.ptp(values_NG, axis=1), if_constant=0.5)


def _standardised(values_NG: np.ndarray, origin_N: np.ndarray, width_N: np.ndarray, if_constant: float) -> np.ndarray:
    """A group is constant where equal values with rounding noise would otherwise become +-1."""
    origin_N1, width_N1 = origin_N[:, None], width_N[:, None]
    constant_N1 = width_N1 <= 1e-6 * np.maximum(1.0, np.abs(origin_N1))
    return np.where(constant_N1, if_constant, (values_NG - origin_N1) / np.where(constant_N1, 1.0, width_N1))


def centre_group(values_NG: np.ndarray) -> np.ndarray:
    """Returns value - mean inside each group."""
    return values_NG - values_NG.mean(axis=1, keepdims=True)


def normalise_group(values_NG: np.ndarray) -> np.ndarray:
    """Returns (value - mean) / (std + 1e-8) inside each group, unbiased std (Eq. 2)."""
    return centre_group(values_NG) / (values_NG.std(axis=1, ddof=1, keepdims=True) + EPSILON)


def normalise_batch(values_NG: np.ndarray) -> np.ndarray:
    """Returns (value - mean) / (std + 1e-8) over the whole batch, unbiased std (Eq. 7)."""
    return (values_NG - values_NG.mean()) / (values_NG.std(ddof=1) + EPSILON)


def unchanged(values_NG: np.ndarray) -> np.ndarray:
    return values_NG


SCALES = {"none": unchanged, "z_score": group_z_score, "minmax": group_minmax}
NORMALISATIONS = {"none": unchanged, "center": centre_group, "group": normalise_group, "batch": normalise_batch}
"""What the summed reward of an update's groups becomes, by the name in `method.advantage`."""


def accuracy(groups: Groups) -> np.ndarray:
    """+1 or -1; the judge's value within 0..1 where it is graded (fraction of tests passed)."""
    return groups.value_NG if groups.graded else np.where(groups.correct_NG, 1.0, -1.0)


def tpf(groups: Groups) -> np.ndarray:
    """Returns response tokens a denoise forward."""
    return groups.tpf_NG


def tpf_true(groups: Groups) -> np.ndarray:
    """Returns response tokens per forward, separate commits counted: what such a decoder really takes."""
    return groups.table(lambda a: a.trajectory.stats.tpf_true)


def forwards(groups: Groups) -> np.ndarray:
    """Returns minus the denoise forwards: longer answers of the same speed cost, which TPF does not see."""
    return -groups.table(lambda a: a.trajectory.stats.denoise_forwards)


def length(groups: Groups) -> np.ndarray:
    """Returns minus the response tokens: with a small weight, what keeps TPF from being earned by longer answers."""
    return -groups.length_NG.astype(float)


_DULTRA = (correct, math_string, math_format, think_format, code_fence, apps, steps)
FUNCTIONS = {f.__name__: f for f in (accuracy, tpf, tpf_true, forwards, length, *_DULTRA)}
"""The rewards of our own by name: raw values (N, G), larger is better."""
OWN = re.compile(r"[\w.]+:[\w.]+")


class Reward(Section):
    """One reward, normalised on its own in its group before the rewards are added (Eq. 5, 6)."""

    name: str
    """`accuracy` (+-1; where the judge grades, its value: the fraction of tests passed), `tpf`, `tpf_true`, `forwards`
    (minus the denoise forwards of the response), `length` (minus its tokens); dUltra's (rl/text_rewards.py) `correct`
    (1 or 0), `math_string`, `math_format`, `think_format`, `code_fence`, `apps`, `steps` (minus a fiftieth of the
    denoise forwards); or your own function of the groups as `module:attribute`."""
    scale: Literal["none", "z_score", "minmax"] = "none"
    """In its group: z_score (population std, 0 where the group is constant), minmax (0.5 where it is), or raw."""
    weight: float = 1.0
    only_correct: bool = False
    """Count it for correct responses only: scaled among the group's correct ones, 0 for the others."""

    @field_validator("name")
    @classmethod
    def _known(cls, found: str) -> str:
        if found not in FUNCTIONS and not OWN.fullmatch(found):
            raise ValueError(f"found {found!r}, allowed: {', '.join(FUNCTIONS)}, or your own as module:attribute")
        return found


def raw(name: str, groups: Groups) -> np.ndarray:
    """Returns (N, G): a reward of ours, or of somebody's `module:attribute`.

    Raises ConfigError when that gives anything but one finite number per response.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name](groups)
    values_NG = np.asarray(resolve(name)(groups), dtype=float)
    expected = groups.correct_NG.shape
    if values_NG.shape != expected or not np.isfinite(values_NG).all():
        raise ConfigError(
            f"the reward {name} gave numbers of shape {values_NG.shape}, {np.isfinite(values_NG).sum()} of them "
            f"finite; expected one finite number for each of {expected[0]} x {expected[1]} responses"
        )
    return values_NG


def scaled(reward: Reward, groups: Groups) -> np.ndarray:
    """Returns (N, G): the reward's share of the sum."""
    values_NG, scale = raw(reward.name, groups), SCALES[reward.scale]
    if not reward.only_correct:
        return reward.weight * scale(values_NG)
    shares_NG = np.zeros(values_NG.shape)
    for values_G, counted_G, shares_G in zip(values_NG, groups.correct_NG, shares_NG, strict=True):
        if counted_G.any():
            shares_G[counted_G] = scale(values_G[counted_G][None])[0]
    return reward.weight * shares_NG


def total_reward(rewards: Sequence[Reward], groups: Groups) -> np.ndarray:
    """Returns (N, G): the sum, in the order of the config."""
    return functools.reduce(np.add, (scaled(reward, groups) for reward in rewards))
