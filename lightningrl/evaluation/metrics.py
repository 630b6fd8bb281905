"""From evaluation records to numbers: accuracy, every TPF by its own name, forwards, intervals.

`summarise` returns the `EvalSummary` of one (policy, benchmark, threshold); `problem_sums` the per-problem sums over
all thresholds, which AUP and paired intervals resample. Every record counts in every denominator, also an answer whose
gold was defective (`gold_error`): it counts as wrong, and the status counts show it.

Shapes: N problems (sorted by uid), T thresholds (rising), R bootstrap replicates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import numpy as np

from lightningrl.decoding.tpf_variants import views
from lightningrl.errors import StageError
from lightningrl.evaluation.intervals import (
    bootstrap_weights,
    percentile_interval,
    pooled_ratio,
    triple,
    wilson_by_problem,
    with_interval,
)
from lightningrl.types import EvalRecord, VerdictStatus
from lightningrl.utils.numbers import shortest

STATUSES: tuple[str, ...] = get_args(VerdictStatus)
"""Every verdict status, in the order in which tables show them."""
WORK = ("positions", "keys")
"""Measures of a response's work; each is counted with the prefill and without it."""


@dataclass(frozen=True, slots=True)
class EvalSummary:
    """The numbers of one (policy, benchmark, threshold). `_low` and `_high` bound 95 % intervals over problems."""

    policy: str
    benchmark: str
    threshold: float
    n_problems: int
    n_samples: int
    """Records of all problems together."""
    accuracy_pct: float
    """Mean correctness over samples, percent; its interval is Wilson's by problem."""
    accuracy_pct_low: float
    accuracy_pct_high: float
    compat_accuracy_pct: float | None
    """The accuracy by the published grader's rules, over the records that have its verdict; None where none has."""
    tpf: float
    """Response tokens over denoise forwards, pooled (ratio of sums): the primary number."""
    tpf_low: float
    tpf_high: float
    tpf_mean: float
    """The mean of the samples' own ratios."""
    tpf_true: float
    """Response tokens over denoise and separate commit forwards, pooled."""
    tpf_true_mean: float
    tpf_paper: float | None
    """The TPF that the paper's code counts, pooled (`paper_counts`); None where a record does not say."""
    tpf_paper_mean: float | None
    tpf_harness: float | None
    """Content tokens over all forwards, pooled. This and the next five: `decoding.tpf_variants.views`; None where a
    record lacks a count that they need."""
    tpf_rounds_mean: float | None
    positions_per_token: float | None
    positions_per_token_low: float | None
    positions_per_token_high: float | None
    positions_per_token_decode: float | None
    keys_per_token: float | None
    keys_per_token_low: float | None
    keys_per_token_high: float | None
    keys_per_token_decode: float | None
    forwards_per_problem: float
    """Mean denoise forwards that one answer takes."""
    forwards_per_problem_low: float
    forwards_per_problem_high: float
    response_tokens_mean: float
    """Mean response tokens, the first stop token included."""
    truncated_pct: float
    """Percent of samples that ended at the length limit (`stop` is "length")."""
    status: dict[str, int] = field(default_factory=dict)
    """Samples by verdict status; every status is a key."""
    family: str | None = None
    """The `model_type` of the models that decoded the records, blanks between several; None where none is known."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Numbers = dict[str, tuple[np.ndarray, np.ndarray]]
"""Name -> as counted [T], and in each replicate of the bootstrap [R, T]."""


def resampled_curves(numbers: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Returns [R, T] TPF and accuracy (percent)."""
    return numbers["tpf"][1], numbers["accuracy_pct"][1]


