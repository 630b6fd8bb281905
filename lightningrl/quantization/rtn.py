"""Round to nearest: every weight goes to the nearest value of its group's grid; no data is looked at."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lightningrl.errors import ConfigError
from lightningrl.models.transformer import Transformer
from lightningrl.quantization.protocol import Calibration
from lightningrl.quantization.uniform import BITS, attach, quantize_weight


@dataclass(frozen=True, slots=True)
class RoundToNearest:
    """The weights of linear layers, each on its own; embeddings and norms stay as they are.

    bits: 2 to 8. group: inputs that share a scale; 0: a whole output row. symmetric: which grid (see
    `quantization.uniform`). head: also the matrix of the logits.
    """

    bits: int = 8
    group: int = 0
    symmetric: bool = True
    head: bool = False

    needs_calibration = False

    def __post_init__(self) -> None:
        if type(self.bits) is not int or self.bits not in BITS:
            raise ConfigError(f"rtn: bits is {self.bits!r}, expected a whole number from {BITS[0]} to {BITS[-1]}")
        if type(self.group) is not int or self.group < 0:
            raise ConfigError(f"rtn: group is {self.group!r}, expected 0 (a whole row) or a number of inputs")
        for name in ("symmetric", "head"):
            if type(getattr(self, name)) is not bool:
                raise ConfigError(f"rtn: {name} is {getattr(self, name)!r}, expected true or false")

    def quantize(self, model: Transformer, calibration: Calibration) -> Transformer:
        """Returns the model with every linear layer quantised.

        Raises ConfigError where `group` does not fit a layer, or where `head` is asked of a head that is the embedding.
        """
        if self.head and model.config.tie_word_embeddings:
            raise ConfigError("rtn: head is true, but this model's head is tied to its embedding, which stays as it is")
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear) and (self.head or layer is not model.lm_head):
                try:
                    attach(layer, quantize_weight(layer.weight, self.bits, self.group, self.symmetric))
                except ConfigError as error:
                    raise ConfigError(f"rtn: {name}: {error}") from None
        return model
