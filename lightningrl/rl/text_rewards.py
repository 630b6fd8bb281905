"""dUltra's rewards of a response: how it is laid out, whether it is right, how many forwards it took.

All are raw values before the weights of a run (chinsengi/dUltra-os, diffu_grpo; the published weights are in
`rl/algorithms/dultra.py`). Shapes: (N, G): N groups (prompts) of G responses.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from lightningrl.judges.boxed_answer import extract_boxed, gold_answer
from lightningrl.judges.compat import same_string
from lightningrl.rl.groups import Groups

if TYPE_CHECKING:
    from lightningrl.answering import Answer

_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)
_FENCE = "```"
STEPS_SCALE = 50
"""Denoise forwards that cost as much as one unit of reward."""
APPS_FAILURE = -0.05


def correct(groups: Groups) -> np.ndarray:
    """1 or 0; where the judge grades, 1 if every test passed. (The published reward for mathematics is twice this.)"""
    return groups.correct_NG.astype(float)


def math_string(groups: Groups) -> np.ndarray:
    """2 or 0, as the published code decides it, whatever the judge says: see `math_string_of`."""
    return groups.table(lambda a: math_string_of(gold_answer(a.example) or "", a.text))


def math_format(groups: Groups) -> np.ndarray:
    """See `math_format_of`."""
    return groups.table(lambda a: math_format_of(a.text))


def think_format(groups: Groups) -> np.ndarray:
    """0.5 if both <think> and </think> occur in the response."""
    return groups.table(lambda a: think_format_of(a.text))


def code_fence(groups: Groups) -> np.ndarray:
    """See `code_fence_of`."""
    return groups.table(lambda a: code_fence_of(a.text))


def steps(groups: Groups) -> np.ndarray:
    """Minus the denoise forwards of the response, those behind its stop token among them, over 50."""
    return -groups.table(lambda a: a.trajectory.stats.denoise_forwards) / STEPS_SCALE


def apps(groups: Groups) -> np.ndarray:
    """See `apps_of`."""
    return groups.table(apps_of)


def math_string_of(gold: str, text: str) -> float:
    r"""2 where the last \boxed of both, or all of the text where there is none, is one string after Hendrycks'
    normalisation; else 0.

    >>> math_string_of("12", r"so \boxed{12}"), math_string_of("12", r"so \boxed{12.0}")
    (2.0, 0.0)
    """
    boxed = [extract_boxed(each) or each for each in (gold, text)]
    return 2.0 * same_string(*boxed)


def math_format_of(text: str) -> float:
    r"""0.5 (a + b): a is 1 with an <answer> block, else 0; b is 1 with \boxed in it, or anywhere where there is no
    block, else 0.5.

    >>> math_format_of(r"<answer>\boxed{12}</answer>"), math_format_of("<answer>12</answer>"), math_format_of("12")
    (1.0, 0.75, 0.25)
    """
    block = _ANSWER.search(text)
    inside = text if block is None else block[1]
    return 0.5 * ((block is not None) + (1.0 if "\\boxed" in inside else 0.5))


def think_format_of(text: str) -> float:
    """0.5 if both <think> and </think> occur."""
    return 0.5 * ("<think>" in text and "</think>" in text)


def code_fence_of(text: str) -> float:
    """Within 0 and 1: 0.25 each for a fence, for one that names Python, for two of them, and for nothing behind the
    last; what is behind it costs 0.001 a character, at most 200.

    >>> code_fence_of("```python\\nx = 1\\n```"), code_fence_of("```python\\nx"), code_fence_of("no code")
    (1.0, 0.492, 0.25)
    """
    if not text:
        return 0.0
    behind = text[text.rfind(_FENCE) + len(_FENCE) :].strip() if _FENCE in text else ""
    score = 0.25 * (_FENCE in text) + 0.25 * ("```python" in text.lower()) + 0.25 * (text.count(_FENCE) >= 2)
    score += -0.001 * min(len(behind), 200) if behind else 0.25
    return round(min(1.0, max(0.0, score)), 9)


def apps_of(answer: Answer) -> float:
    """1 if every test passed; -0.05 where the program crashed or ran out of time, unless it was no program (its error
    speaks of syntax or indentation); else 0. Tests passed in part are worth nothing."""
    verdict = answer.verdict
    if verdict.correct:
        return 1.0
    if verdict.status not in ("crashed", "timeout"):
        return 0.0
    return 0.0 if re.search("syntax|indentation", verdict.detail, re.IGNORECASE) else APPS_FAILURE
