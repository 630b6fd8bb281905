"""Where the seconds of a training run went, read from its own files: by phase, with the share of the machine's peak.

The operations are multiplications and additions of the layers' matrices, two per weight and position: once for a
rollout or reference position, three times for a trained one (forward, backward). Attention and the head are left out,
so the shares are low rather than high.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lightningrl.bench.machine import peak_operations_per_s
from lightningrl.bench.model_shape import Shape
from lightningrl.errors import CheckpointError, StageError
from lightningrl.models.config_file import read_config
from lightningrl.models.families.registry import plug_in
from lightningrl.utils import files

PHASES = {
    "rollout": (1, "rollout_positions"),
    "reference": (1, "trained_positions"),
    "update": (3, "trained_positions"),
}
"""For each phase, how many forwards per position of it is worth, and the metric that counts its positions."""


def phases(folder: Path, device: torch.device, dtype: torch.dtype, plugins: Iterable[str] = ()) -> dict[str, Any]:
    """Returns medians over the run's steps but the first: {"phases": [...], "logp_gap_mean": ..., "logp_gap_max": ...}.

    folder: that of a finished training. device, dtype: where its peak is measured now. Raises CheckpointError for
    another folder.
    """
    plug_in(plugins)
    try:
        metrics = pd.DataFrame(files.read_jsonl(folder / "metrics.jsonl"))
        timing = pd.DataFrame(row for row in files.read_jsonl(folder / "timing.jsonl") if "rollout_s" in row)
    except (OSError, StageError):
        raise CheckpointError(f"{folder} is no finished training: it has no metrics.jsonl or timing.jsonl") from None
    if timing.empty or "trained_positions" not in metrics:
        raise CheckpointError(f"{folder} is no reinforcement-learning run: its steps have no phases")
    config, peak = read_config(folder), peak_operations_per_s(device, dtype)
    matrices = Shape.of(asdict(config), config.block_size).trunk_matrices
    first, last = min(1, len(metrics) - 1), len(metrics)
    count, seconds_of = metrics[first:].median(numeric_only=True), timing[first:last].median(numeric_only=True)
    rows = []
    for name, (forwards, counted) in PHASES.items():
        seconds, positions = float(seconds_of[f"{name}_s"]), float(count[counted])
        rows.append({
            "phase": name, "seconds": seconds, "positions": positions, "positions_per_s": positions / seconds,
            "of_peak_pct": 100 * 2 * forwards * matrices * positions / seconds / peak,
        })  # fmt: skip
    gaps = metrics.reindex(columns=["logp_gap_mean", "logp_gap_max"]).fillna(0.0).max().tolist()
    return {
        "phases": rows,
        "peak_operations_per_s": peak,
        "parameters": config.num_parameters,
        "rollout_tokens_per_s": float(seconds_of["rollout_tokens_per_s"]),
        "peak_memory_bytes": int(timing["peak_memory_bytes"].max()),
        "logp_gap_mean": gaps[0],
        "logp_gap_max": gaps[1],
    }
