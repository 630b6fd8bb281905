"""What a file of this folder says about a family of checkpoints: its config.json, weights' names and attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from lightningrl.models.transformer import ModelConfig

Attention = Literal["block_causal", "full", "causal"]
"""How far a position sees: to the end of its block, of the canvas, or to itself."""


class Family(Protocol):
    """Checkpoints that one `model_type` of config.json stands for. All are computed by `models.transformer`."""

    def shape(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of `ModelConfig` that the file states, and those that are the family's own.

        A field that the file lacks is left out: no default stands in for it. Raises ValueError naming the key, for a
        variant that the transformer does not compute.
        """

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        """What config.json says of a model of this shape, dtype and token ids aside."""

    def stored_name(self, name: str) -> str:
        """What the checkpoint's files call a weight of `models.transformer.Transformer`."""
