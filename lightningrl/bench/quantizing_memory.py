"""How many bytes quantising a model has on its device, at every point.

Points follow from how the code is built (quantization/layerwise.py): weights stay in the dtype that they are stored in;
the layer that is looked at is in float32, and there a second time as it was before it was rounded; hidden states of all
positions, in float32, go in and come out; codes go to the host. `tests/bench/test_quantizing_memory.py` holds the
formulas to counted bytes. Not counted: RoPE's tables, and what else does not grow with the model.

Names: T positions of the calibration; H hidden size; I the inputs of a linear layer; N D numbers of queries.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightningrl.bench.costs import MASTER
from lightningrl.bench.memory import DRAW_BYTES, DRAW_LOGITS, working_numbers
from lightningrl.bench.model_shape import Shape
from lightningrl.quantization.registry import SECOND_MOMENTS

MATRICES, SEARCHED_MATRICES = 6, 12
"""Float32 copies of a matrix that exist at the same time while it is rounded: itself, its codes, what moved; and while
AWQ looks for the ranges of its groups."""
MOMENTS_AT_ONCE = 6
"""Matrices of second moments at the same time: the sum, H, H with its damping, its inverse, and two factors."""
SAMPLED_ROWS = {"duquant": 4096, "awq": 1024}
"""Rows of inputs that rotations and ranges are chosen by, at most: twice those that are asked for."""
SEARCHED_COPIES = {"duquant": 5, "awq": 1}
"""Float32 copies of these rows of one group in a search, beside what is kept of each group."""

Parts = dict[str, float]


@dataclass(frozen=True, slots=True)
class QuantizingMemory:
    """A model, a method, and what it looks at, as far as the bytes depend on them."""

    shape: Shape
    method: str
    number_bytes: int
    """Bytes of a weight as it is stored."""
    positions: float = 0.0
    """T; 0: no data is looked at."""
    forward_positions: float = 0.0
    """Positions of the largest forward."""
    cached_positions: float = 0.0
    """Positions that the cache of the calibration has pages for."""
    open_positions: float = 0.0
    """Positions that a forward of the decoder may reveal, whose states are looked at; 0: there is no decoder."""
    group: int = 0
    """Weights that share a scale; 0: a row."""
    keeps_codes: bool = False
    """Whether the host's memory is the device's, so that the codes are there, too."""
    overhead: float = 0.0
    """What a device's libraries take."""

    @property
    def resident(self) -> Parts:
        """Returns what is there at all points."""
        return {"context, kernels": self.overhead, "weights": float(self.number_bytes * self.shape.parameters)}

    def points(self) -> dict[str, Parts]:
        """Returns what each point has, by what it is for, in the order in which they come."""
        added = {"decoding": self._decoding()} if self.open_positions else {}
        if self.positions:
            added |= {"forwards of a layer": self._walking(), "rounding a layer": self._rounding()}
            if self.method == "awq":
                added["search of scales"] = self._searching()
        else:
            added["rounding a layer"] = self._codes() | {"matrices at work": self._matrices}
        found = {name: self.resident | parts for name, parts in added.items()}
        return {name: {part: size for part, size in parts.items() if size} for name, parts in found.items()}

    def totals(self) -> dict[str, float]:
        """Returns the bytes of each point."""
        return {name: sum(parts.values()) for name, parts in self.points().items()}

    def _decoding(self) -> Parts:
        shape, c = self.shape, self.number_bytes
        pages = self.cached_positions * shape.kv_numbers * c
        forward = self._forward(c) + pages / shape.num_hidden_layers
        draws = DRAW_BYTES * min(DRAW_LOGITS, self.open_positions * shape.vocab_size)
        return {"KV pages": pages, "a forward's tensors": forward, "draws": draws}

    def _walking(self) -> Parts:
        shape, found = self.shape, self._layer() | self._codes() | self._states(2)
        if self.method in SECOND_MOMENTS:
            found["second moments"] = MASTER * self._widest**2
        if self.method in SAMPLED_ROWS:
            found["sampled inputs"] = self._sampled
        # The errors of a linear layer: its outputs as they were, and as they are.
        errors = 3 * MASTER * self.forward_positions * max(shape.intermediate_size, shape.query_numbers)
        return found | {"a forward's tensors": self._forward(MASTER), "outputs that are compared": errors}

    def _rounding(self) -> Parts:
        found = self._layer() | self._codes() | self._states(1 + (self.method in ("awq", "smoothquant")))
        if self.method in SECOND_MOMENTS:
            found["second moments"] = MOMENTS_AT_ONCE * MASTER * self._widest**2
        if self.method in SAMPLED_ROWS:
            copies = SEARCHED_COPIES[self.method] * MASTER * self._sampled_rows * self._widest
            found |= {"sampled inputs": self._sampled, "search of rotations or ranges": copies}
        return found | {"matrices at work": self._matrices}

    def _searching(self) -> Parts:
        """AWQ's inputs and outputs of one group: those of down are the most."""
        kept = MASTER * self.positions * (self.shape.intermediate_size + self.shape.hidden_size)
        found = self._layer() | self._codes() | self._states(1) | {"inputs and outputs of a group": kept}
        return found | {"a forward's tensors": self._forward(MASTER), "matrices at work": self._matrices}

    def _layer(self) -> Parts:
        """The layer in float32, and as it was before it was rounded; a layer of the cache."""
        shape = self.shape
        weights = shape.trunk_parameters / shape.num_hidden_layers
        cache = 2 * shape.key_numbers * self.cached_positions * MASTER
        return {"a layer in float32, twice": (2 * MASTER - self.number_bytes) * weights, "its KV pages": cache}

    def _states(self, copies: int) -> Parts:
        return {"hidden states": copies * MASTER * self.positions * self.shape.hidden_size}

    def _codes(self) -> Parts:
        """A byte a weight; a scale and a zero a group."""
        if not self.keeps_codes:
            return {}
        group = self.group or min(self.shape.hidden_size, self.shape.query_numbers)
        return {"codes": self.shape.trunk_matrices * (1 + (MASTER + 1) / group)}

    def _forward(self, number_bytes: int) -> float:
        return number_bytes * self.forward_positions * working_numbers(self.shape)

    @property
    def _widest(self) -> float:
        """The most inputs of a linear layer."""
        return max(self.shape.hidden_size, self.shape.query_numbers, self.shape.intermediate_size)

    @property
    def _matrices(self) -> float:
        copies = SEARCHED_MATRICES if self.method == "awq" else MATRICES
        return copies * MASTER * self.shape.hidden_size * max(self.shape.intermediate_size, self.shape.query_numbers)

    @property
    def _sampled_rows(self) -> float:
        return min(self.positions, SAMPLED_ROWS[self.method])

    @property
    def _sampled(self) -> float:
        """Those of all groups, which are taken by one pass."""
        widths = 2 * self.shape.hidden_size + self.shape.query_numbers + self.shape.intermediate_size
        return MASTER * self._sampled_rows * widths
