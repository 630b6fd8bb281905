"""Outliers among the inputs of linear layers: against numbers by hand, planted in a channel and at masked tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures.tiny import MASK_ID, tiny_model
from official_quantizers import visited_states

from lightningrl.quantization.outliers import SURFACE, outliers


def named(model, found, **options):
    return {(each.measure, each.label): each for each in outliers(model, found, **options)}


@torch.no_grad()
def test_a_planted_outlier_is_found_where_it_is_and_of_its_size():
    model = tiny_model(3)
    mlp = model.model.layers[1].mlp
    mlp.up_proj.weight[7] *= 1000  # the input 7 of down_proj in layer 1
    found = visited_states(model)
    measures = list(outliers(model, found))
    by_name = {(each.measure, each.label): each for each in measures}
    ratio = {label: each.value for (measure, label), each in by_name.items() if measure == "outlier_token_ratio"}
    assert max(ratio, key=ratio.__getitem__).startswith("1.mlp.down_proj") and ratio["1.mlp.down_proj all"] > 100
    assert by_name["outlier_share_over_100", "1.mlp.down_proj all"].value > 0.5
    assert by_name["outlier_normal_channels", "1.mlp.down_proj all"].value == pytest.approx(
        1 / mlp.down_proj.in_features
    )
    assert by_name["outlier_channel_ratio", "1.mlp.down_proj all"].value > 100 > ratio["0.mlp.down_proj all"]
    kinds = [by_name["outlier_kurtosis", f"0.self_attn.q_proj {kind}"].count for kind in ("masked", "clear", "all")]
    assert kinds[0] + kinds[1] == kinds[2] == found.tokens and min(kinds) > 0
    surface = [each for each in measures if each.measure.startswith("surface ")]
    assert {each.measure for each in surface} == {"surface 1.mlp.down_proj"}
    runs = min(SURFACE[1], mlp.down_proj.in_features)
    assert len(surface) == SURFACE[0] * runs
    highest = max(surface, key=lambda each: each.value).label.split()
    assert int(highest[2]) == 7 * runs // mlp.down_proj.in_features
    assert not [each for each in outliers(model, found, surface=False) if each.measure.startswith("surface ")]


def sylvester(size):
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / size**0.5


def error_by_hand(x_TC):
    """Of the nearest of the values -8 s, ..., 7 s, s a seventh of a token's greatest |x|."""
    scale_T1 = np.abs(x_TC).max(1, keepdims=True) / 7
    return ((np.clip(np.round(x_TC / scale_T1), -8, 7) * scale_T1 - x_TC) ** 2).sum(1)


@torch.no_grad()
def test_what_is_planted_at_masked_tokens_alone_is_found_there_and_every_measure_is_the_one_by_hand():
    """The mask's embedding has one great number, which the first layer's queries read behind a norm."""
    model = tiny_model(3)
    model.model.embed_tokens.weight[MASK_ID, 3] = 300
    found = visited_states(model, count=20)
    ids = torch.from_numpy(np.concatenate([each.ids_N for each in found.forwards]))
    x_TC = model.model.layers[0].input_layernorm(model.model.embed_tokens(ids)).double().numpy()
    position_T = np.concatenate([each.positions_N for each in found.forwards])
    kinds = {"all": ids.numpy() >= 0, "masked": ids.numpy() == MASK_ID, "clear": ids.numpy() != MASK_ID,
             "first": position_T == 0}  # fmt: skip
    size_TC = np.abs(x_TC)
    ratio_T = size_TC.max(1) / np.sort(size_TC, 1)[:, 7]  # torch's median is the lower one of 16
    kurtosis_T = (x_TC**4).mean(1) / (x_TC**2).mean(1) ** 2
    errors = {"": error_by_hand(x_TC), "_rotated": error_by_hand(x_TC @ sylvester(16))}
    measures = named(model, found)
    for kind, mine in kinds.items():
        label, count = f"0.self_attn.q_proj {kind}", int(mine.sum())
        by_hand = {
            "token_ratio": np.quantile(ratio_T[mine], 0.999), "kurtosis": kurtosis_T[mine].mean(),
            **{f"share_over_{least}": (ratio_T[mine] >= least).mean() for least in (30, 100, 300)},
        }  # fmt: skip
        for how, error_T in errors.items():
            by_hand[f"error{how}"] = error_T[mine].sum() / (x_TC[mine] ** 2).sum()
            worst = np.sort(error_T[mine])[::-1][: max(1, count // 100)]
            by_hand[f"error_of_top_percent{how}"] = worst.sum() / error_T[mine].sum()
        for name, value in by_hand.items():
            each = measures[f"outlier_{name}", label]
            assert (each.count, each.value) == (count, pytest.approx(value, rel=1e-3, abs=1e-9)), (name, kind)
    share = {kind: measures["outlier_share_over_100", f"0.self_attn.q_proj {kind}"].value for kind in kinds}
    assert share["masked"] == 1 and share["clear"] == share["first"] == 0 < share["all"] < 1
    rotated = measures["outlier_error_rotated", "0.self_attn.q_proj clear"].value
    assert measures["outlier_error", "0.self_attn.q_proj clear"].value != pytest.approx(rotated, rel=1e-2)
    down = measures["outlier_error_rotated", "1.mlp.down_proj all"]  # 24 = 12 x 2 channels
    assert 0 < down.value < 1


@torch.no_grad()
def test_sizes_without_a_rotation_are_measured_without_it():
    model = tiny_model(0, intermediate_size=26)
    measures = named(model, visited_states(model))
    assert ("outlier_error", "0.mlp.down_proj all") in measures
    assert ("outlier_error_rotated", "0.mlp.down_proj all") not in measures
    assert ("outlier_error_rotated", "0.mlp.gate_proj all") in measures
