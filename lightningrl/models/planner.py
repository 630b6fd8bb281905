"""dUltra's planner: a small head that says of each open position how likely it is to be revealed by this forward.

It reads the hidden states that the head of the vocabulary reads (the final norm's output), a timestep of each row and
which positions are open, and gives one logit a position: one layer of the model's own kind with full attention over the
canvas, between two layer norms whose scale and shift depend on timestep and openness (chinsengi/dUltra-os,
model/lladou.py: `use_adaln`, `use_mask_embeddings`, one layer; block embeddings, which no checkpoint uses, are
refused by the family).

Shapes: B rows; L positions of a canvas; H hidden size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightningrl.models.linear import Linear

if TYPE_CHECKING:
    from lightningrl.models.transformer import Layer, ModelConfig

TIMESTEP_SIZE = 256
"""Numbers of a timestep's sinusoids."""
LONGEST_PERIOD = 10_000.0
NORM_EPS = 1e-4


def timestep_sinusoids(timestep_B: Tensor) -> Tensor:
    """(B, 256): cosines, then sines, of the timestep times 10000^(-k / 128), k = 0, ..., 127.

    Timesteps lie in [0, 1] and are not scaled, as published, so few of these numbers move.

    >>> [round(x, 6) for x in timestep_sinusoids(torch.tensor([0.25]))[0, [0, 1, 64, 128, 129, 192]].tolist()]
    [0.968912, 0.97306, 0.999997, 0.247404, 0.23055, 0.0025]
    """
    half = TIMESTEP_SIZE // 2
    frequency = torch.exp(-math.log(LONGEST_PERIOD) * torch.arange(half, dtype=torch.float64) / half)
    angle = timestep_B.double()[:, None] * frequency.to(timestep_B.device)
    return torch.cat([angle.cos(), angle.sin()], dim=-1).float()


class TimeEmbedding(nn.Module):
    """The timestep as a vector of the model's size."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(Linear(TIMESTEP_SIZE, width, bias=True), nn.SiLU(), Linear(width, width, bias=True))

    def forward(self, timestep_B: Tensor, dtype: torch.dtype) -> Tensor:
        return self.mlp(timestep_sinusoids(timestep_B).to(dtype))


class AdaptiveNorm(nn.Module):
    """A layer norm without weights of its own, whose scale and shift are linear in a vector for each position."""

    def __init__(self, width: int):
        super().__init__()
        self.modulation = Linear(width, 2 * width, bias=True)

    def forward(self, x_BLH: Tensor, condition_BLH: Tensor) -> Tensor:
        scale_BLH, shift_BLH = self.modulation(condition_BLH).chunk(2, dim=-1)
        return F.layer_norm(x_BLH, x_BLH.shape[-1:], eps=NORM_EPS) * (1 + scale_BLH) + shift_BLH


class Planner(nn.Module):
    """The planner of a model. layer: an untrained layer of the model's own kind, which becomes the planner's."""

    def __init__(self, config: ModelConfig, layer: Layer):
        super().__init__()
        width = config.hidden_size
        self.layer = layer
        self.time_embedding = TimeEmbedding(width)
        self.norm_in, self.norm_out = AdaptiveNorm(width), AdaptiveNorm(width)
        self.mask_embedding = nn.Embedding(2, width)
        self.mask_linear = Linear(width, 1, bias=True)

    def forward(
        self, hidden_BLH: Tensor, timestep_B: Tensor, open_BL: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> Tensor:
        """(B, L) logits, float32 at least. hidden: of the whole canvas; timestep: 1 - masks / L of each canvas; open:
        bool, the masked positions that may be revealed now. rotation: RoPE's of positions 0, ..., L - 1."""
        condition_BLH = self.time_embedding(timestep_B, hidden_BLH.dtype)[:, None] + self.mask_embedding(open_BL.long())
        x_BLH = self.layer(self.norm_in(hidden_BLH, condition_BLH), rotation, _see_all)
        logit_BL = self.mask_linear(self.norm_out(x_BLH, condition_BLH))[..., 0]
        return logit_BL.float() if logit_BL.dtype in (torch.bfloat16, torch.float16) else logit_BL

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw first weights as planner pre-training begins with: truncated normals of the layer's matrices (the
        "mitchell" rule), Xavier's for what depends on the condition, N(0, 0.02) for the last projection. The draws are
        made on the CPU, in the order of the parameters' names."""
        for name, weight in sorted(self.named_parameters()):
            fresh = torch.zeros(weight.shape)
            if name.endswith("norm.weight"):
                fresh.fill_(1.0)
            elif name.endswith("bias"):
                pass
            elif name.startswith("layer."):
                into_stream = 2 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1
                std = 1 / math.sqrt(into_stream * weight.shape[1])
                nn.init.trunc_normal_(fresh, std=std, a=-3 * std, b=3 * std, generator=generator)
            elif name.startswith("mask_embedding"):
                nn.init.trunc_normal_(fresh, std=0.02, a=-0.06, b=0.06, generator=generator)
            elif name.startswith("mask_linear"):
                nn.init.normal_(fresh, std=0.02, generator=generator)
            else:
                nn.init.xavier_uniform_(fresh, generator=generator)
            weight.copy_(fresh)


def _see_all(layer: int, q_BNLD: Tensor, k_BMLD: Tensor, v_BMLD: Tensor) -> Tensor:
    """Every position sees every position."""
    return F.scaled_dot_product_attention(q_BNLD, k_BMLD, v_BMLD, enable_gqa=q_BNLD.shape[1] != k_BMLD.shape[1])
