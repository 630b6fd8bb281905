"""Long tables: training curves by step, tokens revealed at each decoding step, and measured speeds.

`curves` gathers the trainer's metrics JSONL of several runs (paper's Figures 3-6 and 8); `steps` counts what each
denoise forward revealed (Figure 7); `speeds` puts measurements under each other (Table 7). Not done here: smoothing
and drawing (`figures`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from lightningrl.errors import StageError
from lightningrl.report.frontier import Group

CURVE_COLUMNS = (
    "reward_total_mean", "reward_accuracy_mean", "reward_speed_mean", "accuracy_pct", "tpf", "collapse_ratio_0.1",
    "collapse_ratio_0.1_sum", "acceptance_rate", "kl", "nll", "entropy", "response_tokens_mean",
)  # fmt: skip
"""Always present, NaN where a run does not log them; whatever else is logged follows by name, `TEXT_COLUMNS` last."""

TEXT_COLUMNS = ("role", "benchmark", "published")
"""What a run is, from its rows' keys of these names: its role, what it trained on, the row of the paper's tables that
it stands for. Empty where they do not say."""

STEP_COLUMNS = (
    "policy", "role", "benchmark", "threshold", "decoding_step", "tokens_mean", "tokens_std", "samples_running",
    "samples_total", "published",
)  # fmt: skip

SPEED_COLUMNS = (
    "policy", "role", "benchmark", "published", "prompts", "warmup_prompts", "batch", "prefill_included", "tokens",
    "seconds", "tokens_per_second", "tokens_per_second_low", "tokens_per_second_high", "device", "dtype", "threshold",
    "max_new_tokens",
)  # fmt: skip
"""The columns of `speed.json`, with the policy's role and row; the interval is 95 % over repeats."""


def curves(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns one row per (run, step), sorted; of a step logged twice (a run that was resumed) the last row counts.

    Each row needs `run` and `step`; values that are not numbers are left out. Raises StageError without either.
    """
    kept: dict[tuple[str, int], Mapping[str, Any]] = {}
    for row in rows:
        if "run" not in row or "step" not in row:
            raise StageError(f"a metrics row must name its run and step; found the keys {sorted(row)}.")
        kept[str(row["run"]), int(row["step"])] = row
    runs = list(dict.fromkeys(run for run, _ in kept))
    listed = sorted(kept, key=lambda key: (runs.index(key[0]), key[1]))
    named = {"run", "step", *TEXT_COLUMNS}
    numbers = [
        {name: value for name, value in kept[key].items() if isinstance(value, int | float) and name not in named}
        for key in listed
    ]
    others = sorted({name for row in numbers for name in row} - set(CURVE_COLUMNS))
    table = pd.DataFrame(numbers, columns=[*CURVE_COLUMNS, *others], dtype=float)
    table.insert(0, "run", [run for run, _ in listed])
    table.insert(1, "step", [step for _, step in listed])
    return table.assign(**{name: [str(kept[key].get(name) or "") for key in listed] for name in TEXT_COLUMNS})


def steps(groups: Iterable[Group]) -> pd.DataFrame:
    """Returns the tokens revealed at each decoding step at the primary threshold, by (policy, benchmark).

    Step i (from 1) is a response's i-th denoise forward; `tokens_mean` and `tokens_std` (population) are over the
    `samples_running` responses that took at least i forwards. Every decoded position counts, the tail after the stop
    token too. Raises StageError when a record's counts do not add up to its emitted tokens.
    """
    rows: list[tuple[Any, ...]] = []
    for group, evaluation in ((each, one) for each in groups for one in each.evaluations.values()):
        threshold = group.sums[evaluation.policy].thresholds[group.primary(evaluation.policy)]
        traces = []
        for record in evaluation.records:
            if record.threshold == threshold and (counts := record.tokens_by_step):
                if sum(counts) != record.emitted_tokens:
                    raise StageError(
                        f"{record.uid} sample {record.sample}: {sum(counts)} tokens by step, but "
                        f"{record.emitted_tokens} emitted. The record is damaged; evaluate again."
                    )
                traces.append(counts)
        what = (evaluation.policy, evaluation.role, evaluation.benchmark, threshold)
        for step in range(max(map(len, traces), default=0)):
            running = np.array([counts[step] for counts in traces if len(counts) > step], float)
            numbers = (float(running.mean()), float(running.std()), len(running), len(traces))
            rows.append((*what, step + 1, *numbers, evaluation.published))
    return pd.DataFrame(rows, columns=list(STEP_COLUMNS))


def speeds(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns one row per measured (policy, benchmark), as given; columns beyond `SPEED_COLUMNS` follow by name.

    Raises StageError when a row lacks one of them.
    """
    rows = list(rows)
    for row in rows:
        if missing := sorted(set(SPEED_COLUMNS) - set(row)):
            raise StageError(
                f"the speed of {row.get('policy', 'a policy')} lacks {', '.join(missing)}; measure it again."
            )
    others = sorted({key for row in rows for key in row} - set(SPEED_COLUMNS))
    return pd.DataFrame(rows, columns=[*SPEED_COLUMNS, *others])
