"""What a step's rollouts say of themselves: the curves of the paper's figures are columns of these rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightningrl.rl.advantages import collapse_ratio, normalise_group
from lightningrl.rl.rollout import Drawn, Groups

COLLAPSE_EPS = (0.01, 0.05, 0.1, 0.5)


def rollout_metrics(drawn: Drawn, graded: bool, wanted: int) -> dict[str, Any]:
    """Raw rewards, accuracy, TPF, lengths over all sampled groups; acceptance.

    The total reward is the raw sum of accuracy reward and TPF, whatever the algorithm makes of them: one curve that can
    be compared between algorithms. `wanted`: groups the step asked for.
    """
    groups, kept = drawn.sampled, drawn.kept
    counts = {
        "groups_sampled": len(groups.answers),
        "groups_kept": len(kept.answers),
        "groups_missing": wanted - len(kept.answers),
        "groups_unscorable": drawn.unscorable,
        "rounds": drawn.rounds,
        "acceptance_rate": len(kept.answers) / max(1, len(groups.answers)),
    }
    if not groups.answers:
        return counts
    accuracy_NG, tpf_NG = groups.accuracy_reward(graded), groups.tpf_NG
    stats = [a.trajectory.stats for group in groups.answers for a in group]
    statuses = [a.verdict.status for group in groups.answers for a in group]
    forwards = sum(s.denoise_forwards for s in stats)
    return counts | {
        "reward_total_mean": float((accuracy_NG + tpf_NG).mean()),
        "reward_accuracy_mean": float(accuracy_NG.mean()),
        "reward_speed_mean": float(tpf_NG.mean()),
        "accuracy_pct": 100 * float(groups.correct_NG.mean()),
        "tpf": sum(s.response_tokens for s in stats) / forwards,
        "tpf_true": sum(s.response_tokens for s in stats) / (forwards + sum(s.commit_forwards for s in stats)),
        "forwards_per_problem": forwards / len(stats),
        "response_tokens_mean": float(groups.length_NG.mean()),
        "truncated_pct": 100 * float(np.mean([a.trajectory.stop == "length" for g in groups.answers for a in g])),
        "statuses": {status: statuses.count(status) for status in sorted(set(statuses))},
    }


def collapse_metrics(kept: Groups, advantage_NG: np.ndarray, graded: bool) -> dict[str, Any]:
    """Collapse ratio of the final advantages of the kept groups, those that were trained with.

    `collapse_ratio_<eps>_sum` is the counterfactual on the same rollouts: raw rewards summed, then normalised in the
    group, as without decoupling.
    """
    summed_NG = normalise_group(kept.accuracy_reward(graded) + kept.tpf_NG)
    found = {f"collapse_ratio_{eps}": collapse_ratio(advantage_NG, eps) for eps in COLLAPSE_EPS}
    return found | {f"collapse_ratio_{eps}_sum": collapse_ratio(summed_NG, eps) for eps in COLLAPSE_EPS}
