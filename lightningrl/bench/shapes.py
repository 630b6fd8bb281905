"""Model shapes with random weights: speed does not need trained ones."""

from __future__ import annotations

import torch

from lightningrl.errors import ConfigError
from lightningrl.models.sdar import SDAR, ModelConfig


def _shape(
    vocab: int, hidden: int, inner: int, layers: int, heads: int, kv: int, head_dim: int, positions: int
) -> dict[str, int | float]:
    return {
        "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": head_dim,
        "max_position_embeddings": positions, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "initializer_range": 0.02,
    }  # fmt: skip


SHAPES = {
    "miniature": _shape(400, 128, 384, 3, 4, 2, 32, 1024),
    "0.1b": _shape(16384, 768, 2048, 12, 12, 4, 64, 4096),
    "0.3b": _shape(32768, 1024, 3072, 16, 16, 8, 64, 4096),
    "1.7b": _shape(151936, 2048, 6144, 28, 16, 8, 128, 32768),
    "4b": _shape(151936, 2560, 9728, 36, 32, 8, 128, 32768),
    "8b": _shape(151936, 4096, 12288, 36, 32, 8, 128, 32768),
}
"""By size; the last three are the official SDAR's."""


def random_model(size: str, block_size: int, dtype: torch.dtype, device: torch.device | str, seed: int = 0) -> SDAR:
    """A model of a shape, weights N(0, 0.02) made where they are used. Raises ConfigError for a size there is not."""
    if size not in SHAPES:
        raise ConfigError(f"there is no size {size!r}; take one of {', '.join(SHAPES)}")
    shape = SHAPES[size]
    config = ModelConfig(**shape, block_size=block_size, mask_token_id=int(shape["vocab_size"]) - 1)  # type: ignore[arg-type]
    with torch.device("meta"):
        model = SDAR(config)
    model = model.to(dtype).to_empty(device=device).eval()
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=config.initializer_range, generator=generator)
    return model
