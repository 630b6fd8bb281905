"""The transformer of every family: pre-norm blocks, grouped-query attention with RoPE, SwiGLU, RMSNorm.

What families differ in are flags of `ModelConfig`: RMSNorm on each head's queries and keys, biases, a head tied to the
embedding, scaled RoPE. How positions see each other is not decided here: `hidden` takes an `attend` object
(models/attention.py). The logit at a masked position predicts the token of that same position, or, where the config
says `logit_shift`, that of the next one. Parameter names are those of SDAR's official checkpoints and of Hugging Face's
`Qwen3ForCausalLM`; a family says what its files call them (models/families/).

Shapes: B rows; Q positions of a forward; H hidden size; N query heads; M key/value heads; D head size; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightningrl.models.families.protocol import NO_MASK
from lightningrl.models.families.protocol import Attention as AttentionPattern
from lightningrl.models.linear import Linear
from lightningrl.models.planner import TIMESTEP_SIZE, Planner
from lightningrl.models.rope import Llama3Rope, frequencies

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of a model, and the facts about it that decoding needs."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    initializer_range: float
    block_size: int
    """K: tokens denoised together; mandatory here, absent from the official hub files."""
    mask_token_id: int
    """The token that stands for a masked position; `families.protocol.NO_MASK` where the family has none."""
    family: str = "sdar"
    """The `model_type` of its config.json."""
    attention: AttentionPattern = "block_causal"
    """How far a position sees."""
    qk_norm: bool = True
    """RMSNorm on each head's queries and keys before RoPE."""
    qkv_bias: bool = False
    """The projections of queries, keys and values have biases."""
    tie_word_embeddings: bool = False
    """The head's weight is the embedding's."""
    logit_shift: bool = False
    """The logits at a position predict the token of the next one, masked or not, as in an autoregressive model. The
    first position is predicted by none: it must be given."""
    rope_scaling: Llama3Rope | None = None
    """How RoPE's frequencies are scaled."""
    has_planner: bool = False
    """A head beside the vocabulary's says which positions are revealed (dUltra; models/planner.py)."""

    @property
    def has_mask(self) -> bool:
        """Whether a token stands for masked positions."""
        return self.mask_token_id != NO_MASK

    @property
    def num_parameters(self) -> int:
        """The number of all weights; a tied head counts once."""
        heads, kv, size, h = self.num_attention_heads, self.num_key_value_heads, self.head_dim, self.hidden_size
        layer = 2 * h * heads * size + 2 * h * kv * size + 3 * h * self.intermediate_size + 2 * h
        layer += 2 * size * self.qk_norm + (heads + 2 * kv) * size * self.qkv_bias
        planner = layer + h * (TIMESTEP_SIZE + 1) + h * (h + 1) + 4 * h * (h + 1) + 2 * h + h + 1
        whole = (2 - self.tie_word_embeddings) * self.vocab_size * h + self.num_hidden_layers * layer + h
        return whole + planner * self.has_planner


