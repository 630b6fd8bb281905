"""The model and its pre-training (miniature): architecture and recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from lightningrl.config.section import Section


class Architecture(Section):
    """Shape of the SDAR transformer; the names are those of its `config.json`."""

    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0, multiple_of=2)
    max_position_embeddings: int = Field(256, gt=0)
    """Longest sequence in tokens, prompt and response."""
    rope_theta: float = Field(1e6, gt=0)
    rms_norm_eps: float = Field(1e-6, gt=0)
    block_size: int = Field(gt=0)
    """K: tokens denoised together."""

    @property
    def widths(self) -> set[int]:
        """The numbers of inputs that its linear layers have, the head's included."""
        return {self.hidden_size, self.intermediate_size, self.num_attention_heads * self.head_dim}

    @model_validator(mode="after")
    def _heads(self) -> Architecture:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of num_key_value_heads "
                f"({self.num_key_value_heads})"
            )
        return self


class Phase(Section):
    """A stretch of supervised training."""

    steps: int = Field(gt=0)
    """Optimiser steps."""
    sequences: int = Field(gt=0)
    """Sequences an optimiser step."""
    copies: int = Field(1, gt=0)
    """Noisy copies of each block a sequence is trained with."""
    rate: float = Field(1.0, gt=0)
    """Factor of the learning rates."""
    decay: float = Field(0.0, ge=0, le=1)
    """Share of the phase, at its end, over which the learning rates fall linearly to zero."""


class Pretrain(Section):
    """From random weights to a block-diffusion model: an autoregressive warm start, then blocks."""

    UNKEYED = frozenset({"save_every"})

    autoregressive: Phase
    """Block size 1: each position is predicted from a mask token and the clean past."""
    diffusion: Phase
    """Block size K. A base that is to be post-trained should have nothing left to gain from more of the same: let the
    rate decay, and look at what a run of the algorithm `supervised` still gains."""
    averaging: float = Field(0.99, ge=0, lt=1)
    """Decay a step of the exponential moving average of the weights over the diffusion phase: what is validated and
    shipped."""
    validate_every: int = Field(250, gt=0)
    """Diffusion steps between two validations, which the log and the metrics show; nothing depends on them."""
    learning_rate: float = Field(3e-3, gt=0)
    """AdamW: embeddings, head, norms."""
    muon_learning_rate: float = Field(5e-3, gt=0)
    """Muon: the matrices of the layers."""
    warmup_steps: int = Field(20, ge=0)
    mixture: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Share of each benchmark in a batch; empty: equal shares."""
    microbatch: int = Field(8, gt=0)
    """Sequences a forward; changes memory and speed, not results (beyond rounding)."""
    save_every: int = Field(50, gt=0)
    """Optimiser steps between two resumable states."""
