"""Noise of the size of a rounding error in place of the error itself: a control, not a way to store a model.

Each group of weights gets Gaussian noise with the norm that the error of rounding to nearest has in that group. A
model that is as bad with noise as with codes is hurt by the size of the error alone; where codes do more harm, it is
their structure: few values, one scale for a group, errors that depend on the weights.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.models.transformer import Transformer
from lightningrl.quantization.layerwise import inner_linears
from lightningrl.quantization.protocol import Calibration
from lightningrl.quantization.rtn import NearestGrid
from lightningrl.quantization.uniform import on_grid, relative_error
from lightningrl.quantization.values import UNROUNDED


class RoundingNoise(NearestGrid, frozen=True, strict=True):
    """See `NearestGrid`, whose rounding errors give the size. draw: another number is another draw of the noise, which
    is keyed by it, the experiment's seed and the layer's name."""

    draw: int = Field(default=0, ge=0)

    def quantize(self, model: Transformer, calibration: Calibration) -> Transformer:
        """Returns the model with noise on every linear layer inside its layers, in floating point.

        Raises ConfigError where `group` does not fit a layer, CheckpointError for weights that are not finite.
        """
        for name, layer in inner_linears(model) if self.bits != UNROUNDED else ():
            exact = layer.weight.detach()
            try:
                rounded = on_grid(exact, self.grid, self.group).values().to(exact.device)
            except (ConfigError, CheckpointError) as error:
                raise type(error)(f"noise: {name}: {error}") from None
            noise = like(rounded - exact.float(), self.group, (calibration.seed, self.draw, name))
            changed = (exact.float() + noise).to(exact.dtype)
            layer.errors = {"weight": relative_error(changed, exact)}  # type: ignore[assignment]
            layer.weight = nn.Parameter(changed, requires_grad=layer.weight.requires_grad)
        return model


def like(error_OI: Tensor, group: int, key: tuple[int, int, str]) -> Tensor:
    """Returns (O, I) Gaussian noise which in each group of a row has the norm that the error has there."""
    rows, inputs = error_OI.shape
    words = np.frombuffer(hashlib.sha256(repr(key).encode()).digest()[:16], dtype="<u4")
    drawn = np.random.default_rng(words.tolist()).standard_normal((rows, inputs), dtype=np.float32)
    noise_OGI = torch.from_numpy(drawn).to(error_OI.device).view(rows, -1, group or inputs)
    norm_OG1 = error_OI.view(noise_OGI.shape).norm(dim=-1, keepdim=True)
    return (noise_OGI * (norm_OG1 / noise_OGI.norm(dim=-1, keepdim=True))).view(rows, inputs)
