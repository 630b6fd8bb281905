"""What a quantizer is: it takes a model and returns the same model with weights on a grid."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from pydantic import ValidationError

from lightningrl.errors import ConfigError
from lightningrl.models.attention import PagedSpan
from lightningrl.models.transformer import ModelConfig, Transformer
from lightningrl.utils.registry import resolve


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationSequence:
    """A train problem with its worked answer, as the model meets it."""

    prompt_ids: np.ndarray
    """[P] int64: the prompt through the chat template."""
    response_ids: np.ndarray
    """[S] int64: the answer, its end token, and pads up to the block grid."""


class Opened(NamedTuple):
    """What a decoder may reveal after a forward: n positions of all rows."""

    at_n: np.ndarray
    """int64: where among the forward's N positions the one lies whose state predicts each."""
    revealed_n: np.ndarray
    """bool: those that it reveals."""


@dataclass(frozen=True, slots=True, eq=False)
class Forward:
    """One forward of the model: which positions of which rows are computed, from which tokens."""

    ids_N: np.ndarray
    """int64: the tokens, the mask token where a position is masked."""
    spans: Sequence[PagedSpan]
    """Where they stand, which keys each of them sees, and where its own key and value go; N positions in all."""
    opened: Opened | None = None
    """None: nothing may be revealed, or no decoder is there to say what."""

    @property
    def positions_N(self) -> np.ndarray:
        """int64: where each stands in its row."""
        return np.concatenate([span.positions_GQ.ravel() for span in self.spans])


@dataclass(frozen=True, slots=True, eq=False)
class Copied:
    """Keys and values that were copied between two forwards."""

    sources_N: np.ndarray
    targets_N: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The data that a quantizer may look at; of train problems only."""

    sequences: Sequence[CalibrationSequence] = field(default=())
    seed: int = 0
    """The seed of whatever the quantizer draws."""
    forwards: Sequence[Forward | Copied] = field(default=())
    """The forwards whose activations are looked at, in order: a later one may see the keys of an earlier one."""
    pages: int = 0
    """Pages of the cache that they write to."""
    page_tokens: int = 1

    @property
    def tokens(self) -> int:
        """Positions that are computed, each time."""
        return sum(len(each.ids_N) for each in self.forwards if isinstance(each, Forward))


EXPECTED = "expected a class with `needs_calibration` and the method `quantize` (lightningrl/quantization/protocol.py)"


class Quantizer(Protocol):
    """Made with its options as keyword arguments; a pydantic model says itself which values are in range.

    It may have `check_inputs(inputs)`, which raises ConfigError where a layer of so many inputs does not fit the
    options, and `check_shape(config)`, which raises it where a model of such a `ModelConfig` does not: `lightningrl
    validate` asks them about a model that is not there yet.
    """

    needs_calibration: bool
    """Whether it can do nothing without data."""

    def quantize(self, model: Transformer, calibration: Calibration) -> Transformer:
        """Returns the model, changed in place: each layer that is quantised has `quantized` (`quantization.uniform`)
        beside weights that equal its values. Raises ConfigError for a model that the options do not fit."""
        ...


def find_quantizer(reference: str, where: str = "quantizer") -> Any:
    """Returns the class of quantizers, or the function that makes one, that `module:attribute` names.

    Raises ConfigError, which begins with `where`, for anything else.
    """
    made = resolve(reference, where)
    if not callable(made) or (isinstance(made, type) and not hasattr(made, "quantize")):
        raise ConfigError(f"{where}: {reference} is no quantizer; {EXPECTED}")
    return made


def make_quantizer(reference: str, options: Mapping[str, Any]) -> Quantizer:
    """Returns the quantizer of a `module:attribute` with these options.

    Raises ConfigError for what is no quantizer, for an option that it does not take, or a value out of range.
    """
    made, name = find_quantizer(reference), f"quantizer {reference.partition(':')[2]}"
    try:
        known = inspect.signature(made).parameters
        if unknown := sorted(set(options) - set(known)):
            raise ConfigError(f"{name} has no option {unknown[0]!r}; its options are {', '.join(known)}")
        quantizer = made(**options)
    except ValidationError as error:
        raise ConfigError(f"{name}: {'; '.join(map(_told, error.errors()))}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {error}") from None
    if not (hasattr(quantizer, "quantize") and hasattr(quantizer, "needs_calibration")):
        raise ConfigError(f"{name} made {quantizer!r}; {EXPECTED}")
    return quantizer


def _told(error: Mapping[str, Any]) -> str:
    """Says what is wrong with an option, or with several together."""
    told = str(error["msg"]).removeprefix("Value error, ")
    return f"{'.'.join(map(str, error['loc']))} is {error['input']!r}: {told}" if error["loc"] else told


def check_widths(quantizer: Quantizer, widths: Iterable[int]) -> None:
    """Raises ConfigError where a quantizer says that layers with so many inputs do not fit its options."""
    check = getattr(quantizer, "check_inputs", lambda inputs: None)
    for width in sorted(widths):
        check(width)


def check_shape(quantizer: Quantizer, config: ModelConfig) -> None:
    """Raises ConfigError where a quantizer says that a model of this shape does not fit its options."""
    heads = config.num_attention_heads * config.head_dim
    getattr(quantizer, "check_shape", lambda config: None)(config)
    check_widths(quantizer, {config.hidden_size, config.intermediate_size, heads})
