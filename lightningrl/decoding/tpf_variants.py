"""What published systems count, from a trajectory's own data: the numbers of other papers beside our `tpf`.

They are for comparison only: no reward or claim is made of them. Tokens and steps are numerators and denominators of
one response, to be pooled (ratio of sums) or averaged.

- LightningRL (github.com/SJTU-DENG-Lab/LightningRL): the visible text, also what follows the stop token in its block,
  over the distinct steps of the reveal map: `visible_tokens` / `distinct_steps`, `tpf_paper`. It tokenizes the decoded
  text anew, which can give another number than the ids counted here where the text has a second tokenization.
- DiRL (github.com/OpenMOSS/DiRL): all emitted ids over the same steps.
- TraceRL (github.com/Gen-Verse/dLLM-RL) cuts both at the stop token: `response_steps`.
- Engines' totals, prefill and commits included: LMDeploy's, `lmdeploy_forwards`, and that of SDAR's generate.py
  (github.com/JetAstra/SDAR), `generate_py_forwards`.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from lightningrl.types import Trajectory


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
