"""What the machine can do, measured in the same run: memory bandwidth, peak arithmetic, memory used."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from lightningrl.utils.machine import processor


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall seconds of one call, the device's queue drained."""
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor() or "cpu"


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth_bytes_per_s(device: torch.device) -> float:
    """Best of several passes of a sum over 512 MB: bytes read a second."""
    numbers = torch.ones(1 << 27, dtype=torch.float32, device=device)
    return numbers.nbytes / min(seconds_of(numbers.sum, device) for _ in range(7))


def peak_operations_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Best of several products of square matrices: multiplications and additions a second."""
    size = 8192 if device.type == "cuda" else 1536
    one = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / min(seconds_of(lambda: one @ one, device) for _ in range(7))


def reset_peak_memory(device: torch.device) -> None:
    """From here on `peak_memory_bytes` counts anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (refs := Path("/proc/self/clear_refs")).exists():
        refs.write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory since the reset: of the device, or of this process on the CPU (Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
