"""What a response costs on a device in decoding and in training: positions, arithmetic, bytes, seconds.

Training: a row has the clean positions of all blocks but the last, and one noisy copy of a block for each denoise
forward that revealed a token of the response (rl/likelihood.py). Decoding: each denoise forward computes its block, and
the first one of a block also the finished block before it (schedule `fused`; `separate` computes as many positions).

Bytes are put together in bench/memory.py.

Seconds: a forward takes its arithmetic at a share of the peak, or reading the weights at a share of the bandwidth,
whichever is longer. Not included: communication (assumed hidden). What is neither arithmetic nor bandwidth is in
`bench/overheads.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np

from lightningrl.bench.model_shape import Shape
from lightningrl.errors import ConfigError
from lightningrl.types import Trajectory

MASTER = 4
"""Bytes of an fp32 number; a device whose compute dtype is smaller has its fp32 numbers in shards."""
MOMENTS = 2 * MASTER
"""Bytes per parameter of Adam's two moments in fp32."""
FLOAT32_SHARE = 1 / 15
"""Arithmetic in float32 of what a GPU has in bfloat16: 67 of 989 TFLOP/s on an H100."""
OPTIMISER_BYTES = 28
"""Bytes per parameter that an update moves: fp32 gradient, master and two moments in, the last three out."""


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator, or this machine's processor."""

    name: str
    operations_per_s: float
    """Operations of dense matrix products in the compute dtype; a multiplication and an addition are two."""
    bytes_per_s: float
    """Bandwidth of its memory."""
    memory_bytes: int
    compute_bytes: int = 2
    """Bytes of a number in the compute dtype: bfloat16, on the processor float32."""

    def computing_in(self, precision: str) -> Device:
        """Returns the device as forwards in `float32` or `bfloat16` find it; torch takes no TF32 unless it is told to.

        >>> gpu = Device("a GPU", 900e12, 3e12, 80_000_000_000)
        >>> float32 = gpu.computing_in("float32")
        >>> float32.operations_per_s / 1e12, float32.compute_bytes, gpu.computing_in("bfloat16") == gpu
        (60.0, 4, True)
        """
        if precision != "float32" or self.compute_bytes == MASTER:
            return self
        return replace(self, operations_per_s=self.operations_per_s * FLOAT32_SHARE, compute_bytes=MASTER)


@dataclass(frozen=True, slots=True)
class Shares:
    """The shares of a device's figures that are reached: assumptions, to be replaced by measurements."""

    update: float = 0.40
    """Share of peak arithmetic in forward and backward, recomputation included: the project's target on a GPU."""
    reference: float = 0.45
    """Share of peak arithmetic in a forward alone (assumed)."""
    rollout: float = 0.30
    """Share of peak arithmetic in decoding that arithmetic bounds (assumed: shorter matrices, ragged attention)."""
    bandwidth: float = 0.70
    """Share of memory bandwidth in decoding that bandwidth bounds: the project's target at batch 1."""
    rows_busy: float = 0.60
    """Mean share of the rows at work over a batch whose longest responses end alone (assumed)."""
    reserve: float = 0.08
    """Share of the memory for context, communication buffers and fragmentation (assumed)."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            is_within = 0 <= value < 1 if name == "reserve" else 0 < value <= 1
            if not is_within:
                within = "[0, 1)" if name == "reserve" else "(0, 1]"
                raise ConfigError(f"the share {name!r} is {value}, expected within {within}")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean lengths of prompts and responses, and the TPF: assumed or measured."""

    prompt_tokens: float
    response_tokens: float
    tpf: float
    """Response tokens per denoise forward."""

    @property
    def forwards(self) -> float:
        """Denoise forwards per response."""
        return self.response_tokens / self.tpf


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """One phase of a step on one device."""

    name: str
    seconds: float
    positions: float
    operations: float
    bound: str = "arithmetic"
    """`arithmetic` or `bandwidth`; of overheads `launches`, `processor` or `disk`."""


def trained_positions(prompt_tokens: int, response_tokens: int, forwards: int, block_size: int) -> int:
    """Returns the positions of one trajectory's training row; `forwards` revealed a token of its response.

    >>> trained_positions(6, 5, 3, 4)
    20
    """
    clean = (prompt_tokens + response_tokens - 1) // block_size * block_size
    return clean + block_size * forwards


def positions_of(trajectories: Iterable[Trajectory]) -> int:
    """Returns the exact training positions of real trajectories, without padding."""
    total = 0
    for one in trajectories:
        forwards = len(np.unique(one.reveal_step[: one.response_len]))
        total += trained_positions(len(one.prompt_ids), one.response_len, forwards, one.block_size)
    return total


def work_of(positions: float, head_positions: float, context: float) -> np.ndarray:
    """Returns [3]: positions through the layers, positions through the head, and pairs of a position and a key.

    context: the mean number of keys that a position sees. Works can be added, and multiplied by a number.
    """
    return np.array([positions, head_positions, positions * context], dtype=float)


def operations_of(work: np.ndarray, shape: Shape) -> float:
    """Returns the operations of one forward.

    They are 2 x (layers' matrices) per position, 2 V H per head position, 4 L N D per position and key.
    """
    attention = 2 * shape.num_hidden_layers * shape.query_numbers
    return float(2 * work @ (shape.trunk_matrices, shape.head_parameters, attention))


