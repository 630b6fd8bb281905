"""Tables over seeds: `study`, a row for each series; `criteria`, which targets it meets; `phrasing`, from the probes.

They are pure functions of the collected tables; the statistics are in `pooled`. The targets are those of
`docs/study.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import pandas as pd

from lightningrl.evaluation.aup import ROUNDING
from lightningrl.report.tables import MISSING, Table, build_table, interval, number, plain
from lightningrl.utils.numbers import is_same, shortest

TPF_RATIO, ACCURACY_LOSS, CLIFF, LOW = 2.0, -2.0, 5.0, 0.7
"""The targets: at least TPF_RATIO times the base's TPF, a lower bound of the accuracy difference above ACCURACY_LOSS,
and an accuracy at the threshold LOW at most CLIFF points below that at the primary one."""


def study(pooled: pd.DataFrame) -> Table:
    """Returns the table of each series at the primary threshold, with the range over its seeds."""
    rows = pooled[pooled["is_primary"].astype(bool)]
    columns = [
        ("Benchmark", attrgetter("benchmark")),
        ("Series", attrgetter("series")),
        ("Seeds", lambda row: str(len(row.seeds.split()) or MISSING)),
        ("Accuracy (%)", interval("accuracy_pct", 1)),
        ("by seed", lambda row: _spread(row.accuracy_pct_by_seed, 1)),
        ("Δ accuracy (points)", interval("accuracy_difference", 1, sign=True)),
        ("TPF (tokens/forward)", interval("tpf", 2)),
        ("x base", interval("tpf_ratio", 2)),
        ("Forwards (per problem)", interval("forwards_per_problem", 1)),
        ("Response (tokens)", plain("response_tokens_mean", 1)),
        ("Δ tokens", interval("response_tokens_difference", 1, sign=True)),
        ("Anchored AUP", interval("aup_anchored", 0)),
        ("AUP by seed", lambda row: _spread(row.aup_anchored_by_seed, 0)),
    ]
    notes = [
        f"{benchmark}: n = {here['n_problems'].iloc[0]:,} {here['split'].iloc[0]} problems per seed; "
        f"τ = {shortest(here['threshold'].iloc[0])}; y_max = {number(here['y_max'].iloc[0], 1)} %; "
        f"y_min = {' or '.join(number(y_min, 1) for y_min in dict.fromkeys(here['y_min'].dropna()))} %."
        for benchmark, here in rows.groupby("benchmark", sort=False)
    ]
    notes.append(
        "Brackets: 95 % intervals over resampled problems and seeds; Δ and x base are paired by problem. By seed: "
        "smallest to largest. TPF: response tokens over denoise forwards, ratio of sums, mean over seeds. Anchored "
        "AUP: one y_max for all, one y_min per base."
    )
    return build_table("study", "Each series over its seeds, at the primary threshold.", notes, columns, rows, 2)


def criteria(pooled: pd.DataFrame) -> Table:
    """Returns the table of the targets that each trained series meets.

    A series is compared with the first one of role `after` on its benchmark.
    """
    found = pd.DataFrame(list(_judged(pooled)))
    columns = [
        ("Benchmark", attrgetter("benchmark")),
        ("Series", attrgetter("series")),
        (f"TPF >= {TPF_RATIO:g} x base", lambda row: _met(row.ratio_met, f"{row.tpf_ratio:.2f}")),
        (f"Δ accuracy, low > {ACCURACY_LOSS:g}", lambda row: _met(row.accuracy_met, number(row.accuracy_low, 1, True))),
        ("tokens <= base", lambda row: _met(row.tokens_met, number(row.tokens_difference, 1, True))),
        ("AUP above the method's, by seed", lambda row: _met(row.aup_met, row.aup_wins)),
        (f"accuracy {LOW:g} within {CLIFF:g} of primary", lambda row: _met(row.cliff_met, number(row.cliff, 1))),
        ("all", lambda row: "yes" if row.all_met else "no"),
    ]
    note = (
        "Each cell: met or not, and the number: mean ratio of TPF; lower bound of the paired accuracy difference, "
        "points; mean difference of response tokens; seeds with a larger anchored AUP than the method's run of the "
        "same seed; points of accuracy lost from the primary threshold. The method: the first series trained by it."
    )
    return build_table("criteria", "The targets that each series meets.", [note], columns, found, 2)


def _judged(pooled: pd.DataFrame) -> Iterator[dict[str, Any]]:
    row: Any
    for benchmark, here in pooled.groupby("benchmark", sort=False):
        primary = here[here["is_primary"].astype(bool)]
        methods = primary[primary["role"] == "after"]
        method = next(methods.itertuples(), None)
        for row in primary.itertuples():
            if row.role in ("before", "released"):
                continue
            mine = here[here["series"] == row.series]
            low = mine[[is_same(threshold, LOW) for threshold in mine["threshold"]]]
            cliff = float(low["accuracy_drop"].iloc[0]) if len(low) else float("nan")
            wins, compared = _wins(row, method)
            judged = {
                "ratio_met": row.tpf_ratio >= TPF_RATIO,
                "accuracy_met": row.accuracy_difference_low > ACCURACY_LOSS,
                "tokens_met": row.response_tokens_difference <= ROUNDING,
                "aup_met": compared > 0 and wins == len(row.seeds.split()),
                "cliff_met": cliff <= CLIFF + ROUNDING,
            }
            yield {
                "benchmark": benchmark, "series": row.series, "tpf_ratio": row.tpf_ratio,
                "accuracy_low": row.accuracy_difference_low, "tokens_difference": row.response_tokens_difference,
                "aup_wins": f"{wins} of {compared}" if compared else MISSING, "cliff": cliff, **judged,
                "all_met": all(judged.values()),
            }  # fmt: skip


def _wins(row: Any, method: Any) -> tuple[int, int]:
    """Returns the number of seeds whose AUP is above that of the method with the same seed, and of how many.

    There are none without seeds, or without a base as anchor.
    """
    if method is None or method.series == row.series:
        return 0, 0
    mine, other = (
        dict(zip(each.seeds.split(), _values(each.aup_anchored_by_seed), strict=False)) for each in (row, method)
    )
    both = mine.keys() & other.keys()
    return sum(mine[seed] > other[seed] for seed in both), len(both)


def _met(met: bool, told: str) -> str:
    return f"{'yes' if met else 'no'} ({told})"


def _values(text: str) -> list[float]:
    return [float(value) for value in text.split()]


def _spread(text: str, digits: int) -> str:
    values = _values(text)
    return MISSING if len(values) < 2 else f"{number(min(values), digits)} to {number(max(values), digits)}"


def phrasing(probes: pd.DataFrame) -> Table:
    """Returns the table of the entropy of wordings by their purpose, with a column for each policy, and calibration."""
    shown = {
        "phrasing_nats_greedy": "greedy", "phrasing_nats_sampled": "temperature 1", "calibration_error": "calibration",
    }  # fmt: skip
    rows = probes.assign(measure=probes["measure"].map(shown)).dropna(subset="measure")
    policies = list(dict.fromkeys(rows["policy"]))
    wide = rows.pivot_table(index=["benchmark", "measure", "label"], columns="policy", values="value", sort=False)
    wide = wide.reindex(columns=policies).reset_index()
    cells = tuple((*row[:3], *(number(value, 3) for value in row[3:])) for row in wide.itertuples(index=False))
    notes = (
        "Entropy in nats of the templates of sentences by their kind of operation, of the words before them and of "
        "closing sentences; all: weighted by frequency. A sentence without a template counts as a template of its own, "
        "without its numbers, names and things.",
        "Calibration: expected calibration error of the likeliest token at open positions, one token per forward.",
    )
    caption = "The phrasings that remain, and the calibration of confidence."
    return Table("phrasing", caption, notes, ("Benchmark", "How", "What", *policies), cells, wide, n_text_columns=3)
