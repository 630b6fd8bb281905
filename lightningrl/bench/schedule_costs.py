"""Forwards and positions of a response by the schedule that decodes it: blocks, canvases, windows, token by token.

A forward over a canvas computes all of it, over a cache its own part, so the same number of forwards is other work:
a published decoder's cost is its forwards times what each computes. Exact, given the forwards, as a test against a
decoder's counts shows: `full_sequence`, `whole_sequence`, `prefix_cache` and `dual_cache` with as many forwards in each
block, blocks, `autoregressive`. Selectors of a number of steps (`STEPPED`) say the forwards themselves; elsewhere they
follow from the TPF. Assumed: how many blocks a window has open, and what d3LLM's cache leaves to compute.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from lightningrl.bench.costs import Lengths, decoding_work, prefill_work, work_of
from lightningrl.config.decoding import Decoding

CANVASES = ("full_sequence", "whole_sequence", "prefix_cache", "dual_cache", "multi_block")
"""Schedules that compute or keep the whole canvas, whatever is masked in it."""
WINDOWS = ("block_pipeline", "block_buffer")
STEPPED = ("quota", "timestep", "random_timestep")
"""Selectors whose parameter is a number of steps, from which the number of forwards follows."""
OPEN_BLOCKS = 2.0
"""The assumed mean number of open blocks of a window."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The expected cost of one response; works are those of `costs.work_of`."""

    forwards: float
    """Forwards that may reveal something."""
    prefill: np.ndarray
    decode: np.ndarray

    @property
    def positions(self) -> float:
        """Query positions, those of the prefill included."""
        return float(self.prefill[0] + self.decode[0])


def fills_canvas(decoding: Decoding) -> bool:
    """Returns whether a response takes the memory of its longest, however short it is."""
    return decoding.schedule in CANVASES


def decoded(decoding: Decoding, parameter: float, lengths: Lengths, longest: int, block_size: int) -> Decoded:
    """Returns what a response costs. parameter: the selector's; longest: of a response, the length of a canvas;
    block_size: the model's."""
    name, options = decoding.schedule, decoding.schedule_options
    size = int(options.get("block_size") or block_size)
    prompt, response = lengths.prompt_tokens, min(lengths.response_tokens, float(longest))
    if name == "autoregressive":
        seen = prompt + response / 2
        return Decoded(response, prefill_work(lengths, 1), work_of(response, response, seen))
    shown = longest if decoding.stop == "whole_canvas" else response
    blocks = 1 if name == "whole_sequence" else max(1, ceil(shown / size))
    forwards = max(response / lengths.tpf, blocks)
    is_stepped = decoding.selector in STEPPED and name not in (*WINDOWS, "sub_block", "multi_block")
    if is_stepped:  # a canvas has its own grid, which begins at the prompt's end
        first = 0 if name in CANVASES else size - int(prompt) % size
        opened = (
            [longest] if name == "whole_sequence" else [first] * (first > 0) + [size] * ceil((shown - first) / size)
        )
        forwards = sum(stepped(decoding, parameter, each, size) for each in opened)
    nothing = np.zeros(3)
    if name in CANVASES:
        end = prompt + longest
        computed = _canvas_positions(decoding, forwards, blocks, prompt, longest, size)
        opened = (longest if name == "whole_sequence" else size) / 2
        return Decoded(forwards, nothing, work_of(computed, forwards * opened, end))
    if name in WINDOWS:  # the first forward computes the prompt, too, and each block is computed once more, clean
        computed = prompt + size * (OPEN_BLOCKS * forwards + blocks)
        return Decoded(forwards, nothing, work_of(computed, forwards * OPEN_BLOCKS * size / 2, prompt + response / 2))
    if name == "sub_block":
        part = int(options.get("sub_block", 8))
        each = part if options.get("caches_block") else size
        seen = prompt + response / 2 + size
        return Decoded(forwards, prefill_work(lengths, size), work_of(forwards * each, forwards * part / 2, seen))
    if not is_stepped:
        return Decoded(lengths.forwards, prefill_work(lengths, size), decoding_work(lengths, size))
    lengths = replace(lengths, tpf=lengths.response_tokens / forwards)
    return Decoded(forwards, prefill_work(lengths, size), decoding_work(lengths, size))


def stepped(decoding: Decoding, steps: float, masked: int, size: int) -> float:
    """Returns the forwards on so many masked positions of a block, by a selector of `STEPPED`; of `random_timestep`
    their mean, since it ends by chance before its last step. size: of a whole block.

    >>> stepped(Decoding(selector="quota"), 3, 4, 4), stepped(Decoding(selector="quota"), 4, 2, 4)
    (3, 2)
    """
    options, count = decoding.selector_options, int(steps)
    if decoding.selector == "quota":
        share, rest = divmod(size, count)
        left, forwards = masked, 0
        while left > 0:
            left -= max(1, share + (forwards < rest))
            forwards += 1
    elif decoding.selector == "timestep":
        forwards = max(count, min(2, masked)) if options.get("opening") else count
    else:
        hidden = np.linspace(1.0, float(options.get("eps", 1e-3)), count + 1)[:-1]
        forwards = float((1 - (1 - hidden) ** masked).sum())
    least, most = (decoding.schedule_options.get(f"{end}_forwards") for end in ("least", "most"))
    return min(max(forwards, float(least or 0)), float(most or "inf"))


def _canvas_positions(
    decoding: Decoding, forwards: float, blocks: int, prompt: float, longest: int, size: int
) -> float:  # fmt: skip
    """Returns the query positions of a response on a canvas, as many forwards in each of its blocks."""
    options, end = decoding.schedule_options, prompt + longest
    behind = (longest + size) / 2
    """The mean number of positions from a block's first on."""
    if decoding.schedule == "multi_block" and options.get("cache_delay_iter") is not None:
        every = float(options.get("refresh_interval") or forwards)
        whole = min(forwards, max(forwards / every, float(blocks)))  # blocks wait, each by a forward over everything
        return whole * end + (forwards - whole) * behind
    if decoding.schedule not in ("prefix_cache", "dual_cache"):
        return forwards * end
    each, refresh = forwards / blocks, float(options.get("refresh_every") or 0)
    whole = ceil(each / refresh) if refresh else 1
    part = behind if decoding.schedule == "prefix_cache" else size
    return blocks * (whole * end + max(0.0, each - whole) * part)
