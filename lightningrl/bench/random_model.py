"""Models with random weights: measurements of speed do not need trained ones."""

from __future__ import annotations

import torch

from lightningrl.bench.model_shape import SHAPES
from lightningrl.errors import ConfigError
from lightningrl.models.transformer import ModelConfig, Transformer


def random_model(
    size: str, block_size: int, dtype: torch.dtype, device: torch.device | str, seed: int = 0
) -> Transformer:
    """Returns a model of a size with weights N(0, 0.02), drawn on the device. Raises ConfigError for an unknown one."""
    if size not in SHAPES:
        raise ConfigError(f"there is no size {size!r}; take one of {', '.join(SHAPES)}")
    config = ModelConfig(**SHAPES[size], block_size=block_size, mask_token_id=SHAPES[size]["vocab_size"] - 1)
    with torch.device("meta"):
        model = Transformer(config)
    model = model.to(dtype).to_empty(device=device).eval()
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=config.initializer_range, generator=generator)
            else:
                parameter.fill_(1.0)
    return model
