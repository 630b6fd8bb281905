"""The best and the worst response of a group now and then, for people to read: what the rewards really reward.

A row (`samples.jsonl`) is a function of a step's kept groups, their rewards and the run's seed. Shown is the response
up to the first stop token; what the decoder revealed behind it was context only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from lightningrl.rl.groups import Groups
from lightningrl.tokenization import text_pieces
from lightningrl.types import Trajectory

SAMPLE_EVERY = 10
"""Steps between two samples."""
BLOCK_EDGE = "│"
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_KEY = 0x5A
"""Tells this draw from others that are keyed by (seed, step)."""
_HEAD = f"""# Samples

Of one group a step, drawn by the run's seed, the response with the highest and the one with the lowest sum of raw
rewards. A small number follows what one forward revealed, counted from 1; {BLOCK_EDGE} stands between blocks.
"""


def sample_row(
    kept: Groups, rewards: Mapping[str, np.ndarray], tokenizer: Any, *, seed: int, step: int
) -> dict[str, Any]:
    """Returns one line of `samples.jsonl`, JSON values. rewards: by name, (N, G), raw.

    Of equal sums the first is the best and the last the worst.
    """
    chosen = int(np.random.default_rng([seed, step, _KEY]).integers(len(kept.answers)))
    group = kept.answers[chosen]
    by_name = {name: np.asarray(values_NG, dtype=float)[chosen] for name, values_NG in rewards.items()}
    total_G = sum(by_name.values(), np.zeros(len(group)))
    best, worst = int(np.argmax(total_G)), len(group) - 1 - int(np.argmin(total_G[::-1]))

    def response(index: int) -> dict[str, Any]:
        trajectory, verdict = group[index].trajectory, group[index].verdict
        return {
            "sample": trajectory.sample,
            "text": group[index].text,
            "runs": _runs(trajectory, tokenizer),
            "stop": trajectory.stop,
            "response_tokens": trajectory.response_len,
            "denoise_forwards": trajectory.stats.denoise_forwards,
            "tpf": trajectory.stats.tpf,
            "verdict": {name: getattr(verdict, name) for name in ("correct", "value", "status", "extracted", "detail")},
            "rewards": {name: _finite(values_G[index]) for name, values_G in by_name.items()},
            "reward_sum": _finite(total_G[index]),
        }

    example = group[0].example
    problem = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in example.messages)
    head = {"step": step, "uid": example.uid, "problem": problem, "block_size": group[0].trajectory.block_size}
    return head | {"best": response(best), "worst": response(worst)}


def _runs(trajectory: Trajectory, tokenizer: Any) -> list[list[Any]]:
    """Returns [text, forward, block] of neighbours that one forward revealed in one block; all tokens are text."""
    pieces = text_pieces(
        lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False), trajectory.response_ids.tolist()
    )
    start, size = len(trajectory.prompt_ids), trajectory.block_size
    start -= trajectory.origin
    block_L = (start + np.arange(len(pieces))) // size - start // size + 1
    marked = zip(pieces, trajectory.reveal_step.tolist(), block_L.tolist(), strict=False)
    return [["".join(piece for piece, *_ in run), *key] for key, run in groupby(marked, key=lambda token: token[1:])]


def samples_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows as Markdown that reads well as plain text too."""
    return "\n".join([_HEAD, *map(_row_text, rows)] if rows else [_HEAD, "There are none.\n"])


def _row_text(row: Mapping[str, Any]) -> str:
    parts = [f"## Step {row['step']}: {row['uid']}\n", _fenced(row["problem"])]
    for which in ("best", "worst"):
        found = row[which]
        verdict, names = found["verdict"], found["rewards"].items()
        parts.append(
            f"**{which}**: {_number(found['reward_sum'])} = {' + '.join(f'{n} {_number(v)}' for n, v in names)}; "
            f"{'right' if verdict['correct'] else 'not right'} ({verdict['status']}); {found['tpf']:.2f} tokens per "
            f"forward ({found['response_tokens']} tokens, {found['denoise_forwards']} forwards, ended by "
            f"{found['stop']})\n"
        )
        parts.append(_fenced(marked_text(found["runs"])))
        if verdict["detail"]:
            parts.append(_fenced(verdict["detail"]))
    return "\n".join(parts)


def marked_text(runs: Sequence[Sequence[Any]]) -> str:
    """Returns each run followed by the number of its forward, a bar between blocks.

    >>> marked_text([["So the", 1, 1], [" answer", 2, 1], [" is 4", 3, 2]])
    'So the₁ answer₂│ is 4₃'
    """
    text, block = "", runs[0][2] if runs else 0
    for piece, forward, its_block in runs:
        text += BLOCK_EDGE * (its_block - block) + piece + str(forward).translate(SUBSCRIPTS)
        block = its_block
    return text


def _fenced(text: str) -> str:
    """Returns a code block that its content cannot end, without characters that a terminal or a page would obey."""
    shown = "".join(c if c in "\n\t" or c.isprintable() else f"<U+{ord(c):04X}>" for c in text)
    fence = "~" * max(3, 1 + max(map(len, re.findall("~+", shown)), default=0))
    return f"{fence}text\n{shown}\n{fence}\n"


def _finite(value: float) -> float | None:
    """JSON has no infinities."""
    return float(value) if math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2f}"
