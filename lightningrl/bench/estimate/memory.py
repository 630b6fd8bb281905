"""Bytes on each device, by what they are for, in rollout and in update.

The layout on GPUs: fp32 master weights, gradients and Adam's moments are sharded evenly (FSDP2), weights are gathered
in the compute dtype layer by layer, the reference is sharded too, and a whole replica in the compute dtype decodes. On
the processor, everything is in float32 in one process, and the decoder shares the policy's weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightningrl.bench.model_shape import Shape

MASTER = 4
"""Bytes of an fp32 number."""
HEAD_COPIES = 3
"""The fp32 tables of a chunk that exist at the same time: logits, log-softmax, gradient."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a model's numbers are distributed."""

    devices: int
    compute_bytes: int

    @property
    def sharded(self) -> bool:
        """Whether there are fp32 masters in shards; otherwise one process has all in one precision."""
        return self.compute_bytes < MASTER


def weight_bytes(shape: Shape, number_bytes: int) -> int:
    """Returns the bytes of all weights."""
    return shape.parameters * number_bytes


def moment_bytes(shape: Shape) -> int:
    """Returns the bytes of Adam's two moments in fp32, unsharded."""
    return 2 * MASTER * shape.parameters


def kv_bytes(shape: Shape, positions: int, number_bytes: int) -> int:
    """Returns the bytes of the keys and values of `positions` positions: 2 L M D numbers each."""
    return shape.kv_numbers * positions * number_bytes


def page_positions(positions: int, page_tokens: int) -> int:
    """Returns the positions of the whole pages that a row of `positions` positions takes."""
    return -(-positions // page_tokens) * page_tokens


def activation_bytes(shape: Shape, positions: float, number_bytes: int, checkpointed: bool) -> float:
    """Returns the bytes that forward keeps for backward; checkpointed: the layers' inputs and one whole layer."""
    full = shape.layer_activations
    if checkpointed:
        return number_bytes * positions * (shape.num_hidden_layers * shape.hidden_size + full)
    return number_bytes * positions * shape.num_hidden_layers * full


def head_bytes(shape: Shape, chunk_positions: float) -> float:
    """Returns the bytes of one chunk of scored positions: three fp32 tables over the vocabulary."""
    return float(HEAD_COPIES * MASTER * shape.vocab_size * chunk_positions)


def resident_bytes(shape: Shape, layout: Layout, has_value_model: bool = False) -> dict[str, float]:
    """Returns the bytes that stay on a device in all phases, by what they are for."""
    n, whole = layout.devices, weight_bytes(shape, layout.compute_bytes)
    value = {"value model and its moments": MASTER * shape.parameters / n + moment_bytes(shape) / n}
    if not layout.sharded:
        found = {"weights": whole, "Adam's moments": moment_bytes(shape), "reference": whole}
        return found | (value if has_value_model else {})
    return (value if has_value_model else {}) | {
        "fp32 master, a shard": MASTER * shape.parameters / n,
        "Adam's moments, a shard": moment_bytes(shape) / n,
        "reference, a shard": whole / n,
        "decode replica": whole,
    }


def update_bytes(
    shape: Shape, layout: Layout, positions: float, chunk_positions: float, checkpointed: bool
) -> dict[str, float]:
    """Returns the bytes that an update adds; `positions` are those of a micro-batch."""
    n, gathered = layout.devices, shape.gathered_parameters * layout.compute_bytes
    found = {"gradients (fp32, a shard)" if layout.sharded else "gradients": MASTER * shape.parameters / n}
    found |= {"gathered weights": gathered} if layout.sharded else {}
    found["activations"] = activation_bytes(shape, positions, layout.compute_bytes, checkpointed)
    found["head, a chunk"] = head_bytes(shape, min(chunk_positions, positions))
    return found
