"""Figures: files, fixed bytes across processes, the plotted data beside them, options, and label placement."""

import dataclasses
import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from fixtures.limits import HANG_S
from fixtures.synthetic import make_evaluation

from lightningrl.errors import ConfigError
from lightningrl.evaluation.probing import CLASSES
from lightningrl.report.figures import collapse, frontier, probes, rewards, steps, style
from lightningrl.report.frontier import collect
from lightningrl.report.pooled import pooled
from lightningrl.report.registry import FIGURES, INPUTS, TABLES
from lightningrl.report.series import curves, speeds
from lightningrl.report.series import steps as steps_table


@pytest.fixture(scope="module")
def collected(evaluations, metrics_rows):
    tables = collect(evaluations, "toy", n_bootstrap=100)
    ablation = dataclasses.replace(
        make_evaluation("w/o NLL", "ablation", "lightningrl", "gsm-mini", 120, 5.0, lambda t: 0.8, 4), series="w/o NLL"
    )
    return {
        "frontier": tables.frontier,
        "headline": tables.headline,
        "curves": curves(metrics_rows),
        "steps": steps_table(evaluations),
        "speed": speeds([]),
        "pooled": pooled([*evaluations, ablation], n_bootstrap=100),
        "probes": probed(),
    }


def probed():
    """Two policies on two benchmarks: bins of confidence, classes of tokens."""
    rows = []
    for policy, role, shift in (("SDAR", "before", 0.0), ("LightningRL", "after", -0.1)):
        for benchmark in ("gsm-mini", "math-mini"):
            what = {"policy": policy, "series": policy, "role": role, "benchmark": benchmark}
            for number in range(1, 10):
                label, confidence = f"{number / 10:g}-{number / 10 + 0.1:g}", number / 10 + 0.05
                rows.append(what | {"measure": "confidence", "label": label, "count": 9 * number, "value": confidence})
                rows.append(
                    what | {"measure": "agreement", "label": label, "count": 9 * number, "value": confidence + shift}
                )
            for number, kind in enumerate(CLASSES):
                rows.append(
                    what | {"measure": "class_together", "label": kind, "count": 50, "value": 2 + number - shift}
                )
            rows.append(what | {"measure": "calibration_error", "label": "all", "count": 405, "value": abs(shift)})
    return pd.DataFrame(rows)


def resolve(target):
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


AGAIN = """
import sys, pickle, pathlib
from lightningrl.report.registry import FIGURES, INPUTS
from lightningrl.utils.registry import resolve
tables, out = pickle.load(open(sys.argv[1], "rb")), pathlib.Path(sys.argv[2])
for name in sorted(FIGURES, reverse=True):
    resolve(FIGURES[name])(*(tables[each] for each in INPUTS["figures"][name]), out)
"""


def test_same_input_gives_the_same_bytes_in_another_process(collected, tmp_path):
    """Another hash seed, another matplotlibrc in the way: every file of every figure is byte-identical."""
    for name, target in FIGURES.items():
        paths = resolve(target)(*(collected[each] for each in INPUTS["figures"][name]), tmp_path / "a")
        assert [path.name for path in paths] == [f"{name}.pdf", f"{name}.png", f"{name}.csv"]
    pd.to_pickle(collected, tmp_path / "tables.pkl")
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\nfont.size: 30\nsavefig.dpi: 10\n")
    environment = os.environ | {"PYTHONHASHSEED": "4242", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    script = [sys.executable, "-c", AGAIN, str(tmp_path / "tables.pkl"), str(tmp_path / "b")]
    subprocess.run(script, check=True, env=environment, timeout=HANG_S)
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / folder).iterdir()}
        for folder in ("a", "b")
    ]
    assert len(digests[0]) == 3 * len(FIGURES) and digests[0] == digests[1]


def test_files_carry_no_date(collected, tmp_path):
    pdf, png, _ = collapse.draw(collected["curves"], tmp_path)
    assert b"CreationDate" not in pdf.read_bytes() and b"Software" not in png.read_bytes()


def test_the_plotted_data_lies_beside_the_figure(collected, tmp_path):
    frontier.draw(collected["frontier"], tmp_path)
    back = pd.read_csv(tmp_path / "frontier.csv")
    np.testing.assert_array_equal(back["tpf"], collected["frontier"]["tpf"])
    rewards.draw(collected["curves"], tmp_path, {"runs": ["TraceRL"], "window": 3})
    back = pd.read_csv(tmp_path / "rewards.csv")
    assert set(back["run"]) == {"TraceRL"} and len(back) == 80
    middle = collected["curves"].query("run == 'TraceRL'")["reward_speed_mean"].iloc[3:6].mean()
    assert back["reward_speed_mean_smoothed"].iloc[4] == pytest.approx(middle)
    collapse.draw(collected["curves"], tmp_path)
    back = pd.read_csv(tmp_path / "collapse.csv")
    assert set(back["series"]) == {"collapse_ratio_0.1", "collapse_ratio_0.1_sum"} and len(back) == 4 * 80


def test_steps_draw_the_roles_asked_for(collected, tmp_path):
    steps.draw(collected["steps"], tmp_path, {"benchmarks": ["gsm-mini"]})
    assert set(pd.read_csv(tmp_path / "steps.csv")["policy"]) == {"SDAR", "LightningRL"}


