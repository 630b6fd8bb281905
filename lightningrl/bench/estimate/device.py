"""What a GPU can do by its maker's data sheet, and the share of it that is expected in practice."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from lightningrl.errors import ConfigError


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


DEVICES = {
    # NVIDIA H100 SXM data sheet: 989 TFLOP/s bf16 dense (1,979 with sparsity), 3.35 TB/s, 80 GB.
    "h100": Device("H100 SXM 80 GB", 989e12, 3.35e12, 80_000_000_000),
    # NVIDIA H200 SXM data sheet: the same arithmetic, 4.8 TB/s, 141 GB.
    "h200": Device("H200 SXM 141 GB", 989e12, 4.8e12, 141_000_000_000),
    # NVIDIA A100 SXM 80 GB data sheet: 312 TFLOP/s bf16 dense, 2.04 TB/s (taken as 2.0), 80 GB.
    "a100": Device("A100 SXM 80 GB", 312e12, 2.0e12, 80_000_000_000),
}


@dataclass(frozen=True, slots=True)
class Shares:
    """The shares of the sheet's figures that are reached: assumptions, to be replaced by measurements."""

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
            if not 0 < value <= 1:
                raise ConfigError(f"the share {name!r} is {value}, expected within (0, 1]")


MEASURED = Shares(update=0.35, reference=0.35, rollout=0.25)
"""Shares of a processor's measured peak: about what the miniature, whose matrices are small, reached on one thread;
larger models reach more."""


def device_of(kind: str) -> Device:
    """Returns a device by name; `cpu` is measured, which takes seconds. Raises ConfigError for an unknown name."""
    if kind == "cpu":
        from lightningrl.bench.estimate.check import measure_cpu

        return measure_cpu()
    if kind not in DEVICES:
        raise ConfigError(f"--gpu: found {kind!r}, allowed: {', '.join(DEVICES)}, cpu")
    return DEVICES[kind]
