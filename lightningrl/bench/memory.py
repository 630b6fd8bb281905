"""How many bytes a training has on each device, at every point from loading to saving.

A point is a moment of a step with what is alive then, by what it is for; a training fits where the largest does. The
terms follow from how the code is built: FSDP2 (training/shards.py) gathers the embedding and the head for a whole
forward and backward, and the layers one after another; gradients are reduced group by group through a float32 buffer,
that of embedding and head when the activations are gone. The pool of the KV cache is there in rollouts and validations
only. `tests/bench/test_memory.py` holds the formulas to counted bytes.

Where one process trains in float32 nothing is sharded, and the decoder shares the policy's weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightningrl.bench.costs import MASTER, MOMENTS, activation_bytes
from lightningrl.bench.model_shape import Shape

HEAD_COPIES = 3
"""The float32 tables of a chunk of the head that exist at the same time: logits, log-softmax, gradient."""
HEAD_LOGITS = 1 << 24
"""Logits that training computes at once (models/head.py)."""
DRAW_LOGITS = 1 << 25
"""Logits that the decoder draws from at once (decoding/sampler.py)."""
DRAW_BYTES = 36
"""Bytes a logit while tokens are drawn: four tables in float32, two in float64 and the logits themselves."""
OVERHEAD = 1_500_000_000
"""CUDA's context, NCCL's buffers and Triton's kernels on each GPU (assumed); none on a processor."""
FLIGHT = 3
"""Layers whose gathered weights exist at the same time: one computes, and the flat buffers of it and of the next."""

Parts = dict[str, float]


