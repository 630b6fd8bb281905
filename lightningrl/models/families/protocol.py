"""A family of checkpoints: its config.json, its weights' names and how far a position sees, mostly in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from lightningrl.models.transformer import ModelConfig

Attention = Literal["block_causal", "full", "causal"]
"""How far a position sees: to the end of its block, of the canvas, or to itself."""
NO_MASK = -1
"""The mask token of a family that has none: no id, so that whoever would compute with it fails at once."""


class Family:
    """Checkpoints that one `model_type` of config.json stands for. All are computed by `models.transformer`."""

    keys: ClassVar[Mapping[str, str]]
    """Field of `ModelConfig` -> the file's key for it. One that the file lacks is left out: no default stands in."""
    facts: ClassVar[Mapping[str, Any]]
    """The fields of `ModelConfig` that are the family's own."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Fields that are no property of these checkpoints: what they are where neither the file nor the caller says."""
    stop_tokens: ClassVar[Sequence[str]] = ()
    """Tokens that end a response, beside the tokenizer's end and pad and those of generation_config.json."""
    variants: ClassVar[Mapping[str, Any]] = {}
    """Keys that would change the model -> the only value that the transformer computes."""
    written: ClassVar[Mapping[str, Any]] = {}
    """What config.json says besides."""

    def shape(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of `ModelConfig`, from the file and the family. Raises ValueError naming a key of a variant."""
        for key, value in self.variants.items():
            if raw.get(key, value) != value:
                raise ValueError(f"{key} is {raw[key]!r}; this model class has {value!r} only")
        return {field: raw[key] for field, key in self.keys.items() if raw.get(key) is not None} | {**self.facts}

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        """What config.json says of a model of this shape, dtype and token ids aside."""
        return {key: getattr(config, field) for field, key in self.keys.items()} | {**self.written}

    def stored_name(self, name: str) -> str:
        """What the checkpoint's files call a weight of `models.transformer.Transformer`."""
        return name