def test_one_policy_one_threshold_one_step_can_be_drawn(collected, tmp_path):
    """The nano experiment's shape: nothing to connect, nothing right, nothing to smooth."""
    row = collected["frontier"].query("is_primary").head(1).assign(accuracy_pct=0.0, accuracy_pct_low=0.0)
    frontier.draw(row, tmp_path)
    steps.draw(collected["steps"].head(1), tmp_path)
    one = collected["curves"].head(1)
    rewards.draw(one, tmp_path)
    collapse.draw(one, tmp_path)
    rewards.draw(one.assign(reward_speed_mean=np.nan), tmp_path)
    assert len(list(tmp_path.iterdir())) == 12


@pytest.mark.parametrize(
    ("draw", "table", "options", "message"),
    [
        (frontier.draw, "frontier", {"colour": "red"}, "unknown figure option colour; the options are x,"),
        (frontier.draw, "frontier", {"x": "tps"}, r"needs the column\(s\) tps"),
        (collapse.draw, "curves", {"eps": 0.3}, "collapse_ratio_0.3"),
        (rewards.draw, "curves", {"runs": ["nobody"]}, "run nobody"),
        (steps.draw, "steps", {"roles": ["control"]}, "empty table"),
    ],
)
def test_what_cannot_be_drawn_says_why(collected, tmp_path, draw, table, options, message):
    with pytest.raises(ConfigError, match=message):
        draw(collected[table], tmp_path, options)


def test_drawing_leaves_the_users_matplotlib_alone(collected, tmp_path):
    before = dict(matplotlib.rcParams)
    collapse.draw(collected["curves"], tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_every_registered_name_resolves_and_has_an_input(collected):
    for kind, registry in (("figures", FIGURES), ("tables", TABLES)):
        assert registry.keys() == INPUTS[kind].keys()
        assert all(callable(resolve(target)) for target in registry.values())
        assert {name for names in INPUTS[kind].values() for name in names} <= collected.keys()


def test_no_text_is_smaller_than_eight_points():
    assert min(value for key, value in style.STYLE.items() if key.endswith("size") and key[0] in "fxyl"
               and key not in ("lines.markersize", "xtick.major.size", "ytick.major.size")) >= 8  # fmt: skip


def test_more_policies_than_colours_differ_in_marker_and_dash(collected, tmp_path, monkeypatch):
    row = collected["frontier"].iloc[:1]
    table = pd.concat([row.assign(policy=f"number {number}") for number in range(15)])
    looks = []
    monkeypatch.setattr(frontier, "curve_with_bars", lambda axes, curve, x, *look: looks.append(look))
    frontier.draw(table, tmp_path)
    colours, markers, _, dashes = zip(*looks, strict=True)
    assert len(set(colours)) == 7 and len(set(zip(colours, markers, strict=True))) == 15
    assert len(set(zip(colours, dashes, strict=True))) == 15


def test_policies_keep_distinct_colours_and_the_base_is_grey():
    names = ["SDAR", *(f"p{i}" for i in range(6))]
    colours = style.policy_colours(names + names, names)
    assert colours["SDAR"] == style.GREY and len(set(colours.values())) == 7


def test_a_policy_has_one_colour_whichever_others_are_drawn_with_it():
    every = ("base", "ours", "rival", "control", "ours-code")
    for drawn in (["ours", "ours-code"], ["ours-code", "rival"], ["base", "ours-code"]):
        assert style.policy_colours(drawn, every) == style.policy_colours(every, every)
    assert style.policy_colours(["ours", "more"], every[:2])["more"] == style.PALETTE[1]
    assert style.GREY not in [style.policy_colours(["a", "b"])[name] for name in "ab"]


def overlaps(one, other):
    return one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1 and other.y0 < one.y1


def test_labels_never_overlap():
    with style.styled():
        figure = style.new_figure(5, 3)
        axes = figure.subplots()
        axes.plot([0, 1], [0.50, 0.52])
        style.label_line_ends(axes, [(0.50, "one", "k"), (0.505, "two\nlines", "k"), (0.51, "three", "k")])
        points = [(0.5, 0.51, f"label {i}", {}) for i in range(5)]
        style.place_labels(axes, points, [(0.5, 0.51)], worst=100.0)
        boxes = [text.get_window_extent(figure.canvas.get_renderer()) for text in axes.texts]
    assert len(boxes) >= 6
    assert not any(overlaps(boxes[i], boxes[j]) for i in range(len(boxes)) for j in range(i))


def test_smoothing_is_a_centred_mean_that_keeps_constants_and_skips_gaps():
    assert style.smooth([1, 2, 3, 4, 5], 3).tolist() == [1.5, 2.0, 3.0, 4.0, 4.5]
    assert style.smooth([2.0, np.nan, 2.0], 3).tolist() == [2.0, 2.0, 2.0]
    assert style.smooth([1, 5, 2], 1).tolist() == [1.0, 5.0, 2.0]


def test_a_probed_run_looks_as_its_series_does_in_the_study_figure():
    pooled_rows = pd.DataFrame(
        {"series": ["base", "one", "changed", "two"], "role": ["before", "after", "ablation", "after"]}
    )
    found = pd.DataFrame(
        {"policy": ["two-0", "base"], "series": ["two", "base"], "role": ["after", "before"], "value": [1.0, 2.0]}
    )
    looks = probes._looks(found, pooled_rows)
    study = style.policy_colours([], ["base", "one", "two"])
    assert list(looks) == ["base", "two-0"] and looks["two-0"]["color"] == study["two"]
    assert looks["base"]["color"] == study["base"] and looks["two-0"]["marker"] == style.MARKERS[2]