@dataclass(frozen=True, slots=True)
class FrozenModel:
    """A further model that scores responses (`Algorithm.checkpoints`): whole in every process, in the type of
    forwards."""

    role: str
    shape: Shape
    positions: float
    """Token positions of its largest forward."""


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """A training on several devices, as far as its bytes depend on it."""

    shape: Shape
    devices: int
    number_bytes: int
    """Bytes of a number in forwards."""
    positions: float
    """Token positions of the largest forward of an update."""
    pool: float
    """Bytes of the KV cache."""
    rows: int
    """Rows that decode together at most."""
    has_value_model: bool = False
    has_average: bool = False
    has_reference: bool = True
    """Whether a frozen base is held (`needs_reference`)."""
    checkpointed: bool = True
    overhead: float = OVERHEAD
    beside: tuple[FrozenModel, ...] = ()
    """The algorithm's models beside policy and base."""

    @property
    def is_sharded(self) -> bool:
        return self.devices > 1 or self.number_bytes < MASTER

    @property
    def resident(self) -> Parts:
        """Returns what stays on a device at all points of a step."""
        shape, n = self.shape, self.devices
        whole, own = self.number_bytes * shape.parameters, shape.parameters / n
        found: Parts = {"context, communication, kernels": self.overhead} if self.overhead else {}
        if self.has_average:
            found["weight average"] = MASTER * own
        if self.has_value_model:
            of_value = (shape.parameters - shape.head_parameters + shape.hidden_size) / n
            found["value model and its moments"] = (MASTER + MOMENTS) * of_value
        found |= {each.role: float(self.number_bytes * each.shape.parameters) for each in self.beside}
        if not self.is_sharded:
            reference = {"reference": float(MASTER * shape.parameters)} if self.has_reference else {}
            return found | {"weights": whole, "Adam's moments": MOMENTS * shape.parameters} | reference
        return found | {
            "fp32 master, a shard": MASTER * own,
            "Adam's moments, a shard": MOMENTS * own,
            **({"reference, a shard": whole / n} if self.has_reference else {}),
            "decode replica": whole,
        }

    def points(self) -> dict[str, Parts]:
        """Returns what each point has on a device, by what it is for, in the order in which a step meets them."""
        stays = self.resident
        found = self._loading() | {name: stays | added for name, added in self._step().items()}
        return {name: {part: size for part, size in parts.items() if size} for name, parts in found.items()}

    def totals(self) -> dict[str, float]:
        """Returns the bytes of each point."""
        return {name: sum(parts.values()) for name, parts in self.points().items()}

    def _loading(self) -> dict[str, Parts]:
        """Weights are read one by one, into shards; the moments are made by the first update."""
        resident, found, alive = self.resident, {}, {}
        order = {
            "load: policy": ("weights", "fp32 master, a shard"),
            "load: reference": ("reference", "reference, a shard"),
            "load: decode replica": ("decode replica",),
            **{f"load: {each.role}": (each.role,) for each in self.beside},
            "load: value model": ("value model and its moments",),
        }
        start = {name: size for name, size in resident.items() if name == "context, communication, kernels"}
        for point, parts in order.items():
            own = {name: size for name, size in resident.items() if name in parts}
            if not own:
                continue
            if "value" in point:
                own = {"value model": sum(own.values()) * MASTER / (MASTER + MOMENTS)}
            alive |= own
            is_gathered = "replica" in point
            found[point] = start | alive | {"a weight on its way": self._one_weight if is_gathered else self._one_read}
        return found

    @property
    def _one_weight(self) -> float:
        """The largest weight, gathered from its shards: its shard in the type of forwards, and the whole three times,
        in what the collective fills, what is put together from it, and what waits for it. The collective of the weight
        before it, one of a layer, may not have let go of its buffers yet."""
        if not self.is_sharded:
            return 0.0
        before = self.shape.hidden_size * max(self.shape.intermediate_size, self.shape.query_numbers)
        own = self.shape.head_parameters * (3 + 1 / self.devices)
        return self.number_bytes * (own + before * (1 + 1 / self.devices))

    @property
    def _one_read(self) -> float:
        """The rows of the largest weight that a process reads."""
        return MASTER * self.shape.head_parameters / self.devices

    def _step(self) -> dict[str, Parts]:
        average = {"the weights behind the average": MASTER * self.shape.parameters / self.devices}
        decoding = {"KV pages": self.pool, "a forward's tensors": self._decoding_forward(), "draws": self._draws()}
        hand_over = {"a weight on its way": self._one_weight}
        return {
            "rollout": decoding,
            **{f"{each.role} scores": self._forward(each.shape, each.positions) for each in self.beside},
            **(
                {"reference": self._gathered() | self._forward(self.shape, self.positions)}
                if self.has_reference or self.has_value_model
                else {}
            ),
            **self.update(),
            "hand-over": hand_over,
            "validation": decoding | (average if self.has_average else {}),
            "save": hand_over | (average if self.has_average else {}),
        }

    def update(self) -> dict[str, Parts]:
        """Returns what an update adds at each of its points; a value model's own is at most the policy's."""
        shape, c, n = self.shape, self.number_bytes, self.devices
        shard = MASTER * shape.parameters / n
        own = {"gradients, fp32": shard}
        backward = own | self._gathered(in_backward=True) | {
            "activations": activation_bytes(shape, self.positions, c, self.checkpointed),
            "head, a chunk": _head_chunk(shape, self.positions),
        }  # fmt: skip
        optimiser = own | {"temporaries of foreach-Adam": shard}
        if not self.is_sharded:
            return {"update: backward": backward, "update: optimiser": optimiser}
        layer, root = self._layer, self._root
        unreduced = shape.head_parameters + max(shape.head_parameters, layer)
        backward["gradients before they are reduced"] = float(c * unreduced)
        backward["reduce-scatter, layers"] = 2 * MASTER * layer * (1 + 1 / n)
        reduced = own | {
            "gathered weights": c * root,
            "gradients before they are reduced": c * root,
            "reduce-scatter, embedding and head": MASTER * root * (1 + 1 / n),
            "reduce-scatter, layers": MASTER * layer * (1 + 1 / n),
        }
        return {"update: backward": backward, "update: last gradients": reduced, "update: optimiser": optimiser}

    @property
    def _layer(self) -> float:
        """The numbers of a layer."""
        return self.shape.trunk_parameters / self.shape.num_hidden_layers

    @property
    def _root(self) -> float:
        """The numbers of embedding, head and last norm."""
        return 2 * self.shape.head_parameters + self.shape.hidden_size

    def _gathered(self, in_backward: bool = False) -> Parts:
        """Embedding and head all the time, and layers; where a forward begins, embedding and head in a flat buffer."""
        if not self.is_sharded:
            return {}
        more = FLIGHT * self._layer
        if not in_backward:
            more = max(more, self._root * (1 + 1 / self.devices))
        return {"gathered weights": self.number_bytes * (self._root + more)}

    def _forward(self, shape: Shape, positions: float) -> Parts:
        """A forward without gradients."""
        tensors = self.number_bytes * positions * working_numbers(shape)
        return {"a forward's tensors": tensors, "head, a chunk": _head_chunk(shape, positions)}

    def _decoding_forward(self) -> float:
        """A forward of all rows, each with its block and the one before it, and the keys and values of a layer, which
        are copied out of their pages."""
        shape, positions = self.shape, 2 * self.rows * self.shape.block_size
        return self.number_bytes * positions * working_numbers(shape) + self.pool / shape.num_hidden_layers

    def _draws(self) -> float:
        """The logits that tokens are drawn from: of all open positions, or as many as are computed at once."""
        return float(DRAW_BYTES * min(DRAW_LOGITS, self.rows * self.shape.block_size * self.shape.vocab_size))


def working_numbers(shape: Shape) -> int:
    """Returns the numbers a position that exist at the same time in a layer that keeps nothing: 3 H and, in the MLP,
    3 I; in the attention queries, keys and values before, while and after they are rotated, and what comes out."""
    attention = 6 * shape.query_numbers + 5 * shape.key_numbers
    return 3 * shape.hidden_size + max(3 * shape.intermediate_size, attention)


def _head_chunk(shape: Shape, positions: float) -> float:
    """A chunk's tables; at least one position's."""
    return float(HEAD_COPIES * MASTER * max(shape.vocab_size, min(HEAD_LOGITS, positions * shape.vocab_size)))
