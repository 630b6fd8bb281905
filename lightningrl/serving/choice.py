"""From the views of one response to what a client is sent: text that only grows, tokens, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightningrl.inference.llm import LLM
from lightningrl.serving.worker import Job
from lightningrl.tokenization import decode_response, text_pieces
from lightningrl.types import DecodeStats


@dataclass(slots=True)
class Delta:
    """What has become known of a response since the last one."""

    text: str = ""
    tokens: list[tuple[int, str, float]] = field(default_factory=list)
    """Id, text and log-probability (nats) of each token whose text is whole by now; only where they are wanted."""
    cells: dict[str, Any] | None = None
    """What the forwards since then revealed; only where it is wanted."""


class Choice:
    """One response that is being read. most_tokens: it is cut there. stops: texts before the first of which it ends."""

    def __init__(self, llm: LLM, job: Job, *, most_tokens: int, stops: list[str], logprobs: bool, reveal: bool):
        self.llm, self.job, self.stops, self.most = llm, job, stops, most_tokens
        self.logprobs, self.reveal = logprobs, reveal
        self.text = ""
        """What was given out."""
        self.finish: str | None = None
        """`stop` or `length` once it has ended."""
        self.tokens = 0
        """Tokens of the response by the end: those up to and including the first stop token, or until it was cut."""
        self.stats = DecodeStats(0, 0, 0, 0, 0)
        self._given_tokens = 0
        self._shown: set[int] = set()

    def read(self) -> Delta:
        """Returns what the job's newest view, or its end, adds. Raises the job's error."""
        job = self.job
        if job.error is not None:
            raise job.error
        if (whole := job.trajectory) is not None:
            self.stats = whole.stats
            ids, logp, reveal = whole.token_ids, whole.behaviour_logp, whole.reveal_step
            return self._advance(ids[: whole.response_len], ids, logp, reveal, True)
        if (view := job.view) is None:
            return Delta()
        self.stats = view.stats
        return self._advance(view.ids[: view.finished], view.ids, view.logp, view.reveal, False)

    def _advance(self, done: np.ndarray, ids: np.ndarray, logp: np.ndarray, reveal: np.ndarray, ends: bool) -> Delta:
        kept = done[: self.most]
        stopped = np.flatnonzero(np.isin(kept, self.llm.stop_ids))
        kept = kept[: stopped[0]] if len(stopped) else kept
        self.tokens = len(kept) + bool(len(stopped))
        ends = ends or bool(len(stopped)) or len(done) >= self.most
        text = decode_response(self.llm.tokenizer, kept)
        found = [place for place in (text.find(stop) for stop in self.stops) if place >= 0]
        if found:
            text, self.finish = text[: min(found)], "stop"
        elif ends:
            self.finish = "stop" if len(stopped) else "length"
        else:
            text = self._settled(text)
        delta = Delta(text[len(self.text) :] if text.startswith(self.text) else "")
        self.text += delta.text
        if self.logprobs:
            delta.tokens = self._new_tokens(kept, logp)
        if self.reveal:
            delta.cells = self._new_cells(ids, logp, reveal)
        return delta

    def _settled(self, text: str) -> str:
        """The text without what the next token could still change: half a character, or the beginning of a stop."""
        text = text.rstrip("\ufffd")
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self.stops):
                return text[:-size]
        return text

    def _new_tokens(self, kept: np.ndarray, logp: np.ndarray) -> list[tuple[int, str, float]]:
        """The tokens that were not given out yet and whose text lies within what is given out now."""
        pieces = text_pieces(lambda part: decode_response(self.llm.tokenizer, part), kept.tolist())
        ends = np.cumsum([len(piece) for piece in pieces])
        count = int((ends <= len(self.text)).sum())
        while not self.finish and count and not pieces[count - 1]:
            count -= 1  # part of a character that is not whole yet
        first, self._given_tokens = self._given_tokens, max(self._given_tokens, count)
        return [(int(kept[at]), pieces[at], float(logp[at])) for at in range(first, count)]

    def _new_cells(self, ids: np.ndarray, logp: np.ndarray, reveal: np.ndarray) -> dict[str, Any]:
        """Every position revealed since the last call: where, its text, its forward and probability. At the end all of
        them again, each character whole."""
        positions = range(min(len(ids), self.most))
        shown = [at for at in positions if reveal[at] and (self.finish or at not in self._shown)]
        self._shown.update(shown)
        decode = self.llm.tokenizer.decode
        if self.finish and self.job.is_over:
            pieces = text_pieces(lambda part: decode(part, clean_up_tokenization_spaces=False), ids.tolist())
        else:
            pieces = {at: decode([int(ids[at])], clean_up_tokenization_spaces=False) for at in shown}
        cells = [[at, pieces[at], int(reveal[at]), round(float(np.exp(logp[at])), 4)] for at in shown]
        size = self.job.trajectory.block_size if self.job.trajectory else 0
        return {"forward": self.stats.denoise_forwards, "positions": len(positions), "cells": cells} | (
            {"block_size": size} if size else {}
        )


def usage(choices: list[Choice], prompt_tokens: int) -> dict[str, Any]:
    """The API's counts, and the decoder's. Forwards are summed over the choices, and the ratios are those of the sums.
    `decoded_tokens` are what the decoder counts: more than `completion_tokens` where a response was cut inside a block,
    and the numerator of both ratios."""
    tokens, decoded = sum(c.tokens for c in choices), sum(c.stats.response_tokens for c in choices)
    denoise, commit, prefill = (
        sum(getattr(c.stats, f"{kind}_forwards") for c in choices) for kind in ("denoise", "commit", "prefill")
    )
    return {
        "prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens,
        "decoded_tokens": decoded, "denoise_forwards": denoise, "commit_forwards": commit,
        "prefill_forwards": prefill, "tpf": decoded / denoise if denoise else None,
        "tpf_true": decoded / (denoise + commit) if denoise else None,
    }  # fmt: skip
