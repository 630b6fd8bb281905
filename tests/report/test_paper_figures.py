"""The paper's figures: drawn from all, some and none of the runs, with what was drawn beside them."""

import numpy as np
import pandas as pd
import pytest
from paper_runs import policy

from lightningrl.errors import ConfigError
from lightningrl.report.figures import style
from lightningrl.report.frontier import collect, groups
from lightningrl.report.paper import bars, figures
from lightningrl.report.registry import FIGURES, INPUTS, NEEDS
from lightningrl.report.series import curves as curves_table
from lightningrl.report.series import steps as steps_table
from lightningrl.utils.registry import resolve

PAPER = [name for name in FIGURES if name in NEEDS]
FOUR = ("gsm8k", "math500", "mbpp", "humaneval")
RUNS = {
    "lightningrl-gsm8k": ("LightningRL-8B-b32", 3.0), "tracerl-gsm8k": ("TraceRL-8B-b32", 1.0),
    "grpo-traj-gsm8k": ("GRPO(traj)-8B-b32", 2.0), "no-decoupling": ("w/o Decoupled normalization", 2.0),
    "no-nll": ("w/o NLL loss", 3.0), "no-filter": ("w/o TPF-aware filtering", 2.5),
}  # fmt: skip


def training(runs, n_steps=30):
    rows = []
    for number, run in enumerate(runs):
        published, speed = RUNS[run]
        for step in range(1, n_steps + 1):
            accuracy, tpf = 0.6 * (1 - np.exp(-step / 10)) + 0.03 * (step % 3), 2 + speed * (1 - np.exp(-step / 12))
            rows.append(
                {
                    "run": run, "step": step, "role": "after", "published": published, "benchmark": "gsm8k",
                    "reward_total_mean": accuracy + tpf, "reward_accuracy_mean": accuracy, "reward_speed_mean": tpf,
                    "collapse_ratio_0.1": 0.1 + 0.05 * number + 0.01 * (step % 2),
                }
            )  # fmt: skip
    return curves_table(rows)


def made(evaluations, runs):
    grouped = groups(evaluations, n_bootstrap=20)
    tables = collect(grouped, "e")
    return {"frontier": tables.frontier, "headline": tables.headline, "curves": training(runs),
            "steps": steps_table(grouped)}  # fmt: skip


@pytest.fixture(scope="module")
def full():
    evaluations = [policy("base", "before", "SDAR-8B-b32", name, speed=3, seed=1) for name in FOUR]
    evaluations += [policy(f"ours-{name}", "after", "LightningRL-8B-b32", name, speed=6, seed=2) for name in FOUR]
    evaluations += [policy("authors", "released", "LightningRL-8B-b32", "gsm8k", speed=7, seed=3)]
    return made(evaluations, RUNS)


def draw(name, tables, out_dir, **options):
    paths = resolve(FIGURES[name])(*(tables[each] for each in INPUTS["figures"][name]), out_dir, **options)
    assert [path.name for path in paths] == [f"{name}.pdf", f"{name}.png", f"{name}.csv"]
    return pd.read_csv(paths[2])


def plotted(name, tables, **options):
    """The data of a figure that is not rendered, which takes longest."""
    with style.styled():
        return resolve(FIGURES[name]).__wrapped__(*(tables[each] for each in INPUTS["figures"][name]), **options)[1]


@pytest.mark.parametrize("name", PAPER)
def test_what_was_run_is_drawn_and_what_was_not_is_named_in_the_csv(name, full, tmp_path):
    partial = made([policy("ours", "after", "LightningRL-8B-b32", base="", seed=2)], ["lightningrl-gsm8k"])
    every, some, none = draw(name, full, tmp_path), plotted(name, partial), draw(name, made([], []), tmp_path)
    if name == "figure1":
        assert set(every["source"]) == {"measured here", "as published"}
        averages = some[(some["source"] == "measured here") & (some["benchmark"] == "average")]
        assert averages["value"].isna().all() and set(averages["note"]) == {"not run on all four"}
        assert none.loc[none["source"] == "measured here", "value"].isna().all()
        return
    assert set(every["published"]) == set(NEEDS[name]["rows"]) and not every["note"].isin(["not run"]).any()
    absent = set(some.loc[some["note"] == "not run", "published"])
    assert absent == set(NEEDS[name]["rows"]) - {"LightningRL-8B-b32"}
    assert "not run" in set(none["note"]) <= {"not run", "paper's text"}