@dataclass(frozen=True, slots=True, eq=False)
class ProblemSums:
    """Per-problem sums over the samples of one (policy, benchmark) at all thresholds: what intervals resample."""

    uids: tuple[str, ...]
    """[N] sorted."""
    thresholds: tuple[float, ...]
    """[T] rising."""
    samples_TN: np.ndarray
    correct_TN: np.ndarray
    tokens_TN: np.ndarray
    """Response tokens."""
    forwards_TN: np.ndarray
    """Denoise forwards."""

    @property
    def benchmark(self) -> str:
        return self.uids[0].split("/")[0]

    def numbers(self, weights_RN: np.ndarray) -> Numbers:
        """Returns what the sums come to: `accuracy_pct`, `tpf`, `forwards_per_problem` and `response_tokens_mean`."""

        def ratio(above_TN: np.ndarray, below_TN: np.ndarray, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
            return factor * above_TN.sum(1) / below_TN.sum(1), factor * pooled_ratio(above_TN, below_TN, weights_RN)

        return {
            "accuracy_pct": ratio(self.correct_TN, self.samples_TN, 100.0),
            "tpf": ratio(self.tokens_TN, self.forwards_TN),
            "forwards_per_problem": ratio(self.forwards_TN, self.samples_TN),
            "response_tokens_mean": ratio(self.tokens_TN, self.samples_TN),
        }

    def points(self) -> list[tuple[float, float]]:
        """Returns (tpf, accuracy_pct) of each threshold: the curve whose area is the AUP."""
        tpf_T = self.tokens_TN.sum(1) / self.forwards_TN.sum(1)
        accuracy_T = 100.0 * self.correct_TN.sum(1) / self.samples_TN.sum(1)
        return [(float(tpf), float(accuracy)) for tpf, accuracy in zip(tpf_T, accuracy_T, strict=True)]


def summarise(
    records: Sequence[EvalRecord], n_bootstrap: int = 1000, seed: int = 0, require_counts: bool = True
) -> EvalSummary:
    """Returns the summary of the records of one policy, benchmark and threshold, in any order.

    require_counts: whether a record without counts of tokens and forwards is an error; else the numbers that need what
    is missing (or `stop`) are NaN. Raises StageError as `problem_sums` does, and for several thresholds.
    """
    sums = problem_sums(records, require_counts)
    if len(sums.thresholds) != 1:
        raise StageError(f"a summary is of one threshold; found {list(sums.thresholds)}. Split the records first.")
    samples_N, correct_N, tokens_N, forwards_N = (
        each[0] for each in (sums.samples_TN, sums.correct_TN, sums.tokens_TN, sums.forwards_TN)
    )
    records = sorted(records, key=lambda record: (record.uid, record.sample))
    tokens = np.array([record.response_tokens for record in records], float)
    denoise = np.array([record.denoise_forwards for record in records], float)
    tpf, tpf_mean = _ratios(tokens, denoise)
    tpf_true, tpf_true_mean = _ratios(tokens, denoise + np.array([r.commit_forwards for r in records], float))
    visible, revealing = zip(*map(paper_counts, records), strict=True)
    tpf_paper = tpf_paper_mean = None
    if None not in visible and 0 not in revealing:
        tpf_paper, tpf_paper_mean = _ratios(np.array(visible, float), np.array(revealing, float))
    compat = [record.compat for record in records if record.compat is not None]
    answers = [record for record in records if record.status != "no_answer"]
    truncated = [np.nan if record.stop is None else record.stop == "length" for record in answers]
    counts = Counter(record.status for record in records)
    weights_RN = bootstrap_weights(len(sums.uids), n_bootstrap, seed, sums.benchmark)
    accuracy = (float(100.0 * correct_N.sum() / samples_N.sum()), *wilson_by_problem(correct_N, samples_N))
    return EvalSummary(
        policy=records[0].policy,
        benchmark=sums.benchmark,
        threshold=sums.thresholds[0],
        n_problems=len(sums.uids),
        n_samples=len(records),
        **dict(zip(triple("accuracy_pct"), accuracy, strict=True)),
        compat_accuracy_pct=100.0 * sum(compat) / len(compat) if compat else None,
        **with_interval("tpf", tpf, pooled_ratio(tokens_N, forwards_N, weights_RN)),
        tpf_mean=tpf_mean,
        tpf_true=tpf_true,
        tpf_true_mean=tpf_true_mean,
        tpf_paper=tpf_paper,
        tpf_paper_mean=tpf_paper_mean,
        **views(records, [record.stop for record in records]),
        **_work_intervals(records, sums, weights_RN),
        **with_interval("forwards_per_problem", denoise.mean(), pooled_ratio(forwards_N, samples_N, weights_RN)),
        response_tokens_mean=float(tokens.mean()),
        truncated_pct=float(100.0 * sum(truncated) / len(records)),
        status={status: counts.get(status, 0) for status in STATUSES},
        family=" ".join(sorted({record.family for record in records if record.family is not None})) or None,
    )


def _work_intervals(
    records: Sequence[EvalRecord], sums: ProblemSums, weights_RN: np.ndarray
) -> dict[str, float | None]:
    """Returns the 95 % intervals of positions and of keys per token; None where a record lacks a count of them."""
    column = {uid: n for n, uid in enumerate(sums.uids)}
    bounds: dict[str, float | None] = {}
    for work in WORK:
        work_N = np.zeros(len(column))
        counts = ([getattr(record, f"{phase}_{work}") for record in records] for phase in ("prefill", "decode"))
        for counted in counts:
            np.add.at(work_N, [column[record.uid] for record in records], np.array(counted, float))
        _, *names = triple(f"{work}_per_token")
        found = percentile_interval(pooled_ratio(work_N, sums.tokens_TN[0], weights_RN))
        bounds |= {name: None if np.isnan(end) else end for name, end in zip(names, found, strict=True)}
    return bounds


def _ratios(tokens: np.ndarray, forwards: np.ndarray) -> tuple[float, float]:
    """Returns tokens per forward, pooled and as the mean of the samples' own ratios."""
    return float(tokens.sum() / forwards.sum()), float((tokens / forwards).mean())


def paper_counts(record: EvalRecord) -> tuple[int | None, int]:
    """Returns what `tpf_paper` divides: visible tokens, None where unknown, and forwards that revealed something."""
    return record.visible_tokens, sum(count > 0 for count in record.tokens_by_step)


def problem_sums(records: Iterable[EvalRecord], require_counts: bool = True) -> ProblemSums:
    """Returns the per-problem sums of one policy on one benchmark.

    require_counts: whether a record without counts of tokens and forwards is an error; else its sums are NaN. Raises
    StageError for records that are none, mixed, twice, without a forward, or not of the same problems at a threshold.
    """
    records = list(records)
    if not records:
        raise StageError("no evaluation records were given. Run the evaluation stage first.")
    for what, found in (
        ("policy", {record.policy for record in records}),
        ("benchmark", {record.uid.split("/")[0] for record in records}),
    ):
        if len(found) > 1:
            raise StageError(f"records of one {what} were expected, found {sorted(found)}. Summarise each by itself.")
    row = {threshold: t for t, threshold in enumerate(sorted({record.threshold for record in records}))}
    column = {uid: n for n, uid in enumerate(sorted({record.uid for record in records}))}
    sums = np.zeros((4, len(row), len(column)), dtype=np.int64 if require_counts else np.float64)
    seen: set[tuple[float, str, int]] = set()
    for record in records:
        name, key = f"{record.uid} sample {record.sample}", (record.threshold, record.uid, record.sample)
        if key in seen:
            raise StageError(f"{name} at threshold {shortest(record.threshold)} comes twice.")
        counts = (record.response_tokens, record.denoise_forwards)
        if require_counts and None in counts:
            raise StageError(
                f"{name} has no counts of tokens and forwards, so it has no TPF and no AUP. Take records of an engine "
                "that counts."
            )
        if counts[1] == 0:
            raise StageError(f"{name} has no denoise forward; every response takes one.")
        seen.add(key)
        counts = (np.nan if count is None else count for count in counts)
        sums[:, row[record.threshold], column[record.uid]] += (1, record.correct, *counts)
    if (sums[0] == 0).any():
        t, n = np.argwhere(sums[0] == 0)[0]
        raise StageError(
            f"{records[0].policy}: {list(column)[n]} has no record at threshold {shortest(list(row)[t])}; every "
            "threshold must hold the same problems. Run the evaluation again, it fills in what is missing."
        )
    return ProblemSums(tuple(column), tuple(row), *sums)
