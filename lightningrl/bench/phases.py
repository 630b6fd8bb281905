"""Where the seconds of a training run went, read from its own files: by phase, with the share of the machine's peak.

The operations are multiplications and additions of the layers' matrices, two per weight and position: once for a
rollout or reference position, three times for a trained one (forward, backward). Attention and the head are left out,
so the shares are low rather than high.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lightningrl.bench.machine import peak_operations_per_s
from lightningrl.bench.model_shape import Shape
from lightningrl.errors import CheckpointError, StageError
from lightningrl.models.config_file import read_config
from lightningrl.utils import files

FORWARDS = {"rollout": 1, "reference": 1, "update": 3}
POSITIONS = {"rollout": "rollout_positions", "reference": "trained_positions", "update": "trained_positions"}


def phases(folder: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Returns medians over the run's steps but the first: {"phases": [...], "logp_gap_mean": ..., "logp_gap_max": ...}.

    folder: that of a finished training. device, dtype: where its peak is measured now. Raises CheckpointError for
    another folder.
    """
    try:
        metrics = list(files.read_jsonl(folder / "metrics.jsonl"))
        timing = [row for row in files.read_jsonl(folder / "timing.jsonl") if "rollout_s" in row]
    except (OSError, StageError):
        raise CheckpointError(f"{folder} is no finished training: it has no metrics.jsonl or timing.jsonl") from None
    if not timing or "trained_positions" not in metrics[0]:
        raise CheckpointError(f"{folder} is no reinforcement-learning run: its steps have no phases")
    config = read_config(folder)
    matrices = Shape.of(asdict(config), config.block_size).trunk_matrices
    steps = range(1, len(metrics)) if len(metrics) > 1 else range(1)
    peak = peak_operations_per_s(device, dtype)
    rows = []
    for name, forwards in FORWARDS.items():
        seconds = median(timing[step][f"{name}_s"] for step in steps)
        positions = median(metrics[step][POSITIONS[name]] for step in steps)
        operations = 2 * forwards * matrices * positions
        rows.append({
            "phase": name, "seconds": seconds, "positions": positions, "positions_per_s": positions / seconds,
            "of_peak_pct": 100 * operations / seconds / peak,
        })  # fmt: skip
    return {
        "phases": rows,
        "peak_operations_per_s": peak,
        "parameters": config.num_parameters,
        "rollout_tokens_per_s": median(timing[step]["rollout_tokens_per_s"] for step in steps),
        "peak_memory_bytes": max(row["peak_memory_bytes"] for row in timing),
        "logp_gap_mean": max(row.get("logp_gap_mean", 0.0) for row in metrics),
        "logp_gap_max": max(row.get("logp_gap_max", 0.0) for row in metrics),
    }
