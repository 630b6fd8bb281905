"""The models that are pre-trained here (miniature): architectures and recipes."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from lightningrl.config.base import NAME
from lightningrl.config.section import Section


class Architecture(Section):
    """Shape of the transformer; the names are those of SDAR's `config.json`."""

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

    objective: str
    """The objective of the phase: `block_diffusion` (blocks, from clean past ones), `masked_next` (the same with block
    size 1), `masked` (a part of the whole response, as LLaDA and Dream), `next_token` (autoregressive, for models with
    shifted logits), or `module:attribute`."""
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


class WarmStart(Phase):
    """A stretch of training in which each token is predicted from those before it."""

    objective: str = "masked_next"


class Diffusion(Phase):
    """A stretch of training in which several masked tokens are predicted at once."""

    objective: str = "block_diffusion"


class Pretrain(Section):
    """From random weights to a block-diffusion model: an autoregressive warm start, then blocks."""

    UNKEYED = frozenset({"save_every"})

    autoregressive: WarmStart | None
    """The warm start: each position is predicted from a mask token and the clean past. null: there is none."""
    diffusion: Diffusion | None
    """Block size K; null: an autoregressive model is made. A base that is to be post-trained should have nothing left
    to gain from more of the same: let the rate decay, and look at what a run of the algorithm `supervised` still
    gains."""
    averaging: float = Field(0.99, ge=0, lt=1)
    """Decay a step of the exponential moving average of the weights over the last phase: what is validated and
    shipped."""
    validate_every: int = Field(250, gt=0)
    """Steps of the last phase between two validations, which the log and the metrics show; nothing depends on them."""
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

    @model_validator(mode="after")
    def _has_a_phase(self) -> Self:
        if self.autoregressive is None and self.diffusion is None:
            raise ValueError("both `autoregressive` and `diffusion` are null, so nothing is learnt")
        return self

    @property
    def phases(self) -> dict[str, Phase]:
        """The phases that there are, by name and in time."""
        both = {"autoregressive": self.autoregressive, "diffusion": self.diffusion}
        return {name: phase for name, phase in both.items() if phase is not None}


class PretrainedBase(Section):
    """A further base that is pre-trained here: another family of models, on the same problems, from which runs may
    start, and which systems decode. Of `model` and `pretrain` only what differs from the experiment's is given."""

    UNKEYED = frozenset({"name", "match_compute"})

    name: str = Field(pattern=NAME)
    """Names its folder and its policy in tables."""
    family: str = "sdar"
    """The `model_type` of its config.json: `sdar`, `llada`, `Dream`, `Fast_dLLM_Qwen`, `qwen2`, `llama`; it says how
    positions see each other, whether logits are shifted, and the format that the base is saved in."""
    model: Architecture
    """Shape of the base; what is left out is the experiment's."""
    pretrain: Pretrain
    """Its training; what is left out is the experiment's."""
    match_compute: str | None = None
    """Train the last phase, whatever its steps, until as many token-forwards are spent as in the pre-training of this
    one: `base`, or an earlier entry. Pads that fill up a forward count nothing, a backward counts as two."""

    @classmethod
    def over(cls, entries: Any, model: Architecture | None, pretrain: Pretrain | None) -> Any:
        """Returns the raw entries with what they leave out taken from the experiment's own sections."""
        own = {"model": model, "pretrain": pretrain}
        below = {key: section.model_dump(exclude_unset=True) for key, section in own.items() if section is not None}

        def merged(under: Any, over: Any) -> Any:
            if not (isinstance(under, dict) and isinstance(over, dict)):
                return over
            return under | {key: merged(under.get(key), value) for key, value in over.items()}

        return [merged(below, entry) if isinstance(entry, dict) else entry for entry in entries]
