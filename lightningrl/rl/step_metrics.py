"""What a step's rollouts say of themselves: the curves of the paper's figures are columns of these rows."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from lightningrl.decoding.tpf_variants import distinct_steps, views, visible_tokens
from lightningrl.rl.groups import Groups
from lightningrl.rl.rewards import FUNCTIONS, accuracy, normalise_group, tpf

if TYPE_CHECKING:
    from lightningrl.rl.rollout import RolloutBatch

COLLAPSE_EPS = (0.01, 0.05, 0.1, 0.5)


def rollout_metrics(drawn: RolloutBatch, wanted: int, special_ids: Collection[int] = ()) -> dict[str, Any]:
    """Returns raw rewards, accuracy, TPF by each definition, lengths over all sampled groups; acceptance and losses.

    The total reward is the raw sum of accuracy reward and TPF in every run, a curve to compare algorithms by. wanted:
    groups the step asked for; special_ids: tokens without visible text, for TPF as the paper's code counts it.
    """
    groups, kept = drawn.sampled, drawn.kept
    counts = drawn.losses.counts() | {
        "groups_sampled": len(groups.answers),
        "groups_kept": len(kept.answers),
        "groups_missing": wanted - len(kept.answers),
        "rounds": drawn.rounds,
        "acceptance_rate": len(kept.answers) / max(1, len(groups.answers)),
    }
    if not groups.answers:
        return counts
    raw = {name: reward(groups) for name, reward in FUNCTIONS.items()}
    trajectories = groups.trajectories
    stats = [t.stats for t in trajectories]
    visible = [visible_tokens(t, special_ids) for t in trajectories]
    distinct = [distinct_steps(t) for t in trajectories]
    statuses = [a.verdict.status for group in groups.answers for a in group]
    forwards, tokens = sum(s.denoise_forwards for s in stats), sum(s.response_tokens for s in stats)
    return counts | {
        "reward_total_mean": float((raw["accuracy"] + raw["tpf"]).mean()),
        "reward_accuracy_mean": float(raw["accuracy"].mean()),
        "reward_speed_mean": float(raw["tpf"].mean()),
        "reward_tpf_true_mean": float(raw["tpf_true"].mean()),
        "reward_forwards_mean": float(raw["forwards"].mean()),
        "accuracy_pct": 100 * float(groups.correct_NG.mean()),
        "tpf": tokens / forwards,
        "tpf_mean": float(np.mean([s.tpf for s in stats])),
        "tpf_paper": sum(visible) / sum(distinct),
        "tpf_paper_mean": float(np.mean(np.divide(visible, distinct))),
        "tpf_true_mean": float(np.mean([s.tpf_true for s in stats])),
        "tpf_true": tokens / (forwards + sum(s.commit_forwards for s in stats)),
        **{name: value for name, value in views(stats, [t.stop for t in trajectories]).items() if value is not None},
        "forwards_per_problem": forwards / len(stats),
        "response_tokens_mean": float(groups.length_NG.mean()),
        "truncated_pct": 100 * float(np.mean([t.stop == "length" for t in trajectories])),
        "statuses": {status: statuses.count(status) for status in sorted(set(statuses))},
    }


def collapse_ratio(advantage_NG: np.ndarray, eps: float) -> float:
    """Returns the share of the pairs i < j of a group whose advantages differ by less than eps, over all groups."""
    first, second = np.triu_indices(advantage_NG.shape[1], k=1)
    return float((np.abs(advantage_NG[:, first] - advantage_NG[:, second]) < eps).mean())


def advantage_metrics(kept: Groups, advantage_NG: np.ndarray) -> dict[str, Any]:
    """Returns the spread and collapse ratio of the final advantages of the kept groups, those that were trained with.

    `collapse_ratio_<eps>_sum` is the counterfactual on the same rollouts: raw rewards summed, then normalised in the
    group, as without decoupling.
    """
    summed_NG = normalise_group(accuracy(kept) + tpf(kept))
    spread = {f"advantage_{name}": float(getattr(advantage_NG, name)()) for name in ("mean", "std", "min", "max")}
    found = {f"collapse_ratio_{eps}": collapse_ratio(advantage_NG, eps) for eps in COLLAPSE_EPS}
    return spread | found | {f"collapse_ratio_{eps}_sum": collapse_ratio(summed_NG, eps) for eps in COLLAPSE_EPS}
