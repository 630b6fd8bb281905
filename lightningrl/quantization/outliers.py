"""Outliers among the inputs of linear layers: which layers, which tokens, masked or clear, which channels.

All measures are free of scale. Of a token: the ratio of its greatest |x| to the median of its |x|; a token is called
massive where that is 100 or more (Sun et al., arXiv 2402.17762, name values a thousand times the median; a token grid
of b bits is in trouble much earlier), and the kurtosis of its inputs (3 for a Gaussian). Of a channel: its greatest |x|
over the median channel's; it is a normal outlier where its median |x| is 6 or more times that of all. Shapes: T tokens,
C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightningrl.models.transformer import Transformer
from lightningrl.quantization.layerwise import GROUPS, LayerWalk
from lightningrl.quantization.protocol import Calibration, Copied

MASSIVE, NORMAL = 100.0, 6.0
TOKENS = 8192
"""Positions that are looked at, at most: one layer's inputs are held at a time."""
SURFACE = (48, 128)
"""Tokens and runs of channels of the surface, at most."""
KINDS = ("masked", "clear")


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
    walk, is_masked_T = LayerWalk(model, visited), _is_masked(model, visited)
    worst, found_surface = -1.0, list[Measure]()
    for number, layer in walk.layers():
        seen: dict[str, list[Tensor]] = {names[0]: [] for names in GROUPS}
        walk.hidden = walk.outputs(layer, {name: kept.append for name, kept in seen.items()})
        for name in seen:
            x_TC, label = torch.cat(seen[name]).float().abs(), f"{number}.{name}"
            found = list(_of_tokens(x_TC, is_masked_T, label))
            yield from found
            yield from _of_channels(x_TC, label)
            if surface and found[0].value > worst:
                worst, found_surface = found[0].value, list(_surface(x_TC, is_masked_T, label))
    yield from found_surface


def _of_tokens(x_TC: Tensor, is_masked_T: np.ndarray, label: str) -> Iterator[Measure]:
    ratio_T = (x_TC.amax(-1) / x_TC.median(-1).values.clamp(min=1e-12)).cpu().numpy()
    kurtosis_T = (x_TC.pow(4).mean(-1) / x_TC.square().mean(-1).square().clamp(min=1e-30)).cpu().numpy()
    error_T = (x_TC.amax(-1) ** 2).cpu().numpy()  # rounding to a grid over a token's range errs in proportion to it
    for kind in ("all", *KINDS):
        mine = np.full(len(ratio_T), True) if kind == "all" else is_masked_T == (kind == "masked")
        if not mine.any():
            continue
        count, name = int(mine.sum()), f"{label} {kind}"
        yield Measure("outlier_token_ratio", name, count, float(np.quantile(ratio_T[mine], 0.999)))
        yield Measure("outlier_massive_share", name, count, float((ratio_T[mine] >= MASSIVE).mean()))
        yield Measure("outlier_kurtosis", name, count, float(kurtosis_T[mine].mean()))
        top = np.sort(error_T[mine])[-max(1, count // 100) :]
        yield Measure("outlier_error_of_top_percent", name, count, float(top.sum() / max(error_T[mine].sum(), 1e-30)))


def _of_channels(x_TC: Tensor, label: str) -> Iterator[Measure]:
    most_C, usual_C = x_TC.amax(0), x_TC.median(0).values
    ratio = float(most_C.max() / most_C.median().clamp(min=1e-12))
    yield Measure("outlier_channel_ratio", f"{label} all", x_TC.shape[1], ratio)
    share = float((usual_C >= NORMAL * x_TC.median()).float().mean())
    yield Measure("outlier_normal_channels", f"{label} all", x_TC.shape[1], share)


def _surface(x_TC: Tensor, is_masked_T: np.ndarray, label: str) -> Iterator[Measure]:
    tokens, runs = SURFACE
    run_of_C = torch.arange(x_TC.shape[1], device=x_TC.device) * min(runs, x_TC.shape[1]) // x_TC.shape[1]
    place = 0
    for kind in KINDS:
        mine = np.flatnonzero(is_masked_T == (kind == "masked"))
        for t in mine[np.linspace(0, len(mine) - 1, min(tokens // 2, len(mine))).astype(int)] if len(mine) else ():
            most = torch.zeros(int(run_of_C[-1]) + 1, device=x_TC.device).scatter_reduce(0, run_of_C, x_TC[t], "amax")
            for run, value in enumerate(most.tolist()):
                yield Measure(f"surface {label}", f"{place} {kind} {run}", x_TC.shape[1], value)
            place += 1


def _is_masked(model: Transformer, visited: Calibration) -> np.ndarray:
    ids = [each.ids_N for each in visited.forwards if not isinstance(each, Copied)]
    return np.concatenate(ids) == model.config.mask_token_id
