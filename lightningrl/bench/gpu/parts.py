"""The check of a GPU, in parts that each end within minutes; a part goes on where it was left.

`<out>/<part>.jsonl` has a line for each case, written when the case ends: {"case": ..., "seconds": ..., "figures":
{...}} with the device and torch; or {"case": ..., "skipped": why}; or {"case": ..., "error": ...}. A case with
figures is not run again; one that was skipped or failed is.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightningrl.errors import ConfigError
from lightningrl.utils.registry import resolve

CASES = "lightningrl.bench.gpu.cases"


@dataclass(frozen=True, slots=True)
class Setting:
    """What the cases run on."""

    out: Path
    device: str = "cuda"
    size: str = "8b"
    """The shape of the models with random weights."""
    checkpoint: Path | None = None
    """Real weights, for what needs them."""
    config: Path = Path("config/gpu-check.yaml")
    """The experiment whose stages are timed."""
    small: bool = False
    """Sizes that a processor can try."""
    plugins: tuple[str, ...] = ()
    """Modules that add families of checkpoints, for `checkpoint`."""


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: a function of the setting and of what distinguishes it, which returns its figures."""

    name: str
    function: str
    given: dict[str, Any] = field(default_factory=dict)

    def run(self, setting: Setting) -> dict[str, Any]:
        """Returns the figures. Raises Skipped with what is missing for it."""
        return resolve(f"{CASES}:{self.function}")(setting, **self.given)


class Skipped(Exception):
    """What a case needs is not here."""


def _bench_decode(batch: int) -> list[Case]:
    kinds = ("spans", "segments", "graphs")
    return [Case(f"batch {batch}, {kind}", "bench_decode", {"batch": batch, "forwards": kind}) for kind in kinds]


def _stages(*verbs: str) -> list[Case]:
    return [Case(verb, "stage", {"words": verb.split()}) for verb in verbs]


TURNS = [
    Case(
        f"{kind}, deterministic {'on' if strict else 'off'}, cuDNN attention {'on' if cudnn else 'off'}", "turns",
        {"forwards": kind, "deterministic": strict, "cudnn": cudnn},
    )
    for kind in ("spans", "graphs") for strict in (True, False) for cudnn in (True, False)
]  # fmt: skip
PARTS: dict[str, list[Case]] = {
    "first": [Case("cumsum in deterministic mode", "cumsum"), Case("peaks", "peaks")],
    "memory": [Case("one of eight ranks' shards", "memory", {"ranks": 8})],
    "tests": [Case("pytest -m gpu", "tests")],
    "turns": TURNS,
    "flex": [Case("forward and backward", "flex")],
    **{f"decode-{batch}": _bench_decode(batch) for batch in (1, 16, 64, 256)},
    "train": [Case("packed beside one row per step", "bench_train")],
    "stages": [
        *_stages("data --name gsm-mini", "selfcheck --name gsm-mini", "tokenizer", "pretrain", "train --name timed"),
        Case("phases", "phases"),
    ],
    "evaluate": [Case("evaluate", "stage_after", {"words": ["evaluate", "--name", "timed/gsm-mini"]})],
    "speed": [Case("speed", "stage_after", {"words": ["speed", "--name", "timed/gsm-mini"]})],
    "gap": [Case("decoder and trainer over real weights", "gap")],
    "two-gpus": [Case("three steps, a kill, a resume", "two_gpus")],
}
"""In the order of a first hour."""


def part_of(name: str) -> list[Case]:
    """Returns a part's cases. Raises ConfigError for an unknown one."""
    if name not in PARTS:
        raise ConfigError(f"--part: found {name!r}, allowed: {', '.join(PARTS)}")
    return PARTS[name]


def recorded(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a part's file, without one that a kill cut off."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def finished(path: Path, device: str, size: str) -> set[str]:
    """Returns the cases that have figures of this kind of device and size."""
    mine = [row for row in recorded(path) if (row.get("kind"), row.get("size")) == (device, size)]
    return {row["case"] for row in mine if "figures" in row}


def run_part(name: str, setting: Setting, report: Callable[[str], None], limit_s: float = 480.0) -> bool:
    """Runs what a part has not done yet; returns whether nothing of it failed or was left for another call.

    No case starts in the last quarter of `limit_s`, and one that still runs at its end is stopped, which is an error.
    """
    path, began, is_whole = setting.out / f"{name}.jsonl", time.monotonic(), True
    setting.out.mkdir(parents=True, exist_ok=True)
    done = finished(path, setting.device, setting.size)
    for case in part_of(name):
        if case.name in done:
            report(f"{name}: {case.name}: done before")
            continue
        if time.monotonic() - began > 0.75 * limit_s:
            report(f"{name}: {case.name}: left for another call, the time is up")
            is_whole = False
            continue
        started = time.monotonic()
        row: dict[str, Any] = {"case": case.name}
        try:
            with _stopped_after(limit_s - (started - began)):
                row["figures"] = case.run(setting)
        except Skipped as reason:
            row["skipped"] = str(reason)
        except Exception as error:  # a kernel, a compiler or a card may raise anything; the next case is tried
            row["error"] = f"{type(error).__name__}: {error}"[-2000:]
            is_whole = False
        row |= {"seconds": round(time.monotonic() - started, 3), "size": setting.size, **_machine(setting.device)}
        _append(path, row)
        outcome = next(key for key in ("figures", "skipped", "error") if key in row)
        report(f"{name}: {case.name}: " + (f"{outcome}: {row[outcome]}" if outcome != "figures" else "done"))
    return is_whole


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Raises TimeoutError inside when the seconds are over; only the main thread can be told."""

    def stop(*_: Any) -> None:
        raise TimeoutError("it was still running when the part's time was over")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _machine(device: str) -> dict[str, str]:
    import torch

    from lightningrl.bench.machine import device_name

    return {"device": device_name(torch.device(device)), "kind": device, "torch": torch.__version__}


def _append(path: Path, row: dict[str, Any]) -> None:
    text = json.dumps(row) + "\n"
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        text = "\n" + text  # a kill cut the last line off
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def command(*words: str) -> list[str]:
    """Returns the words that start this package's command line."""
    return [sys.executable, "-m", "lightningrl", *words]
