"""The summary of judged responses that may lack counts, and that may not cover all problems. No torch.

The numbers are those of `metrics.summarise`. What the records do not hold is None: a TPF without counts, truncation
without `stop`. Accuracy is over the problems that were answered; `accuracy_missing_wrong_pct` counts the others as
wrong, and `n_missing` says how many they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightningrl.evaluation.external import SHOWN, counted
from lightningrl.evaluation.metrics import summarise
from lightningrl.types import EvalRecord, Example

PLACEHOLDERS: Mapping[str, Any] = {
    "response_tokens": 1, "emitted_tokens": 1, "denoise_forwards": 1, "commit_forwards": 0, "prefill_forwards": 0,
    "stop": "eos", "threshold": 0.0,
}  # fmt: skip
"""What an unknown field is while the other numbers are computed; every number made of it becomes None afterwards."""

NEEDS: Mapping[str, tuple[str, ...]] = {
    "tpf": ("response_tokens", "denoise_forwards"),
    "tpf_low": ("response_tokens", "denoise_forwards"),
    "tpf_high": ("response_tokens", "denoise_forwards"),
    "tpf_mean": ("response_tokens", "denoise_forwards"),
    "tpf_true": ("response_tokens", "denoise_forwards", "commit_forwards"),
    "tpf_true_mean": ("response_tokens", "denoise_forwards", "commit_forwards"),
    "forwards_per_problem": ("denoise_forwards",),
    "forwards_per_problem_low": ("denoise_forwards",),
    "forwards_per_problem_high": ("denoise_forwards",),
    "response_tokens_mean": ("response_tokens",),
    "truncated_pct": ("stop",),
    "threshold": ("threshold",),
}
"""Number -> the record fields that it is made of."""


def summaries(
    rows: Sequence[Mapping[str, Any]], examples: Sequence[Example], n_bootstrap: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """One summary a (policy, threshold), in the order of their first rows; `examples` are all problems there are."""
    groups: dict[tuple[str, float | None], list[EvalRecord]] = {}
    for row in rows:
        record = EvalRecord.from_json(dict(row))
        groups.setdefault((record.policy, record.threshold), []).append(record)
    return [_summary(records, examples, n_bootstrap, seed) for records in groups.values()]


def _summary(records: list[EvalRecord], examples: Sequence[Example], n_bootstrap: int, seed: int) -> dict[str, Any]:
    unknown = {name for name in PLACEHOLDERS if any(getattr(record, name) is None for record in records)}
    filled = [replace(record, **{name: PLACEHOLDERS[name] for name in unknown}) for record in records]
    summary = summarise(filled, n_bootstrap, seed).to_json()
    summary |= {number: None for number, needed in NEEDS.items() if unknown & set(needed)}
    samples = Counter(record.uid for record in records)
    missing = [example.uid for example in examples if example.uid not in samples]
    total = len(examples)
    by_problem = sum(record.correct / samples[record.uid] for record in records)
    return summary | {
        "n_benchmark": total,
        "n_missing": len(missing),
        "missing": missing[:SHOWN],
        "samples_per_problem": sorted(set(samples.values())),
        "accuracy_missing_wrong_pct": 100.0 * by_problem / total,
    }


def notes(summary: Mapping[str, Any], failed: int = 0) -> list[str]:
    """What a reader must know beside the numbers."""
    found = []
    if summary["n_missing"]:
        found.append(
            f"{summary['n_missing']} of {summary['n_benchmark']} problems have no response (for example "
            f"{', '.join(summary['missing'])}): accuracy is over the {summary['n_problems']} that have one; with the "
            f"missing ones counted as wrong it is {summary['accuracy_missing_wrong_pct']:.1f} %"
        )
    if failed:
        has, were = ("has", "was") if failed == 1 else ("have", "were")
        lines = f"{counted(failed, 'line')} of the input {has} no text (null, or a failed request)"
        found.append(f"{lines} and {were} left out")
    if len(summary["samples_per_problem"]) > 1:
        counts = summary["samples_per_problem"]
        found.append(f"problems have between {counts[0]} and {counts[-1]} samples: those with more weigh more")
    if summary["tpf"] is None:
        found.append("no TPF: the responses come without counts of tokens and forwards")
    return found
