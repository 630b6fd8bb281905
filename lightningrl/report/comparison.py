"""The paired difference of TPF between the records of two models, which the frontier's tables lack. No torch."""

from __future__ import annotations

import numpy as np

from lightningrl.evaluation.intervals import bootstrap_weights, paired_ratio_difference
from lightningrl.evaluation.metrics import problem_sums
from lightningrl.report.frontier import Evaluation, primary_index


def tpf_difference(
    evaluation: Evaluation, base: Evaluation, primary_threshold: float, n_bootstrap: int, seed: int = 0
) -> tuple[float, float, float]:
    """Returns TPF (pooled, tokens per forward) minus the base's at the primary threshold, with its 95 % interval.

    The replicates draw the same problems for both, as `frontier.collect` does. Both evaluations must cover the same
    problems, which `collect` checks. Raises StageError when records are missing.
    """
    tokens_N, forwards_N = _at(evaluation, primary_threshold)
    base_tokens_N, base_forwards_N = _at(base, primary_threshold)
    weights_RN = bootstrap_weights(len(tokens_N), n_bootstrap, seed, evaluation.benchmark)
    low, high = paired_ratio_difference(tokens_N, forwards_N, base_tokens_N, base_forwards_N, weights_RN)
    value = tokens_N.sum() / forwards_N.sum() - base_tokens_N.sum() / base_forwards_N.sum()
    return float(value), low, high


def _at(evaluation: Evaluation, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    sums = problem_sums(evaluation.records)
    t = primary_index(evaluation, sums, threshold)
    return sums.tokens_TN[t], sums.forwards_TN[t]
