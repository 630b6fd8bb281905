"""Figures: files, fixed bytes across processes, the plotted data beside them, options, and label placement."""

import dataclasses
import hashlib
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
from lightningrl.pipeline.stages.collect import TRAININGS
from lightningrl.report.figures import curves as curves_figures
from lightningrl.report.figures import frontier, probes, style
from lightningrl.report.frontier import groups
from lightningrl.report.pooled import pooled
from lightningrl.report.quantized import quantized
from lightningrl.report.registry import FIGURES, INPUTS, TABLES
from lightningrl.report.series import curves as curves_table
from lightningrl.report.series import speeds
from lightningrl.report.series import steps as steps_table
from lightningrl.utils.registry import resolve


@pytest.fixture(scope="module")
def tables(evaluations, collected, metrics_rows):
    ablation = dataclasses.replace(
        make_evaluation("w/o NLL", "ablation", "lightningrl", "gsm-mini", 120, 5.0, lambda t: 0.8, 4), series="w/o NLL"
    )
    return {
        "frontier": collected.frontier,
        "headline": collected.headline,
        "curves": curves_table(metrics_rows),
        "steps": steps_table(groups(evaluations, n_bootstrap=1)),
        "speed": speeds([]),
        "pooled": pooled(groups([*evaluations, ablation], n_bootstrap=100)),
        "probes": probed(),
        "quantized": quantized([], collected.frontier, {}, {}),
        "trainings": pd.DataFrame(columns=list(TRAININGS)),
    }


def probed():
    """Two policies on two benchmarks: bins of confidence, classes of tokens."""
    rows = []
    for policy, role, shift in (("SDAR", "before", 0.0), ("LightningRL", "after", -0.1)):
        for benchmark in ("gsm-mini", "math-mini"):
            what = (policy, policy, role, benchmark)
            for number in range(1, 10):
                label, middle = f"{number / 10:g}-{number / 10 + 0.1:g}", number / 10 + 0.05
                rows.append((*what, "confidence", label, 9 * number, middle))
                rows.append((*what, "agreement", label, 9 * number, middle + shift))
            rows += [(*what, "class_together", kind, 50, 2 + n - shift) for n, kind in enumerate(CLASSES)]
            rows.append((*what, "calibration_error", "all", 405, abs(shift)))
    return pd.DataFrame(rows, columns=["policy", "series", "role", "benchmark", "measure", "label", "count", "value"])


def draw(name, tables, out_dir):
    paths = resolve(FIGURES[name])(*(tables[each] for each in INPUTS["figures"][name]), out_dir)
    assert [path.name for path in paths] == [f"{name}.pdf", f"{name}.png", f"{name}.csv"]


def plotted(name, tables, **options):
    """The data of a figure that is not rendered, which takes longest."""
    with style.styled():
        return resolve(FIGURES[name]).__wrapped__(*(tables[each] for each in INPUTS["figures"][name]), **options)[1]


AGAIN = """
import sys, pickle, pathlib
from lightningrl.report.registry import FIGURES, INPUTS
from lightningrl.utils.registry import resolve
tables, out = pickle.load(open(sys.argv[1], "rb")), pathlib.Path(sys.argv[2])
for name in sys.argv[:2:-1]:
    resolve(FIGURES[name])(*(tables[each] for each in INPUTS["figures"][name]), out)
"""


KINDS = ("frontier", "rewards", "steps", "collapse", "reliability", "together", "figure1", "figure7", "figure8")
"""Figures of which the others are drawn by the same functions."""


def test_same_input_gives_the_same_bytes_in_another_process(tables, tmp_path):
    """Another hash seed, another order, another matplotlibrc in the way: every file is byte-identical."""
    before = dict(matplotlib.rcParams)
    for name in KINDS:
        draw(name, tables, tmp_path / "a")
    assert dict(matplotlib.rcParams) == before  # drawing leaves the user's matplotlib alone
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a" / "rewards.csv"), plotted("rewards", tables))
    pdf, png = ((tmp_path / "a" / f"steps.{suffix}").read_bytes() for suffix in ("pdf", "png"))
    assert b"CreationDate" not in pdf and b"Software" not in png
    pd.to_pickle(tables, tmp_path / "tables.pkl")
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\nfont.size: 30\nsavefig.dpi: 10\n")
    environment = os.environ | {"PYTHONHASHSEED": "4242", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    script = [sys.executable, "-c", AGAIN, str(tmp_path / "tables.pkl"), str(tmp_path / "b"), *KINDS]
    subprocess.run(script, check=True, env=environment, timeout=HANG_S)
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / folder).iterdir()}
        for folder in ("a", "b")
    ]
    assert len(digests[0]) == 3 * len(KINDS) and digests[0] == digests[1]


def test_the_plotted_data_are_those_of_the_tables(tables):
    np.testing.assert_array_equal(plotted("frontier", tables)["tpf"], tables["frontier"]["tpf"])
    assert set(plotted("steps", tables)["policy"]) == {"SDAR", "LightningRL"}  # before and after
    back = plotted("rewards", tables, smooth_steps=3).query("name == 'TraceRL' and panel.str.startswith('Sp')")
    speed = tables["curves"].query("run == 'TraceRL'")["reward_speed_mean"]
    np.testing.assert_array_equal(back["value"], speed)
    assert back["smoothed"].iloc[4] == pytest.approx(speed.iloc[3:6].mean())
    assert back["smoothed"].iloc[0] == pytest.approx(speed.iloc[:2].mean())
    gap = tables["curves"].assign(**{"collapse_ratio_0.1": 2.0})
    gap.loc[gap.index[1], "collapse_ratio_0.1"] = np.nan
    back = plotted("collapse", {"curves": gap})
    assert len(back) == 4 * 80 and back["name"].nunique() == 4  # three runs, and the summed rewards of one
    assert (back.loc[~back["name"].str.contains("summed"), "smoothed"] == 2.0).all()  # the gap is skipped


