"""Round to nearest: every weight, and where asked every input, goes to the nearest value of its grid; without data."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field
from torch import nn

from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.models.transformer import Transformer
from lightningrl.quantization.inputs import TokenGrid, add_steps
from lightningrl.quantization.layerwise import NAMES
from lightningrl.quantization.protocol import Calibration
from lightningrl.quantization.uniform import BITS, UNROUNDED, attach, check_group, quantize_weight
from lightningrl.quantization.values import Bits


class RoundToNearest(BaseModel, frozen=True, strict=True):
    """The weights of linear layers, each on its own; embeddings and norms stay as they are.

    group: inputs that share a scale; 0: a whole output row. symmetric: which grid (see `quantization.uniform`). head:
    also the matrix of the logits. activation_bits: of the inputs of the linear layers inside the transformer's layers,
    rounded token by token on the same kind of grid, with nothing done against outliers; 16: as they are.
    """

    bits: int = Field(default=8, ge=BITS[0], le=BITS[-1])
    group: int = Field(default=0, ge=0)
    symmetric: bool = True
    head: bool = False
    activation_bits: Bits = UNROUNDED

    needs_calibration: ClassVar[bool] = False

    def check_inputs(self, inputs: int) -> None:
        check_group(self.group, inputs)

    def quantize(self, model: Transformer, calibration: Calibration) -> Transformer:
        """Returns the model with every linear layer quantised.

        Raises ConfigError where `group` does not fit a layer, or where `head` is asked of a head that is the embedding,
        and CheckpointError naming a layer whose weights are not finite.
        """
        if self.head and model.config.tie_word_embeddings:
            raise ConfigError("rtn: head is true, but this model's head is tied to its embedding, which stays as it is")
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear) and (self.head or layer is not model.lm_head):
                try:
                    attach(layer, quantize_weight(layer.weight, self.bits, self.group, self.symmetric))
                except (ConfigError, CheckpointError) as error:
                    raise type(error)(f"rtn: {name}: {error}") from None
        if self.activation_bits != UNROUNDED:
            for number in range(len(model.model.layers)):
                for each in NAMES:
                    add_steps(model, f"model.layers.{number}.{each}", [TokenGrid(self.activation_bits, self.symmetric)])
        return model