class Attend(Protocol):
    """One forward's way of attending: called once a layer with that layer's rotated queries and keys."""

    def __call__(self, layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
        """Returns (B, N, Q, D)."""
        ...


class Attention(nn.Module):
    """Projections, head norms and RoPE; the mixing itself is `attend`'s."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        h, size, kv = config.hidden_size, config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(h, config.num_attention_heads * size, bias=config.qkv_bias)
        self.k_proj = Linear(h, kv, bias=config.qkv_bias)
        self.v_proj = Linear(h, kv, bias=config.qkv_bias)
        self.o_proj = Linear(config.num_attention_heads * size, h)
        self.q_norm = nn.RMSNorm(size, eps=config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(size, eps=config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.rounding: nn.Module | None = None
        """What rounds queries, keys and values before they are used and kept (quantization/attended.py)."""

    def forward(self, x_BQH: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        rows, length, _ = x_BQH.shape
        shape = (rows, length, -1, self.head_dim)
        q_BNQD = rotate(self.q_norm(self.q_proj(x_BQH).view(shape)).transpose(1, 2), rotation)
        k_BMQD = rotate(self.k_norm(self.k_proj(x_BQH).view(shape)).transpose(1, 2), rotation)
        v_BMQD = self.v_proj(x_BQH).view(shape).transpose(1, 2)
        if self.rounding is not None:
            q_BNQD, k_BMQD, v_BMQD = self.rounding(q_BNQD, k_BMQD, v_BMQD)
        mixed_BNQD = attend(self.layer, q_BNQD, k_BMQD, v_BMQD)
        return self.o_proj(mixed_BNQD.transpose(1, 2).reshape(rows, length, -1))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """Embedding, layers and final norm: the checkpoint's `model.` prefix."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class Transformer(nn.Module):
    """The whole model. Weights start as N(0, initializer_range) from torch's global generator."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.planner = Planner(config, Layer(config, 0)) if config.has_planner else None
        self.usable_vocab = config.vocab_size
        """Ids from here on are padding rows that no tokenizer token uses (len(tokenizer)); never drawn."""
        self.checkpoint_activations = False
        """Keep only each layer's input for the backward pass and compute the layer again there: less memory, one more
        forward of the trunk."""
        self._rotations: tuple[Tensor, Tensor] | None = None
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        self.tie()

    def tie(self) -> None:
        """Make the head's weight the embedding's, where the config says so."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def weights(self) -> dict[str, Tensor]:
        """The state dict without a tied head, whose weight is there as the embedding's."""
        state = self.state_dict()
        if self.config.tie_word_embeddings:
            del state["lm_head.weight"]
        return state

    def load_weights(self, weights: Mapping[str, Tensor], *, assign: bool = False) -> None:
        """Take what `weights` gave, of a model of this shape. assign: as it is, not copied into what is there."""
        tied = {"lm_head.weight": weights["model.embed_tokens.weight"]} if self.config.tie_word_embeddings else {}
        self.load_state_dict({**weights, **tied}, assign=assign)
        self.tie()

    def forward(self, compute: Callable[[Transformer], T]) -> T:
        """compute(self). Whole computations go through here in training: where weights are sharded over processes,
        what gathers them for a forward is hooked to this call."""
        return compute(self)

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    def hidden(self, ids_BQ: Tensor, positions_BQ: Tensor, attend: Attend) -> Tensor:
        """Final hidden states (B, Q, H) of tokens `ids` at absolute `positions`."""
        x_BQH = self.model.embed_tokens(ids_BQ)
        rotation = self._rotation(positions_BQ, x_BQH.dtype)
        again = self.checkpoint_activations and torch.is_grad_enabled()
        for layer in self.model.layers:
            if again:
                x_BQH = checkpoint(layer, x_BQH, rotation, attend, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BQH = layer(x_BQH, rotation, attend)
        return self.model.norm(x_BQH)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., V), unnormalised, nats."""
        return self.lm_head(hidden)

    def log_probs(self, hidden: Tensor, temperature: float | Tensor = 1.0, bans: bool = True) -> Tensor:
        """(..., H) -> (..., V) log softmax(logits / temperature) in float32 at least, nats.

        temperature: one for all, or a tensor that broadcasts against (..., V). The mask token and the padding rows of
        the vocabulary have probability 0: they are never drawn, in the decoder as in the trainer, which share this.
        bans: False gives every row of the vocabulary its probability, as some published losses do.
        """
        logits = self.logits(hidden)
        if not bans:
            return log_probs_of(logits, temperature, self.config.vocab_size, None)
        return log_probs_of(logits, temperature, self.usable_vocab, self.config.mask_token_id)

    def plan(self, hidden_BLH: Tensor, timestep_B: Tensor, open_BL: Tensor) -> Tensor:
        """(B, L) the planner's logits over whole canvases, positions 0 to L - 1 of each; see `Planner.forward`."""
        assert self.planner is not None, "only a model with `has_planner` plans"
        hidden_BLH = hidden_BLH.to(self.planner.mask_linear.weight.dtype)
        positions_1L = torch.arange(hidden_BLH.shape[1], device=hidden_BLH.device)[None]
        return self.planner(hidden_BLH, timestep_B, open_BL, self._rotation(positions_1L, hidden_BLH.dtype))

    def add_planner(self, generator: torch.Generator) -> None:
        """Give a model that has none a planner with first weights of the generator's, in float32 at least."""
        dtype = torch.promote_types(self.lm_head.weight.dtype, torch.float32)
        planner = Planner(self.config, Layer(self.config, 0)).to(self.device, dtype)
        planner.initialise(generator)
        self.planner, self.config = planner, replace(self.config, has_planner=True)

    def _rotation(self, positions_BQ: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        cos, sin = self.rotations(dtype, positions_BQ.device)
        return cos[positions_BQ].unsqueeze(1), sin[positions_BQ].unsqueeze(1)

    def rotations(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """RoPE's cosines and sines of all positions, (T, D) each, kept for the next call."""
        cached = self._rotations
        if cached is None or cached[0].dtype != dtype or cached[0].device != device:
            # The angles are computed in float64 whatever the model's precision, then rounded once.
            frequency = frequencies(self.config.head_dim, self.config.rope_theta, self.config.rope_scaling)
            angle = torch.arange(self.config.max_position_embeddings, dtype=torch.float64)[:, None] * frequency
            angle = torch.cat([angle, angle], dim=-1).to(device)
            cached = self._rotations = angle.cos().to(dtype), angle.sin().to(dtype)
        return cached


def log_probs_of(
    logits: Tensor, temperature: float | Tensor, usable_vocab: int, mask_token_id: int | None
) -> Tensor:  # fmt: skip
    """log softmax(logits / temperature) in float32 at least; see `Transformer.log_probs`. None: no mask is banned."""
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    banned = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    if usable_vocab < len(banned):
        banned[usable_vocab:] = True
    if mask_token_id not in (None, NO_MASK):
        banned[mask_token_id] = True
    return (logits / temperature).masked_fill(banned, float("-inf")).log_softmax(dim=-1)


def rotate(x_BNQD: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """RoPE in the half-split (NeoX) form over the whole head."""
    cos_B1QD, sin_B1QD = rotation
    first, second = x_BNQD.chunk(2, dim=-1)
    return x_BNQD * cos_B1QD + torch.cat([-second, first], dim=-1) * sin_B1QD
