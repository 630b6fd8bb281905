"""Round to nearest: every weight, and where asked every input, goes to the nearest value of its grid; without data."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import BaseModel, Field, model_validator
from torch import nn

from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.models.transformer import Transformer
from lightningrl.quantization.inputs import TokenGrid, add_steps
from lightningrl.quantization.layerwise import inner_linears
from lightningrl.quantization.protocol import Calibration
from lightningrl.quantization.uniform import Grid, attach, check_group, on_grid
from lightningrl.quantization.values import UNROUNDED, Bits


class NearestGrid(BaseModel, frozen=True, strict=True):
    """The options of a grid for weights.

    group: inputs that share a scale; 0: a whole output row. symmetric: with as many codes on both sides of 0, as of
    `gptq` (`wide`), or the asymmetric grid. narrow: of symmetric grids the one on which the greatest weight lies, as of
    `smoothquant`; it has a code less (see `quantization.uniform`).
    """

    bits: Bits = 8
    group: int = Field(default=0, ge=0)
    symmetric: bool = True
    narrow: bool = False

    needs_calibration: ClassVar[bool] = False

    @model_validator(mode="after")
    def _check_narrow(self) -> Self:
        if self.narrow and not self.symmetric:
            raise ValueError("narrow is true, and it is of symmetric grids: leave it out, or symmetric")
        return self

    @property
    def grid(self) -> Grid:
        kind = "asymmetric" if not self.symmetric else "symmetric" if self.narrow else "wide"
        return Grid(bits=self.bits, kind=kind)

    def check_inputs(self, inputs: int) -> None:
        check_group(self.group, inputs)


class RoundToNearest(NearestGrid, frozen=True, strict=True):
    """See `NearestGrid`. head: also the matrix of the logits. activation_bits: of the inputs of the linear layers
    inside the transformer's layers, rounded token by token over their own range, `symmetric` or not, with nothing done
    against outliers; 16: as they are."""

    head: bool = False
    activation_bits: Bits = UNROUNDED

    def quantize(self, model: Transformer, calibration: Calibration) -> Transformer:
        """Returns the model with the linear layers inside its layers quantised.

        Raises ConfigError where `group` does not fit a layer, or where `head` is asked of a head that is the embedding,
        and CheckpointError naming a layer whose weights are not finite.
        """
        if self.head and model.config.tie_word_embeddings:
            raise ConfigError("rtn: head is true, but this model's head is tied to its embedding, which stays as it is")
        if self.bits != UNROUNDED:
            for name, linear in inner_linears(model):
                self._round(linear, name)
            if self.head:
                self._round(model.lm_head, "lm_head")
        if self.activation_bits != UNROUNDED:
            for name, _ in inner_linears(model):
                add_steps(model, name, [TokenGrid(self.activation_bits, self.symmetric)])
        return model

    def _round(self, linear: nn.Linear, name: str) -> None:
        try:
            attach(linear, on_grid(linear.weight, self.grid, self.group))
        except (ConfigError, CheckpointError) as error:
            raise type(error)(f"rtn: {name}: {error}") from None
