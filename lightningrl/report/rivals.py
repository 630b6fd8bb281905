"""The table of systems of several families side by side: accuracy, every count of a run, and tokens per second.

A row is a (system, benchmark) at the system's primary threshold; AUP is over its sweep, under the benchmark's one
y_max. docs/counts.md defines the counts, whose names stand in the header as they are in `headline.csv`. Tokens a second
are of the speed stages: one engine, one machine, and empty where none was measured.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import pandas as pd

from lightningrl.evaluation.intervals import triple
from lightningrl.report.tables import (
    MISSING,
    Cell,
    Table,
    build_table,
    interval,
    number,
    plain,
    word_notes,
)
from lightningrl.utils.numbers import shortest

SPEED = triple("tokens_per_second")
CONDITIONS = ("device", "dtype", "batch", "threads", "prompts")
"""What a speed says nothing without."""


def rivals(headline: pd.DataFrame, speed: pd.DataFrame) -> Table:
    """Returns the table, by benchmark and family, then in the order of the headline."""
    key = ["policy", "benchmark"]
    data = headline.merge(speed.reindex(columns=[*key, *SPEED]).astype(dict.fromkeys(SPEED, float)), "left", on=key)
    data = data.sort_values(["benchmark", "family"], kind="stable", key=by_appearance)
    columns: list[tuple[str, Cell]] = [
        ("Benchmark", attrgetter("benchmark")),
        ("System", attrgetter("policy")),
        ("Family", lambda row: MISSING if pd.isna(row.family) else str(row.family)),
        ("Parameter", lambda row: shortest(row.threshold)),
        ("Accuracy (%)", interval("accuracy_pct", 1)),
        ("TPF", interval("tpf", 2)),
        *((name, plain(name, 2)) for name in ("tpf_true", "tpf_paper", "tpf_harness", "tpf_rounds_mean")),
        ("Forwards (per problem)", interval("forwards_per_problem", 1)),
        ("Response (tokens)", plain("response_tokens_mean", 1)),
        ("Positions (per token)", interval("positions_per_token", 1)),
        ("Keys (per token)", interval("keys_per_token", 0)),
        ("Tokens (per second)", interval("tokens_per_second", 0)),
        ("AUP", interval("aup", 1)),
    ]
    notes = [
        *(
            f"{benchmark}: n = {rows['n_problems'].iloc[0]:,} problems; y_max = {number(rows['y_max'].iloc[0], 1)} %."
            for benchmark, rows in headline.groupby("benchmark", sort=False)
        ),
        *word_notes(headline),
        "TPF: response tokens over denoise forwards; tpf_true, tpf_paper, tpf_harness, tpf_rounds_mean, positions and "
        "keys per token: docs/counts.md. AUP (TPF x percent) as published, over the sweep, with one y_max a benchmark.",
        *_conditions(speed),
        f"Brackets: 95 % intervals over problems (accuracy: Wilson; others: {_replicates(headline)} bootstrap "
        "replicates); of tokens per second over repetitions.",
    ]
    return build_table("rivals", "Systems of several families, one count.", notes, columns, data, 3)


def by_appearance(column: pd.Series) -> pd.Series:
    """Returns a key for sorting: the place of each value among the values as they first appear."""
    return pd.Series(pd.factorize(column)[0], index=column.index)


def _conditions(speed: pd.DataFrame) -> list[str]:
    """Returns a line for each set of conditions under which speeds were measured."""
    if speed.empty:
        return []
    known = speed.reindex(columns=list(CONDITIONS)).drop_duplicates()
    return [f"Tokens per second, prefill included, are of {_told(row)}." for row in known.itertuples()]


def _told(row: Any) -> str:
    count = {name: number(getattr(row, name), 0) for name in ("batch", "threads", "prompts")}
    return (
        f"one engine on {row.device}, {row.dtype}, threads: {count['threads']}, requests at a time: {count['batch']}, "
        f"problems: {count['prompts']}"
    )


def _replicates(headline: pd.DataFrame) -> str:
    return "no" if headline.empty else f"{headline['n_bootstrap'].max():,}"
