"""A model's numbers by its shape: parameters, bytes a position of the KV cache, what a layer keeps for the backward.

No torch: the same counts as `models.transformer.ModelConfig` and `models.attention.PagedKV`, which tests hold equal.
Names: V vocabulary, H hidden, I intermediate, L layers, N query heads, M key/value heads, D head size, K block size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lightningrl.bench.sizes import SHAPES
from lightningrl.config.base import size_in
from lightningrl.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of an SDAR model.

    >>> Shape.of_size("8b", block_size=32).parameters
    8190735360
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    block_size: int

    @staticmethod
    def of(raw: Mapping[str, Any], block_size: int) -> Shape:
        """From the keys of a config.json. Raises KeyError for one that is missing."""
        names = [field.name for field in fields(Shape) if field.name != "block_size"]
        return Shape(**{name: int(raw[name]) for name in names}, block_size=block_size)

    @staticmethod
    def of_size(size: str, block_size: int) -> Shape:
        """Of `bench.sizes.SHAPES`. Raises ConfigError for a size there is not."""
        if size not in SHAPES:
            raise ConfigError(f"--model-size: found {size!r}, allowed: {', '.join(SHAPES)}")
        return Shape.of(SHAPES[size], block_size)

    @staticmethod
    def of_checkpoint(checkpoint: str, block_size: int) -> Shape:
        """Of a folder's config.json, or of an official size that a repository's name holds (`SDAR-8B-Chat-b32`).

        Raises ConfigError when neither says it.
        """
        path = Path(checkpoint) / "config.json"
        if path.is_file():
            try:
                return Shape.of(json.loads(path.read_text(encoding="utf-8")), block_size)
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{path} is no config.json of an SDAR model: {error!r}") from None
        named = size_in(checkpoint)
        if named not in SHAPES:
            raise ConfigError(
                f"the checkpoint {checkpoint!r} names no size: write it beside it in the config (`size: 8b`), or say "
                f"--model-size for the experiment's base; one of {', '.join(SHAPES)}"
            )
        return Shape.of_size(named, block_size)

    @property
    def query_numbers(self) -> int:
        """N D."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_numbers(self) -> int:
        """M D."""
        return self.num_key_value_heads * self.head_dim

    @property
    def layer_matrices(self) -> int:
        """2 H N D + 2 H M D + 3 H I: what every position is multiplied with in one layer."""
        h = self.hidden_size
        return 2 * h * self.query_numbers + 2 * h * self.key_numbers + 3 * h * self.intermediate_size

    @property
    def layer_parameters(self) -> int:
        """With the four norms' weights, 2 H + 2 D."""
        return self.layer_matrices + 2 * self.hidden_size + 2 * self.head_dim

    @property
    def trunk_matrices(self) -> int:
        return self.num_hidden_layers * self.layer_matrices

    @property
    def head_parameters(self) -> int:
        """V H; the embedding has as many, which cost memory and no arithmetic."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """2 V H + L (layer) + H (METHOD: the official sizes' counts follow from it)."""
        return 2 * self.head_parameters + self.num_hidden_layers * self.layer_parameters + self.hidden_size

    @property
    def kv_numbers(self) -> int:
        """2 L M D: keys and values of one position."""
        return 2 * self.num_hidden_layers * self.key_numbers

    @property
    def layer_activations(self) -> int:
        """Numbers a position that a layer keeps for backward: 6 H + 3 N D + 2 M D + 4 I + N + M + 2, and attention's.

        Both norms keep input and normalised input, the projections their input (6 H, 2 inverse scales); the norms of q
        and k input and normalised (2 N D + 2 M D, N + M scales), the output projection its input (N D); the gate, its
        SiLU, the up projection and their product (4 I). A fused attention keeps q, k, v, its output and a log-sum:
        2 N D + 2 M D + N.
        """
        h, q, k = self.hidden_size, self.query_numbers, self.key_numbers
        heads = self.num_attention_heads + self.num_key_value_heads
        own = 6 * h + 3 * q + 2 * k + 4 * self.intermediate_size + heads + 2
        return own + 2 * q + 2 * k + self.num_attention_heads

    @property
    def gathered_parameters(self) -> int:
        """Of what sharded training holds whole at a time: two layers (one computes, one comes), embedding and head."""
        return 2 * self.layer_parameters + 2 * self.head_parameters + self.hidden_size