def training_work(lengths: Lengths, block_size: int, state_share: float = 1.0) -> np.ndarray:
    """Returns the expected work of training on one response, or on a share of its states: copies and their actions.

    The clean positions stay: the last state that is taken sees nearly all of them.
    """
    end = lengths.prompt_tokens + lengths.response_tokens
    seen = lengths.prompt_tokens + lengths.response_tokens / 2 + block_size  # by a copy: on average half, and itself
    clean = work_of((end - 1) // block_size * block_size, 0, end / 2)
    return clean + state_share * work_of(block_size * lengths.forwards, lengths.response_tokens, seen)


def prefill_work(lengths: Lengths, block_size: int) -> np.ndarray:
    """Returns the work of the prompt's whole blocks."""
    whole = lengths.prompt_tokens // block_size * block_size
    return work_of(whole, 0, whole / 2)


def decoding_work(lengths: Lengths, block_size: int) -> np.ndarray:
    """Returns the expected work of decoding one response, without its prefill.

    The head is evaluated at masked positions: from K of them down to TPF.
    """
    first = lengths.prompt_tokens // block_size
    blocks = -(-(lengths.prompt_tokens + lengths.response_tokens) // block_size) - first
    positions = block_size * (lengths.forwards + max(0.0, blocks - 1))
    open_positions = (block_size + min(lengths.tpf, block_size)) / 2
    seen = lengths.prompt_tokens + lengths.response_tokens / 2 + block_size
    return work_of(positions, lengths.forwards * open_positions, seen)


def kv_bytes(shape: Shape, positions: int, page_tokens: int, number_bytes: int) -> int:
    """Returns the bytes of the keys and values of the whole pages that a row of `positions` positions takes."""
    return shape.kv_numbers * -(-positions // page_tokens) * page_tokens * number_bytes


def activation_bytes(shape: Shape, positions: float, number_bytes: int, checkpointed: bool) -> float:
    """Returns the bytes that forward keeps for backward; checkpointed: the layers' inputs and one whole layer."""
    layers, full = shape.num_hidden_layers, shape.layer_activations
    return number_bytes * positions * (layers * shape.hidden_size + full if checkpointed else layers * full)


def decoding_cost(
    shape: Shape, device: Device, shares: Shares, lengths: Lengths, responses: float, rows: int, name: str = "rollout",
    samples: int = 1, one: tuple[float, np.ndarray, np.ndarray] | None = None,
) -> PhaseCost:  # fmt: skip
    """Returns the phase of decoding `responses` responses, at most `rows` together, each `samples` of them of one
    prompt that is computed once.

    one: forwards, prefill and decoding of one response (bench/schedule_costs.py); None: those of SDAR's blocks.
    """
    forwards, prompt, decode = one or (
        lengths.forwards, prefill_work(lengths, shape.block_size), decoding_work(lengths, shape.block_size)
    )  # fmt: skip
    prompts = prompt * (responses / samples)
    busy = max(1.0, shares.rows_busy * min(rows, responses))
    read = (shape.parameters + busy * decode[2] / decode[0] * shape.kv_numbers) * device.compute_bytes
    each_s = operations_of(decode * busy / forwards, shape) / (shares.rollout * device.operations_per_s)
    bandwidth_s = float(read) / (shares.bandwidth * device.bytes_per_s)
    prefill_s = operations_of(prompts, shape) / (shares.reference * device.operations_per_s)
    seconds = responses * forwards / busy * max(each_s, bandwidth_s) + prefill_s
    work = decode * responses + prompts
    bound = "arithmetic" if each_s >= bandwidth_s else "bandwidth"
    return PhaseCost(name, seconds, float(work[0]), operations_of(work, shape), bound)


def reference_cost(shape: Shape, device: Device, shares: Shares, work: np.ndarray) -> PhaseCost:
    """Returns the phase of one forward over the update's rows."""
    operations = operations_of(work, shape)
    seconds = operations / (shares.reference * device.operations_per_s)
    return PhaseCost("reference", seconds, float(work[0]), operations)


def scoring_cost(
    role: str, shape: Shape, device: Device, shares: Shares, lengths: Lengths, responses: float
) -> PhaseCost:  # fmt: skip
    """Returns the phase in which a causal model scores each token of so many responses, one forward over each."""
    length = lengths.prompt_tokens + lengths.response_tokens
    work = responses * work_of(length, lengths.response_tokens, length / 2)
    return replace(reference_cost(shape, device, shares, work), name=role)


def update_cost(
    shape: Shape, device: Device, shares: Shares, work: np.ndarray, updates: int, devices: int, checkpointed: bool
) -> PhaseCost:
    """Returns the phase of forward and backward (3 forwards, 4 if checkpointed) and of the optimiser over its shard."""
    operations = operations_of(work, shape) * (4 if checkpointed else 3)
    moved = updates * OPTIMISER_BYTES * shape.parameters / devices
    seconds = operations / (shares.update * device.operations_per_s) + moved / (shares.bandwidth * device.bytes_per_s)
    return PhaseCost("update", seconds, float(work[0]), operations)
