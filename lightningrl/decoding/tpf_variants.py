"""What published systems count, and how much work a token took: the numbers beside our `tpf`, all from one run.

They are for comparison only: no reward or claim is made of them. docs/counts.md defines every name. `views` makes those
that need nothing but the counts of responses, of trajectories or records. The other functions take one trajectory;
their tokens and steps are numerators and denominators, to be pooled (ratio of sums) or averaged.

- LightningRL (github.com/SJTU-DENG-Lab/LightningRL): the visible text, also what follows the stop token in its block,
  over the distinct steps of the reveal map: `visible_tokens` / `distinct_steps`, `tpf_paper`. It tokenizes the decoded
  text anew, which can give another number than the ids counted here where the text has a second tokenization.
- DiRL (github.com/OpenMOSS/DiRL): all emitted ids over the same steps.
- TraceRL (github.com/Gen-Verse/dLLM-RL) cuts both at the stop token: `response_steps`.
- Engines' totals, prefill and commits included: LMDeploy's, `lmdeploy_forwards`, and that of SDAR's generate.py
  (github.com/JetAstra/SDAR), `generate_py_forwards`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from lightningrl.types import DecodeStats, EvalRecord, Stop, Trajectory

VIEWS = (
    "tpf_harness", "tpf_rounds_mean", "positions_per_token", "positions_per_token_decode", "keys_per_token",
    "keys_per_token_decode",
)  # fmt: skip


def views(
    counts: Sequence[DecodeStats] | Sequence[EvalRecord], stops: Sequence[Stop | None]
) -> dict[str, float | None]:
    """Returns the numbers of `VIEWS`; None for each that needs a count which a response lacks. stops: how each ended.

    - `tpf_harness`, as the harness of d3LLM counts (github.com/hao-ai-lab/d3LLM): content tokens, which are the
      response's without its stop token, over all forwards, prefill and commits included, as a ratio of sums.
    - `tpf_rounds_mean`, as the engine Diffulex counts (github.com/SJTU-DENG-Lab/Diffulex): the mean over responses of
      response tokens over the rounds for which the response was scheduled, prefill and commits included.
    - `positions_per_token`: query positions computed, over response tokens; `keys_per_token`: keys attended to, summed
      over those positions, over response tokens. Both as ratios of sums, with the prefill; `_decode`: without it.
    """
    tokens, denoise, commit, prefill = (
        _column(counts, name) for name in ("response_tokens", "denoise_forwards", "commit_forwards", "prefill_forwards")
    )
    content = tokens - np.array([np.nan if stop is None else stop == "eos" for stop in stops])
    forwards = denoise + commit + prefill
    found = {"tpf_harness": content.sum() / forwards.sum(), "tpf_rounds_mean": (tokens / forwards).mean()}
    for what in ("positions", "keys"):
        decoding, prefilling = (_column(counts, f"{phase}_{what}") for phase in ("decode", "prefill"))
        found[f"{what}_per_token"] = (decoding + prefilling).sum() / tokens.sum()
        found[f"{what}_per_token_decode"] = decoding.sum() / tokens.sum()
    return {name: None if np.isnan(found[name]) else float(found[name]) for name in VIEWS}


def _column(counts: Sequence[DecodeStats] | Sequence[EvalRecord], name: str) -> np.ndarray:
    """A count of all responses, NaN where it is None."""
    return np.array([getattr(each, name) for each in counts], dtype=np.float64)


def visible_tokens(trajectory: Trajectory, special_ids: Collection[int]) -> int:
    """Revealed ids, behind the stop token too, that are no special token: the visible text's length in tokens."""
    shown = trajectory.token_ids[trajectory.reveal_step > 0]
    return int((~np.isin(shown, list(special_ids))).sum())


def distinct_steps(trajectory: Trajectory) -> int:
    """Denoise forwards that revealed something anywhere: all of them."""
    return len(np.unique(trajectory.reveal_step[trajectory.reveal_step > 0]))


def response_steps(trajectory: Trajectory) -> int:
    """Denoise forwards that revealed something up to and including the first stop token."""
    return len(np.unique(trajectory.reveal_step[: trajectory.response_len]))


def tpf_paper(trajectory: Trajectory, special_ids: Collection[int]) -> float:
    return visible_tokens(trajectory, special_ids) / distinct_steps(trajectory)


def _blocks(trajectory: Trajectory) -> int:
    """Blocks that were decoded, the one that begins with prompt tokens included."""
    size, begin = trajectory.block_size, len(trajectory.prompt_ids) - trajectory.origin
    return (begin + len(trajectory.token_ids)) // size - begin // size


def lmdeploy_forwards(trajectory: Trajectory) -> int:
    """A commit a block but the last; the prefill denoises too, unless the prompt ends on the grid."""
    on_grid = len(trajectory.prompt_ids) % trajectory.block_size == 0
    return trajectory.stats.denoise_forwards + _blocks(trajectory) - 1 + on_grid


def generate_py_forwards(trajectory: Trajectory) -> int:
    """A prefill if the prompt fills a block, and a commit of every decoded block."""
    prefill = len(trajectory.prompt_ids) >= trajectory.block_size
    return prefill + trajectory.stats.denoise_forwards + _blocks(trajectory)
