"""What is published of quantised diffusion models beside what was measured for it, and the difference.

Of "Quantization Meets dLLMs" (arXiv 2508.14896) few numbers are attested (`published/quantization_results.csv`): a
system's `published` names the row that it stands for. Accuracies are compared in points. A claimed drop of the mean
over the questions of general knowledge is compared with our own, in percent of the unquantised system's mean: whether
the claims are of points or of percent, nobody says. What cannot be compared is listed all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from lightningrl.report.paper.lines import NAN
from lightningrl.report.published.files import QUANTIZED, rows
from lightningrl.report.tables import MISSING, Table, number

QA = ("piqa", "winogrande", "arc-easy", "arc-challenge", "hellaswag", "mmlu")
"""The benchmarks behind the average over general questions, as far as an experiment has them."""
ACCURACY = ("pass@1", "exact_match flexible-extract")
COLUMNS = (
    "row",
    "bits",
    "task",
    "metric",
    "kind",
    "published",
    "policy",
    "measured",
    "low",
    "high",
    "difference",
    "source",
)


class _Measured(NamedTuple):
    policy: str
    value: float
    low: float = NAN
    high: float = NAN


def published_quantization(headline: pd.DataFrame) -> Table:
    """Returns the table: a line a published number and system that stands for it, one with a dash where none does."""
    lines = [line for row in rows(QUANTIZED) for line in _lines(row, headline)]
    data = pd.DataFrame(lines, columns=list(COLUMNS))
    header = ("Model and method", "Bits", "Task", "System", "Published", "Measured", "Difference")
    cells = tuple(
        (row["row"], row["bits"], row["task"], row["policy"] or MISSING, row["published"] or MISSING,
         number(row["measured"], 1), number(row["difference"], 1, sign=True))
        for row in lines
    )  # fmt: skip
    notes = (
        "Published: percent; `measured` rows from the repository of arXiv 2508.14896 (Dream.md at commit a106d704), "
        "the others claims about it, whose sources the CSV has. Its own tables could not be read.",
        "Difference: measured minus published, points. The published prompts, lengths and graders are other ones "
        "(docs/quantization.md), and the published numbers have no intervals.",
        "Drop of the average: of the mean over " + ", ".join(QA) + ", as far as they are there, against the same "
        "weights unquantised, in percent of their mean.",
    )
    return Table("published_quantization", "Published numbers of quantised models.", notes, header, cells, data, 4)


def _lines(row: dict[str, str], headline: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yields the lines of one published number."""
    is_accuracy = row["metric"] in ACCURACY
    try:
        value = float(row["value"]) * (100 if is_accuracy else 1)
    except ValueError:
        value = NAN
    shown = number(value, 1) if value == value else row["value"]
    found = [*(_accuracies if is_accuracy else _drops)(row, headline)] if row["identity"] else []
    for each in found or [_Measured("", NAN)]:
        yield {
            "row": f"{row['model']} {row['method']}", "bits": row["bits"], "task": row["task"], "metric": row["metric"],
            "kind": row["kind"], "published": shown, "policy": each.policy, "measured": each.value, "low": each.low,
            "high": each.high, "difference": each.value - value, "source": row["source"],
        }  # fmt: skip


def _accuracies(row: dict[str, str], headline: pd.DataFrame) -> Iterator[_Measured]:
    chosen = headline[(headline["published"] == row["identity"]) & (headline["benchmark"] == row["benchmark"])]
    for one in chosen.itertuples():
        yield _Measured(str(one.policy), one.accuracy_pct, one.accuracy_pct_low, one.accuracy_pct_high)


def _drops(row: dict[str, str], headline: pd.DataFrame) -> Iterator[_Measured]:
    """Yields by how much each system's mean over `QA` is below that of what it is compared with, percent."""
    if row["benchmark"] != "qa":
        return
    chosen = headline[(headline["published"] == row["identity"]) & headline["benchmark"].isin(QA)]
    chosen = chosen[chosen["accuracy_difference"].notna()]
    for policy, mine in chosen.groupby("policy", sort=False):
        lost = -mine["accuracy_difference"].mean()
        before = mine["accuracy_pct"].mean() + lost
        yield _Measured(str(policy), 100 * lost / before if before else NAN)