def test_figure_1_averages_four_benchmarks_and_prints_the_others_as_published(full):
    data = bars.bars(full["headline"])
    drawn = data[data["is_drawn"]]
    names = [name for name, _ in dict.fromkeys(zip(drawn["system"], drawn["source"], strict=True))]
    assert names == ["LightningRL", "LightningRL, released checkpoint", "LightningRL", *bars.OTHERS]
    published = data[data["source"] == "as published"]
    assert set(published["system"]) == {figures.name_of(row) for row in NEEDS["table2"]["rows"]}
    data = data.set_index(["system", "source", "benchmark", "metric"])
    value, own = data["value"], full["headline"].query("policy.str.startswith('ours')").set_index("benchmark")
    assert value["LightningRL", "measured here", "average", "aup"] == pytest.approx(own["aup"].mean())
    assert data["low"]["LightningRL", "measured here", "mbpp", "accuracy_pct"] == own["accuracy_pct_low"]["mbpp"]
    assert value["LightningRL", "as published", "average", "tpf"] == pytest.approx((5.58 + 6.28 + 11.10 + 6.30) / 4)
    assert value["EAGLE-3 (LLaMA-3.1)", "as published", "mbpp", "accuracy_pct"] == 60.2
    assert np.isnan(value["LightningRL, released checkpoint", "measured here", "average", "tpf"])


def test_figure_1_has_every_measured_system_with_its_difference_and_a_servers_word_for_tpf(full):
    speeds = {"Dream": 2, "d3LLM-Dream": 5}
    runs = [policy(row.lower(), "released", row, name, speed=n, base="") for row, n in speeds.items() for name in FOUR]
    server = [policy("eagle3", "released", "EAGLE-3 (LLaMA-3.1)", name, base="") for name in FOUR]
    told = made(runs + server, [])["headline"]
    is_server = told["policy"] == "eagle3"
    told.loc[is_server, ["tpf", "aup"]], told["tpf_reported"] = float("nan"), np.where(is_server, 5.5, np.nan)
    data = bars.bars(told).set_index(["system", "source", "benchmark", "metric"])
    word = data.loc["EAGLE-3 (LLaMA-3.1)", "measured here", "average", "tpf"]
    assert word["value"] == 5.5 and word["note"] == "server's word" and word["is_drawn"]
    assert word["difference"] == pytest.approx(5.5 - (5.12 + 5.72 + 5.69 + 5.98) / 4)
    dream = data.loc["Dream", "measured here", "gsm8k", "accuracy_pct"]
    assert dream["difference"] == pytest.approx(dream["value"] - 83.9) and not dream["is_drawn"]
    assert data.loc["Dream", "as published", "gsm8k", "accuracy_pct"]["value"] == 83.9
    assert np.isnan(data.loc["Dream", "as published", "gsm8k", "accuracy_pct"]["difference"])


def test_figure_6_scales_the_speed_of_all_its_runs_to_0_1(full):
    table = full["curves"]
    data = plotted("figure6", full, smooth_steps=5)
    speed = table.loc[table["published"].isin(NEEDS["figure6"]["rows"]), "reward_speed_mean"]
    ours = table[table["run"] == "lightningrl-gsm8k"]
    expected = ours["reward_accuracy_mean"] + (ours["reward_speed_mean"] - speed.min()) / (speed.max() - speed.min())
    drawn = data[data["name"] == "LightningRL"]
    np.testing.assert_allclose(drawn["value"], expected)
    middle = drawn["value"].iloc[8:13]
    assert drawn["smoothed"].iloc[10] == pytest.approx(middle.mean())
    assert drawn["std"].iloc[10] == pytest.approx(middle.std(ddof=0))
    constant = training(["lightningrl-gsm8k"]).assign(reward_speed_mean=2.0)  # no division by zero
    panel = figures.Panel("x", "t", ("LightningRL-8B-b32",), 185, band=True)
    assert figures.scaled(constant, panel)[figures.SCALED].tolist() == constant["reward_accuracy_mean"].tolist()


def test_figure_4_stops_where_the_papers_does_and_tells_runs_of_one_row_apart(full):
    assert plotted("figure4", {"curves": training(["lightningrl-gsm8k", "no-nll"], 140)})["x"].max() == 125
    ours = full["curves"].query("run == 'lightningrl-gsm8k'")
    other = ours.assign(run="lightningrl-math", benchmark="math500")  # another benchmark's run of the same row
    names = set(plotted("figure4", {"curves": pd.concat([full["curves"], other])})["name"])
    assert names == {"LightningRL", "w/o NLL loss"}
    names = set(plotted("figure4", {"curves": pd.concat([full["curves"], ours.assign(run="seed-2")])})["name"])
    assert names == {"LightningRL (lightningrl-gsm8k)", "LightningRL (seed-2)", "w/o NLL loss"}
    with pytest.raises(ConfigError, match="needs the column"):
        plotted("figure4", {"curves": ours.drop(columns="reward_accuracy_mean")})


def test_figure_7_is_of_gsm8k_and_figure_8_marks_the_points_of_the_papers_text(full):
    data = plotted("figure7", full)
    assert set(data["benchmark"]) == {"gsm8k"}
    assert set(data["name"]) == {"SDAR", "LightningRL", "LightningRL, released checkpoint"}
    data = plotted("figure8", full)
    stars = data[data["note"] == "paper's text"]
    assert list(zip(stars["published"], stars["x"], stars["value"], strict=True)) == list(figures.IN_TEXT)
    measured = data[(data["note"] == "measured") & (data["name"] == "SDAR")]
    own = full["frontier"].query("policy == 'base' and benchmark == 'gsm8k'")
    assert sorted(measured["x"]) == sorted(own["tpf"])
