"""Quantised systems against their float weights: against sums by hand; their tables and figures."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from fixtures.synthetic import make_evaluation

from lightningrl.evaluation.aup import aup_anchored
from lightningrl.report.figures.bits import bits
from lightningrl.report.figures.calibrations import calibrations
from lightningrl.report.figures.outliers import outliers, surface
from lightningrl.report.frontier import collect, groups
from lightningrl.report.quantization import bought_back, quantization
from lightningrl.report.quantized import COLUMNS, quantized

SETTINGS = {  # what a setting takes of accuracy, of TPF; quantizer, bits, calibration
    "w3": (0.05, 0.95, "gptq", 3, "decode"), "w3-clean": (0.10, 0.90, "gptq", 3, "clean"),
    "a4": (0.02, 0.98, "rtn", 4, ""),
}  # fmt: skip
STATES = [
    ("state_kl", "all", 0.1), ("state_flips", "revealed", 0.05), ("state_over_threshold", "exact", 0.6),
    ("state_over_threshold", "own", 0.5),
]  # fmt: skip
POLICIES = {"base": ("before", 3.0, 0.90), "rl": ("after", 6.0, 0.88)}


@pytest.fixture(scope="module")
def grouped():
    made, seed = [], 0
    for policy, (role, peak, accuracy) in POLICIES.items():
        for setting, (loss, slower) in [("", (0.0, 1.0)), *((name, each[:2]) for name, each in SETTINGS.items())]:
            name, seed = f"{policy}-{setting}".rstrip("-"), seed + 1
            level = accuracy - loss * (1 + (policy == "rl"))
            made.append(
                make_evaluation(
                    name, role, "x", "gsm-mini", 80, peak * slower, lambda t, a=level: a - 0.3 * (1 - t), seed
                )
            )
    return groups([dataclasses.replace(each, base="base") for each in made], n_bootstrap=200)


@pytest.fixture(scope="module")
def about():
    found = {}
    for policy in POLICIES:
        usual = {"weights": policy, "exact": policy, "kv_bits": 16}
        plain = {"setting": "float", "quantizer": "", "bits": 16, "activation_bits": 16, "calibration": ""}
        found[policy] = usual | plain | {"counterpart": "base" if policy == "rl" else ""}
        for setting, (*_, quantizer, width, calibration) in SETTINGS.items():
            found[f"{policy}-{setting}"] = usual | {
                "setting": setting, "quantizer": quantizer, "bits": width, "calibration": calibration,
                "activation_bits": 4 if setting == "a4" else 16,
                "counterpart": f"base-{setting}" if policy == "rl" else "",
            }  # fmt: skip
    return found


@pytest.fixture(scope="module")
def table(grouped, about):
    said = {name: json.dumps({"bits": each["bits"]}) for name, each in about.items() if each["quantizer"]}
    said["base-w3-clean"] = json.dumps({"bits": 3, "compat": True})
    return quantized(grouped, collect(grouped, "toy").frontier, about, {"rl-w3": 3.59}, said)


@pytest.fixture(scope="module")
def probes(about):
    rows = []
    for policy, each in about.items():
        role, plain = POLICIES[each["weights"]][0], each["setting"] == "float"
        measures = [] if plain else list(STATES)
        for layer, linear, kind in [(n, name, k) for n in (0, 1) for name in ("self_attn.q_proj", "mlp.down_proj")
                                    for k in ("all", "masked", "clear")]:  # fmt: skip
            measures.append(("outlier_token_ratio", f"{layer}.{linear} {kind}", 5.0 + 100 * layer * ("down" in linear)))
        if plain:
            measures += [("surface 1.mlp.down_proj", f"{t} {'masked' if t < 2 else 'clear'} {run}", float(t * run))
                         for t in range(4) for run in range(6)]  # fmt: skip
        rows += [(policy, role, "gsm-mini", measure, label, 12, value) for measure, label, value in measures]
    return pd.DataFrame(rows, columns=["policy", "role", "benchmark", "measure", "label", "count", "value"])


def test_differences_are_to_the_float_weights_and_beyond_those_of_the_base(grouped, table):
    assert list(table.columns) == list(COLUMNS) and len(table) == 8 * table["threshold"].nunique()
    sums = grouped[0].sums
    row = table.set_index(["policy", "threshold"]).loc

    def of(policy, t):
        mine = sums[policy]
        return 100 * mine.correct_TN[t].sum() / mine.samples_TN[t].sum(), mine.tokens_TN[t].sum() / mine.forwards_TN[
            t
        ].sum()

    primary = grouped[0].primary("rl")
    for t, threshold in enumerate(sums["rl"].thresholds):
        (mine, speed), (plain, usual) = of("rl-w3", t), of("rl", t)
        (theirs, their_speed), (base, base_speed) = of("base-w3", t), of("base", t)
        found = row["rl-w3", threshold]
        assert found["accuracy_difference"] == pytest.approx(mine - plain)
        assert found["tpf_ratio"] == pytest.approx(speed / usual)
        assert found["accuracy_difference_beyond"] == pytest.approx((mine - plain) - (theirs - base))
        assert found["tpf_ratio_beyond"] == pytest.approx(speed / usual / (their_speed / base_speed))
        assert found["accuracy_difference_to_primary"] == pytest.approx(mine - of("rl", primary)[0])
        assert found["tpf_ratio_to_primary"] == pytest.approx(speed / of("rl", primary)[1])
        assert found["accuracy_difference_low"] <= found["accuracy_difference"] <= found["accuracy_difference_high"]
        assert found["is_primary"] == (t == primary) == (not np.isnan(found["aup"]))
    points = sums["rl"].points()
    y_min, y_max = min(points)[1] - 5, max(accuracy for _, accuracy in points)
    at = sums["rl"].thresholds[primary]
    area = [aup_anchored(sums[each].points(), y_min, y_max) for each in ("rl-w3", "rl")]
    assert row["rl-w3", at]["aup"] == pytest.approx(area[0])
    assert row["rl-w3", at]["aup_difference"] == pytest.approx(area[0] - area[1])
    beyond = row["rl-w3", at]["aup_difference_beyond"] + row["base-w3", at]["aup_difference"]
    assert beyond == pytest.approx(area[0] - area[1])


def test_float_weights_differ_by_nothing_and_a_base_is_beyond_none(table):
    plain = table[table["setting"] == "float"]
    assert (plain[["accuracy_difference", "accuracy_difference_high"]] == 0).all(axis=None)
    assert (plain["tpf_ratio"] == 1).all() and plain["tpf_ratio_beyond"].isna().all()
    assert table.loc[table["weights"] == "base", "accuracy_difference_beyond"].isna().all()


def test_tables_say_what_was_found(table, probes):
    found = quantization(table, probes)
    assert [row[1:3] for row in found.rows][:4] == [("base", each) for each in ("float", *SETTINGS)]
    w3 = next(row for row in found.rows if row[1:3] == ("rl", "w3"))
    assert w3[3] == "3.59" and w3[-3:] == ("60.0 to 50.0", "0.100", "5.0")
    assert len(quantization(table, probes[:0]).rows) == 8
    again = bought_back(table)
    assert len(again.rows) == 6 * table["threshold"].nunique() and sum("*" in row[3] for row in again.rows) == 6


@pytest.mark.parametrize(
    ("draw", "takes"), [(bits, "quantized"), (calibrations, "both"), (outliers, "probes"), (surface, "probes")]
)
def test_figures_are_drawn_of_what_they_are_about(draw, takes, table, probes, tmp_path):
    tables = {"quantized": [table], "probes": [probes], "both": [table, probes]}[takes]
    paths = draw(*tables, tmp_path)
    assert {path.suffix for path in paths} == {".pdf", ".png", ".csv"} and all(path.stat().st_size for path in paths)
    shown = pd.read_csv(next(path for path in paths if path.suffix == ".csv"))
    if takes == "probes":
        assert set(shown["policy"]) == {"base", "rl"}
    else:
        assert ("w3-clean" in set(shown["setting"])) == (draw is calibrations)
        if draw is calibrations:  # the base's with other options is no other calibration of the same
            assert set(shown["policy"]) == {"rl-w3", "rl-w3-clean"}
