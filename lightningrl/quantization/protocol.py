"""What a quantizer is: it takes a model and returns the same model with weights on a grid."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from lightningrl.errors import ConfigError
from lightningrl.models.transformer import Transformer
from lightningrl.utils.registry import resolve


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationSequence:
    """A train problem with its worked answer, as the model meets it."""

    prompt_ids: np.ndarray
    """[P] int64: the prompt through the chat template."""
    response_ids: np.ndarray
    """[S] int64: the answer, its end token, and pads up to the block grid."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The data that a quantizer may look at; of train problems only."""

    sequences: Sequence[CalibrationSequence] = field(default=())
    seed: int = 0
    """The seed of whatever the quantizer draws."""


class Quantizer(Protocol):
    """Made with its options as keyword arguments; raises ConfigError for a value out of range."""

    needs_calibration: bool
    """Whether it can do nothing without sequences."""

    def quantize(self, model: Transformer, calibration: Calibration) -> Transformer:
        """Returns the model, changed in place: each layer that is quantised has `quantized` (`quantization.uniform`)
        beside weights that equal its values. Raises ConfigError for a model that the options do not fit."""


def make_quantizer(reference: str, options: Mapping[str, Any]) -> Quantizer:
    """Returns the quantizer of a `module:attribute` with these options.

    Raises ConfigError for an option that it does not take, or a value out of range.
    """
    made = resolve(reference)
    known = inspect.signature(made).parameters
    if unknown := sorted(set(options) - set(known)):
        raise ConfigError(
            f"quantizer {reference.partition(':')[2]} has no option {unknown[0]!r}; its options are {', '.join(known)}"
        )
    try:
        return made(**options)
    except TypeError as error:
        raise ConfigError(f"quantizer {reference.partition(':')[2]}: {error}") from None
