"""What the machine can do, measured in the same run (memory bandwidth, peak arithmetic), and how works are measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from lightningrl.models.transformer import Transformer
from lightningrl.utils.machine import processor

Result = TypeVar("Result")


def synchronise(device: torch.device) -> None:
    """Waits until a GPU has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Returns the wall seconds of one call, with the device's queue drained before and after."""
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


def take_turns(
    works: Sequence[Callable[[], object]], device: torch.device, rounds: int, report: Callable[[str], None]
) -> np.ndarray:
    """Returns [rounds, works] seconds; the works take turns, so that a disturbance does not hit one of them alone."""
    seconds = []
    for number in range(1, rounds + 1):
        seconds.append([seconds_of(work, device) for work in works])
        report(f"round {number} of {rounds}")
    return np.array(seconds)


def device_name(device: torch.device) -> str:
    """Returns the name of the GPU or the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor() or "cpu"


def conditions(model: Transformer) -> dict[str, Any]:
    """Returns what a measurement with a model depends on: its size and precision, the device, threads, and torch."""
    weight = model.lm_head.weight
    return {
        "parameters": model.config.num_parameters,
        "block_size": model.config.block_size,
        "dtype": str(weight.dtype).removeprefix("torch."),
        "device": device_name(weight.device) if weight.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def bandwidth_bytes_per_s(device: torch.device) -> float:
    """Returns the bytes read per second in the best of several sums over 512 MB."""
    numbers = torch.ones(1 << 27, dtype=torch.float32, device=device)
    return numbers.nbytes / min(seconds_of(numbers.sum, device) for _ in range(7))


def peak_operations_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Returns multiplications and additions per second in the best of several products of square matrices."""
    size = 8192 if device.type == "cuda" else 1536
    one = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / min(seconds_of(lambda: one @ one, device) for _ in range(7))


def peak_of(work: Callable[[], Result], device: torch.device) -> tuple[Result, int]:
    """Returns the work's result and the `peak_memory_bytes` of the time in which it ran."""
    reset_peak_memory(device)
    return work(), peak_memory_bytes(device)


def reset_peak_memory(device: torch.device) -> None:
    """Resets the peak that `peak_memory_bytes` reports."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (refs := Path("/proc/self/clear_refs")).exists():
        refs.write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the most memory since the reset, of the GPU or (Linux) of this process; 0 where it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@contextmanager
def watched(model: Transformer, **watchers: Callable[..., object]) -> Iterator[None]:
    """Calls each watcher with the arguments of every call of the model's method of its name, until the context ends."""

    def watching(method: Callable[..., Any], watch: Callable[..., object]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            watch(*arguments)
            return method(*arguments)

        return call

    model.__dict__.update({name: watching(getattr(model, name), watch) for name, watch in watchers.items()})
    try:
        yield
    finally:
        for name in watchers:
            del model.__dict__[name]
