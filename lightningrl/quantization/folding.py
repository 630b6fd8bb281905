"""Scales moved from a layer's inputs into the weights before and behind it: the model computes what it computed.

Shapes: O, I outputs and inputs of a linear layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightningrl.errors import ConfigError


@torch.no_grad()
def divide_rows(before: nn.Module, scale_I: Tensor) -> None:
    """Divides what a norm or a linear layer gives; of a linear layer with more outputs, the last ones."""
    if isinstance(before, nn.RMSNorm):
        assert before.weight is not None
        before.weight.div_(scale_I.to(before.weight))
        return
    assert isinstance(before, nn.Linear)
    before.weight[-len(scale_I) :].div_(scale_I.to(before.weight).unsqueeze(1))
    if before.bias is not None:
        before.bias[-len(scale_I) :].div_(scale_I.to(before.bias))


@torch.no_grad()
def multiply_inputs(behind: nn.Module, scale_I: Tensor) -> None:
    """Multiplies the columns of a linear layer, whose inputs have been divided."""
    assert isinstance(behind, nn.Linear)
    behind.weight.mul_(scale_I.to(behind.weight))


@torch.no_grad()
def fuse_norm(norm: nn.Module, *behind: nn.Module) -> None:
    """Moves a norm's weight into the linear layers behind it; the norm's becomes 1."""
    assert isinstance(norm, nn.RMSNorm) and norm.weight is not None
    for linear in behind:
        multiply_inputs(linear, norm.weight)
    norm.weight.fill_(1)


def check_untied(is_tied: bool, method: str) -> None:
    """Raises ConfigError for a head that is the embedding: one cannot be rotated without the other."""
    if is_tied:
        raise ConfigError(
            f"{method}: this model's head is tied to its embedding, and the final norm's weight can only be fused into "
            "a head of its own: take gptq, awq, smoothquant or duquant"
        )
