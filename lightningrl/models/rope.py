"""Rotary position embeddings (RoPE): the frequencies of a head's pairs, plain or scaled as Llama 3.1 scales them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Rope:
    """`rope_type: llama3` (Llama 3.1, and Hugging Face's `modeling_rope_utils`): long wavelengths are stretched.

    A pair turns once in `wavelength` positions. One that turns more than high_freq_factor times within the context that
    the model was first trained on keeps its frequency, one that turns less than low_freq_factor times has it divided
    by `factor`; between them the frequency is interpolated in the number of turns.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int
    """Positions of the first training's context."""

    def scaled(self, frequency_P: Tensor) -> Tensor:
        """Radians a position, plain -> scaled."""
        turns_P = self.original_max_position_embeddings * frequency_P / (2 * math.pi)
        kept_P = ((turns_P - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return frequency_P * (kept_P + (1 - kept_P) / self.factor)


LLAMA3_KEYS = tuple(field.name for field in fields(Llama3Rope))


def frequencies(head_dim: int, theta: float, scaling: Llama3Rope | None = None) -> Tensor:
    """(head_dim / 2,) float64, radians a position: theta^(-2i / head_dim) for the pair i, then the scaling."""
    plain_P = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    return plain_P if scaling is None else scaling.scaled(plain_P)
