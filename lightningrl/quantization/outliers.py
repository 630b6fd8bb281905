"""Outliers among the inputs of linear layers: which layers, which tokens, masked or clear, which channels.

All measures are free of scale. Of a token: the ratio of its greatest |x| to the median of its |x|, and whether that is
30, 100 or 300 at least (Sun et al., arXiv 2402.17762, call values a thousand times the median massive; a token grid of
b bits is in trouble much earlier); the kurtosis of its inputs (3 for a Gaussian); and the squared error that a grid of
4 bits over its range makes, of the inputs as they are and rotated by a Hadamard transform. Of a channel: its greatest
|x| over the median channel's; it is a normal outlier where its median |x| is 6 or more times that of all. Shapes: T
tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightningrl.errors import ConfigError
from lightningrl.models.transformer import Transformer
from lightningrl.quantization.hadamard import hadamard
from lightningrl.quantization.inputs import TokenGrid
from lightningrl.quantization.layerwise import GROUPS, LayerWalk
from lightningrl.quantization.protocol import Calibration, Copied

RATIOS, NORMAL = (30, 100, 300), 6.0
BITS = 4
"""Of the grids whose errors are measured."""
TOKENS = 8192
"""Positions that are looked at, at most: one layer's inputs are held at a time."""
SURFACE = (48, 128)
"""Tokens and runs of channels of the surface, at most."""
KINDS = ("masked", "clear")
"""Tokens by what they are; the first position of a sequence is a kind of its own beside."""


class Measure(NamedTuple):
    """One number about the inputs of a linear layer, over all tokens or those of a kind."""

    measure: str
    label: str
    count: int
    value: float


@torch.no_grad()
def outliers(model: Transformer, visited: Calibration, surface: bool = True) -> Iterator[Measure]:
    """Yields the measures of each layer's inputs, by `<layer>.<linear>`, and the surface of the worst.

    Linear layers that read one input are named by the first. The worst has the greatest ratio of a token, by the 99.9 %
    quantile. The surface is |x| of masked and clear tokens side by side, evenly through the states, the greatest of
    each run of channels: label `<token> <kind> <run>`; without `surface` it is left out.
    """
    walk, kinds = LayerWalk(model, visited), _kinds(model, visited)
    worst, found_surface = -1.0, list[Measure]()
    for number, layer in walk.layers():
        seen: dict[str, list[Tensor]] = {names[0]: [] for names in GROUPS}
        walk.hidden = walk.outputs(layer, {name: kept.append for name, kept in seen.items()})
        for name in list(seen):
            x_TC, label = torch.cat(seen.pop(name)).float(), f"{number}.{name}"
            found = list(_of_tokens(x_TC, kinds, label))
            yield from found
            yield from _of_channels(x_TC.abs(), label)
            if surface and found[0].value > worst:
                worst, found_surface = found[0].value, list(_surface(x_TC.abs(), kinds, label))
    yield from found_surface


def _of_tokens(x_TC: Tensor, kinds: Mapping[str, np.ndarray], label: str) -> Iterator[Measure]:
    size_TC = x_TC.abs()
    ratio_T = (size_TC.amax(-1) / size_TC.median(-1).values.clamp(min=1e-12)).cpu().numpy()
    kurtosis_T = (x_TC.pow(4).mean(-1) / x_TC.square().mean(-1).square().clamp(min=1e-30)).cpu().numpy()
    size_T = x_TC.square().sum(-1).cpu().numpy()
    errors = {"": _error_of_grid(x_TC)}
    with suppress(ConfigError):  # where there is no such transform of this size
        errors["_rotated"] = _error_of_grid(hadamard(x_TC))
    for kind, mine in kinds.items():
        if not mine.any():
            continue
        count, name = int(mine.sum()), f"{label} {kind}"
        yield Measure("outlier_token_ratio", name, count, float(np.quantile(ratio_T[mine], 0.999)))
        for least in RATIOS:
            yield Measure(f"outlier_share_over_{least}", name, count, float((ratio_T[mine] >= least).mean()))
        yield Measure("outlier_kurtosis", name, count, float(kurtosis_T[mine].mean()))
        for how, error_T in errors.items():
            total = error_T[mine].sum()
            top = np.sort(error_T[mine])[-max(1, count // 100) :]
            yield Measure(f"outlier_error{how}", name, count, float(total / max(size_T[mine].sum(), 1e-30)))
            yield Measure(f"outlier_error_of_top_percent{how}", name, count, float(top.sum() / max(total, 1e-30)))


def _error_of_grid(x_TC: Tensor) -> np.ndarray:
    """Returns [T] the squared error that rounding a token to a grid over its own range makes."""
    return (TokenGrid(BITS)(x_TC) - x_TC).square().sum(-1).double().cpu().numpy()


def _of_channels(x_TC: Tensor, label: str) -> Iterator[Measure]:
    most_C, usual_C = x_TC.amax(0), x_TC.median(0).values
    ratio = float(most_C.max() / most_C.median().clamp(min=1e-12))
    yield Measure("outlier_channel_ratio", f"{label} all", x_TC.shape[1], ratio)
    share = float((usual_C >= NORMAL * x_TC.median()).float().mean())
    yield Measure("outlier_normal_channels", f"{label} all", x_TC.shape[1], share)


def _surface(x_TC: Tensor, kinds: Mapping[str, np.ndarray], label: str) -> Iterator[Measure]:
    tokens, runs = SURFACE
    run_of_C = torch.arange(x_TC.shape[1], device=x_TC.device) * min(runs, x_TC.shape[1]) // x_TC.shape[1]
    place = 0
    for kind in KINDS:
        mine = np.flatnonzero(kinds[kind])
        for t in mine[np.linspace(0, len(mine) - 1, min(tokens // 2, len(mine))).astype(int)] if len(mine) else ():
            most = torch.zeros(int(run_of_C[-1]) + 1, device=x_TC.device).scatter_reduce(0, run_of_C, x_TC[t], "amax")
            for run, value in enumerate(most.tolist()):
                yield Measure(f"surface {label}", f"{place} {kind} {run}", x_TC.shape[1], value)
            place += 1


def _kinds(model: Transformer, visited: Calibration) -> dict[str, np.ndarray]:
    """Returns which tokens are of each kind, [T] bool each."""
    forwards = [each for each in visited.forwards if not isinstance(each, Copied)]
    masked_T = np.concatenate([each.ids_N for each in forwards]) == model.config.mask_token_id
    first_T = np.concatenate([each.positions_N for each in forwards]) == 0
    return {"all": np.full(len(masked_T), True), "masked": masked_T, "clear": ~masked_T, "first": first_T}
