"""Bytes on each device, by what they hold, in rollout and in update.

The layout on GPUs: fp32 master weights, gradients and Adam's moments sharded evenly (FSDP2); weights gathered in the
compute dtype layer by layer; the reference sharded likewise; a whole replica in the compute dtype that decodes.
On the processor: everything in float32 in one process, the decoder shares the policy's weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightningrl.bench.estimate.shape import Shape

MASTER = 4
"""Bytes of an fp32 number."""
HEAD_COPIES = 3
"""fp32 tables of a chunk that live at once: logits, log-softmax, gradient."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a model's numbers are laid out.

    >>> Layout(8, 2).sharded
    True
    """

    devices: int
    compute_bytes: int

    @property
    def sharded(self) -> bool:
        """Mixed precision with fp32 masters; False: one precision, one process."""
        return self.compute_bytes < MASTER


def weight_bytes(shape: Shape, number_bytes: int) -> int:
    """All weights, once."""
    return shape.parameters * number_bytes


def moment_bytes(shape: Shape) -> int:
    """Adam's two moments in fp32, unsharded."""
    return 2 * MASTER * shape.parameters


def kv_bytes(shape: Shape, positions: int, number_bytes: int) -> int:
    """Keys and values of so many positions of the cache: 2 L M D numbers each."""
    return shape.kv_numbers * positions * number_bytes


def page_positions(positions: int, page_tokens: int) -> int:
    """Positions of the whole pages that a row of so many takes."""
    return -(-positions // page_tokens) * page_tokens


def activation_bytes(shape: Shape, positions: float, number_bytes: int, checkpointed: bool) -> float:
    """What forward keeps for backward. Checkpointed: layers' inputs, and one layer in full at a time."""
    full = shape.layer_activations
    if checkpointed:
        return number_bytes * positions * (shape.num_hidden_layers * shape.hidden_size + full)
    return number_bytes * positions * shape.num_hidden_layers * full


def head_bytes(shape: Shape, chunk_positions: float) -> float:
    """Of one chunk of scored positions: fp32 over the vocabulary, three tables."""
    return float(HEAD_COPIES * MASTER * shape.vocab_size * chunk_positions)


def resident_bytes(shape: Shape, layout: Layout, has_value_model: bool = False) -> dict[str, float]:
    """What stays on a device in all phases."""
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
    """What an update adds; `positions`: of a micro-batch."""
    n, gathered = layout.devices, shape.gathered_parameters * layout.compute_bytes
    found = {"gradients (fp32, a shard)" if layout.sharded else "gradients": MASTER * shape.parameters / n}
    found |= {"gathered weights": gathered} if layout.sharded else {}
    found["activations"] = activation_bytes(shape, positions, layout.compute_bytes, checkpointed)
    found["head, a chunk"] = head_bytes(shape, min(chunk_positions, positions))
    return found