def test_one_policy_one_threshold_one_step_can_be_drawn(tables, tmp_path):
    """The nano experiment's shape: nothing to connect, nothing right, nothing to smooth."""
    row = tables["frontier"].query("is_primary").head(1).assign(accuracy_pct=0.0, accuracy_pct_low=0.0)
    one = tables["curves"].head(1)
    few = {"frontier": row, "steps": tables["steps"].head(1), "curves": one}
    for name in ("frontier", "steps", "rewards", "collapse"):
        draw(name, few, tmp_path)
    plotted("rewards", {"curves": one.assign(reward_speed_mean=np.nan)})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("frontier", lambda table: table.drop(columns="tpf"), r"needs the column\(s\) tpf"),
        ("collapse", lambda table: table.drop(columns="collapse_ratio_0.1"), "collapse_ratio_0.1"),
        ("rewards", lambda table: table[:0], "empty table"),
        ("steps", lambda table: table[table["role"] == "rival"], "empty table"),
    ],
)
def test_what_cannot_be_drawn_says_why(tables, name, change, message):
    [source] = INPUTS["figures"][name]
    with pytest.raises(ConfigError, match=message):
        plotted(name, {source: change(tables[source])})


def test_every_registered_name_resolves_and_has_an_input(tables):
    for kind, registry in (("figures", FIGURES), ("tables", TABLES)):
        assert registry.keys() == INPUTS[kind].keys()
        assert all(callable(resolve(target)) for target in registry.values())
        assert {name for names in INPUTS[kind].values() for name in names} <= tables.keys()


def test_no_text_is_smaller_than_eight_points():
    assert min(value for key, value in style.STYLE.items() if key.endswith("size") and key[0] in "fxyl"
               and key not in ("lines.markersize", "xtick.major.size", "ytick.major.size")) >= 8  # fmt: skip


def test_more_policies_than_colours_differ_in_marker_and_dash(tables, monkeypatch):
    row = tables["frontier"].iloc[:1]
    many = pd.concat([row.assign(policy=f"number {number}") for number in range(15)])
    looks = []
    monkeypatch.setattr(frontier, "curve_with_bars", lambda axes, curve, *look: looks.append(look))
    plotted("frontier", {"frontier": many})
    colours, markers, _, dashes = zip(*looks, strict=True)
    assert len(set(colours)) == 7 and len(set(zip(colours, markers, strict=True))) == 15
    assert len(set(zip(colours, dashes, strict=True))) == 15


def test_a_policy_has_one_colour_whichever_others_are_drawn_with_it_and_the_base_is_grey():
    every = ("base", "ours", "rival", "control", "ours-code", "six", "seven")
    colours = style.policy_colours(every, every)
    assert colours["base"] == style.GREY and len(set(colours.values())) == 7
    for drawn in (["ours", "ours-code"], ["ours-code", "rival"], ["base", "ours-code"]):
        assert style.policy_colours(drawn, every) == colours
    assert style.policy_colours(["ours", "more"], every[:2])["more"] == style.PALETTE[1]
    assert style.GREY not in [style.policy_colours(["a", "b"])[name] for name in "ab"]


def overlaps(one, other):
    return one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1 and other.y0 < one.y1


def test_labels_never_overlap():
    with style.styled():
        figure = style.new_figure(5, 3)
        axes = figure.subplots()
        axes.plot([0, 1], [0.50, 0.52])
        labels = [(0.5, 0.51, f"label {i}", "k") for i in range(5)]
        style.place_labels(axes, labels, [(0.5, 0.51)], worst=100.0)
        boxes = [text.get_window_extent(figure.canvas.get_renderer()) for text in axes.texts]
    assert len(boxes) >= 3
    assert not any(overlaps(boxes[i], boxes[j]) for i in range(len(boxes)) for j in range(i))


def test_a_probed_run_looks_as_its_series_does_in_the_study_figure():
    pooled_rows = pd.DataFrame(
        {"series": ["base", "one", "changed", "two"], "role": ["before", "after", "ablation", "after"]}
    )
    found = pd.DataFrame({"policy": ["two-0", "base"], "series": ["two", "base"], "role": ["after", "before"]})
    looks = probes.looks(found, pooled_rows)
    study = style.policy_colours([], ["base", "one", "two"])
    assert list(looks) == ["base", "two-0"]
    assert (looks["base"].colour, looks["two-0"].colour) == (study["base"], study["two"])
    assert looks["two-0"].marker == style.MARKERS[2]


def test_the_legend_says_what_faint_lines_are(tables):
    """With one run its name stands nowhere else; with several, each has an entry."""
    for name in ("rewards", "collapse"):
        figure, _ = getattr(curves_figures, name).__wrapped__(tables["curves"])
        [legend] = figure.legends
        assert [text.get_text() for text in legend.get_texts()][-1] == "single steps"
    [*_, (_, rows)] = tables["curves"].groupby("run")
    figure, _ = curves_figures.rewards.__wrapped__(rows, smooth_steps=5)
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["mean of 5 steps", "single steps"]
    faint = legend.get_lines()[-1]
    assert {"linewidth": faint.get_linewidth(), "alpha": faint.get_alpha()} == curves_figures.FAINT
