"""The paper's tables: published numbers are the file's, the split adds up, one y_max, what was not run, golden text."""

import csv
import math
import re
from pathlib import Path

import pandas as pd
import pytest
from paper_runs import policy, table_2_runs

from lightningrl.errors import StageError
from lightningrl.report import tables as plain
from lightningrl.report.frontier import Evaluation, collect
from lightningrl.report.paper import speed, tables
from lightningrl.report.paper.inconsistencies import NOTES
from lightningrl.report.paper.printed import BENCHMARKS, printed
from lightningrl.report.published import files
from lightningrl.report.registry import NEEDS
from lightningrl.report.series import speeds
from lightningrl.types import EvalRecord

ALL = ("table1", "table2", "table3", "table4", "table5", "table6", "table7")
SPEED = {
    "policy": "base", "role": "before", "published": "SDAR-8B-b32", "benchmark": "gsm8k", "prompts": 64,
    "warmup_prompts": 4, "batch": 1, "prefill_included": False, "tokens": 1000, "seconds": 10.0,
    "tokens_per_second": 211.17, "tokens_per_second_low": 205.02, "tokens_per_second_high": 216.01,
    "device": "NVIDIA H200", "dtype": "bfloat16", "threshold": 0.9, "max_new_tokens": 512,
}  # fmt: skip


@pytest.fixture(scope="module")
def collected():
    return collect(table_2_runs(), "e", n_bootstrap=200)


def build(name, collected):
    if name == "table7":
        return speed.table7(speeds([SPEED]))
    if name == "table2":
        return tables.table2(collected.headline, collected.frontier)
    return getattr(tables, name)(collected.headline)


def raw_rows():
    with open(Path(files.__file__).parent / files.RESULTS, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def chosen(data, **what):
    for key, value in what.items():
        data = data[data[key] == value]
    return data


@pytest.mark.parametrize("name", ALL)
def test_published_numbers_are_all_of_the_files_and_only_they(name, collected):
    shown = chosen(build(name, collected).data, part="published")
    expected = sorted((BENCHMARKS_BACK[r["benchmark"]], r["metric"], float(r["value"])) for r in raw_rows()
                      if r["table"] == name)  # fmt: skip
    assert sorted(zip(shown["benchmark"], shown["metric"], shown["value"], strict=True)) == expected


BENCHMARKS_BACK = {name: key for key, name in BENCHMARKS.items()}


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_rows_that_a_table_or_figure_needs_are_rows_of_the_paper(name):
    found = {table: {row.identity for row in printed(table)} for table in ALL}
    if name in found:
        assert set(NEEDS[name]["rows"]) <= found[name]
    assert set(NEEDS[name]["rows"]) <= set.union(*found.values())
    assert set(NEEDS[name]["benchmarks"]) <= set(BENCHMARKS)


def test_every_row_is_needed_or_another_system():
    for name in ALL:
        assert {row.identity for row in printed(name) if not row.other_system} == set(NEEDS[name]["rows"]), name


def test_one_row_has_one_identity_in_all_tables():
    labels = {name: {row.label: row.identity for row in printed(name)} for name in ALL}
    assert labels["table3"]["LightningRL"] == labels["table5"]["LightningRL"] == labels["table7"]["LightningRL"]
    assert labels["table4"]["Seq-Tok-Tok"] == labels["table1"]["LightningRL-8B-b32"] == "LightningRL-8B-b32"
    assert labels["table7"]["SDAR"] == labels["table6"]["SDAR-8B-b32"] == "SDAR-8B-b32"
    assert "SDAR-1.7B-b32" in labels["table6"]


@pytest.mark.parametrize("name", ["table1", "table2", "table6"])
def test_the_split_adds_up_and_the_total_is_measured_minus_published(name, collected):
    data = build(name, collected).data
    keys = ["benchmark", "row", "policy", "metric"]
    parts = {part: rows.set_index(keys) for part, rows in data.groupby("part")}
    split = parts["of which grader and count"]["value"] + parts["left"]["value"]
    total = parts["difference"].loc[split.index]
    pd.testing.assert_series_equal(split, total["value"], atol=1e-9, rtol=0)
    measured = parts["measured"].loc[parts["difference"].index]
    for key, row in parts["difference"].iterrows():
        constant = chosen(data, part="published", benchmark=key[0], row=key[1], metric=key[3])["value"].item()
        for bound in ("value", "low", "high"):
            assert row[bound] == pytest.approx(measured.loc[key][bound] - constant, abs=1e-9)
    assert len(parts["difference"]) == 5 * 3 and len(split) == 5 * 3 - 2  # the base has no compat verdict on MBPP


def test_the_released_checkpoint_has_a_row_of_its_own(collected):
    text = build("table1", collected).markdown()
    assert "| GSM8K | LightningRL-8B-b32 | lightningrl-gsm8k | " in text
    assert "| GSM8K | LightningRL-8B-b32, released checkpoint | authors-gsm8k | " in text
    assert "| HumanEval | LightningRL-8B-b32 | – | – | – | – | – | – | – |" in text


def f(y, y_max):
    return y * math.exp(-3 * (1 - y / y_max))


def test_a_mixed_table_has_one_y_max_and_keeps_the_published_aup(collected):
    data = build("table2", collected).data
    # GSM8K: the best of all points is measured (98.3 %), d3LLM-LLaDA has (1, 74.02) and (9.11, 73.09)
    y_max = chosen(data, metric="aup_one_y_max", benchmark="gsm8k")["y_max"].unique()
    best = chosen(collected.frontier, benchmark="gsm8k")["accuracy_pct"].max()
    assert y_max.tolist() == [best] and best > 83.94
    found = chosen(data, metric="aup_one_y_max", benchmark="gsm8k", row="d3LLM-LLaDA")["value"].item()
    assert found == pytest.approx(74.02 + (9.11 - 1) * (f(74.02, best) + f(73.09, best)) / 2)
    # MATH500: nothing was measured, the best is the leaderboard's 49.92; MBPP: 63.6 (measured at most 61.7)
    assert chosen(data, metric="aup_one_y_max", benchmark="math500")["y_max"].unique() == [49.92]
    measured = chosen(collected.frontier, benchmark="mbpp")["accuracy_pct"].max()
    assert chosen(data, metric="aup_one_y_max", benchmark="mbpp")["y_max"].unique() == [63.6] and measured < 63.6
    # with another y_max than the headline's, measured policies are recomputed too
    own = chosen(data, metric="aup_one_y_max", benchmark="mbpp", policy="lightningrl-code")["value"].item()
    assert own < chosen(collected.headline, benchmark="mbpp", policy="lightningrl-code")["aup"].item()
    text = build("table2", collected).markdown()
    assert re.search(r"\| GSM8K \| d3LLM-LLaDA † \| – \| 73.1 \| – \| 9.11 \| – \| – \| – \| [0-9.]+ \| 637.7 \|", text)
    assert "† as published, not run here" in text and "math500 49.9 %" in text


def test_a_measured_other_system_is_no_longer_as_published():
    runs = [policy("dream", "rival", "Dream", base="")]
    found = collect(runs, "e", n_bootstrap=10)
    text = tables.table2(found.headline, found.frontier).markdown()
    assert "| GSM8K | Dream | dream |" in text and "Dream †" not in text.split("| MATH500")[1].split("GSM8K")[0]


@pytest.mark.parametrize("name", ALL)
def test_nothing_measured_still_makes_tables(name):
    empty = collect([], "e")
    inputs = {"table2": (empty.headline, empty.frontier), "table7": (speeds([]),)}.get(name, (empty.headline,))
    built = (getattr(tables, name, None) or speed.table7)(*inputs)
    assert "Nothing was measured yet." in built.markdown() and "As published" in built.markdown()
    assert set(built.data["part"]) <= {"published", "as published"}


@pytest.mark.parametrize("name", ALL)
def test_latex_is_balanced_and_its_rows_are_equally_wide(name, collected):
    built = build(name, collected)
    text = built.latex()
    assert text.isascii() and text.count(r"\begin{tabular}") == 3
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    for part, table in zip(text.split(r"\toprule")[1:], built.parts, strict=True):
        rows = [line for line in part.split(r"\bottomrule")[0].splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {len(table.header) - 1}


@pytest.mark.parametrize("name", ALL)
def test_written_with_the_stages_name(name, collected, tmp_path):
    built = build(name, collected)
    paths = plain.write(built, tmp_path)
    assert [path.name for path in paths] == [f"{name}.{suffix}" for suffix in ("csv", "md", "tex", "html")]
    assert rf"\label{{tab:{name}-3}}" in paths[2].read_text()


def test_notes_on_what_does_not_fit_agree_with_the_numbers():
    of = {name: {row.identity: row.numbers for row in printed(name)} for name in ALL}
    sdar = [of[name]["SDAR-8B-b32"]["humaneval", "accuracy_pct"] for name in ("table1", "table2", "table6")]
    assert sdar == [73.5, 73.5, 74.4]
    ours = of["table2"]["LightningRL-8B-b32"]
    product = ours["math500", "tpf"] * ours["math500", "accuracy_pct"]
    assert (ours["math500", "aup"], round(product, 1)) == (407.5, 395.6)

    def share(row, benchmark):
        numbers = of["table1"][row]
        return round(numbers[benchmark, "aup"] / numbers[benchmark, "tpf"] / numbers[benchmark, "accuracy_pct"], 2)

    assert [share("SDAR-8B-b32", name) for name in ("mbpp", "humaneval")] == [0.57, 0.70]
    assert [share("TraceRL-8B-b32", name) for name in ("mbpp", "humaneval")] == [1.0, 1.0]
    forwards = [of["table7"][row]["gsm8k", "tps_h100"] / of["table7"][row]["gsm8k", "tpf"]
                for row in ("SDAR-8B-b32", "LightningRL-8B-b32")]  # fmt: skip
    assert [round(each, 1) for each in forwards] == [37.0, 60.2]
    # everything else that two tables print twice is the same
    seen = {}
    for name in ALL:
        for row, numbers in of[name].items():
            for key, value in numbers.items():
                assert seen.setdefault((row, *key), value) == value or (row, *key) == (
                    "SDAR-8B-b32", "humaneval", "accuracy_pct")  # fmt: skip
    assert len(NOTES) == 8


def test_an_edited_file_of_published_numbers_is_refused(monkeypatch):
    monkeypatch.setitem(files.SHA256, files.RESULTS, "0" * 64)
    with pytest.raises(StageError, match=r"goes into files\.py"):
        files.rows(files.RESULTS)


def test_table_7_says_batch_device_and_prefill():
    text = speed.table7(speeds([SPEED])).markdown()
    assert "| GSM8K | SDAR | base | NVIDIA H200 | bfloat16 | out | 211.2 [205.0, 216.0] | 1 | 64 |" in text
    assert "Measured on NVIDIA H200; published on an H100" in text
    assert "| GSM8K | SDAR | base | 105.55 | 211.2 | +105.6 [+99.5, +110.5] | 2.00 [1.94, 2.05] |" in text
    on_h100 = speed.table7(speeds([SPEED | {"device": "NVIDIA H100 80GB HBM3"}])).markdown()
    assert "published on an H100" not in on_h100
    with pytest.raises(StageError, match="lacks batch"):
        speeds([{key: value for key, value in SPEED.items() if key != "batch"}])


GOLDEN = """\
| GSM8K | w/ Value Model | with-value | Accuracy (%) | 80.7 | 75.0 | −5.7 [−50.6, +14.7] | +25.0 [0.0, +75.0] | \
−30.7 [−65.7, +4.3] |
| GSM8K | w/ Value Model | with-value | TPF | 5.14 | 2.50 | −2.64 [−2.64, −2.64] | −0.50 [−0.50, −0.50] | \
−2.14 [−2.14, −2.14] |"""


def test_golden_difference():
    """Four problems: ours 3 of 4 right (Wilson 30.1..95.4), theirs 2 of 4 (15.0..85.0); 10 tokens in 4 forwards, of
    the emitted 12 all visible: TPF 2.5, theirs 3; AUP 2.5 x 75 = 187.5 and 3 x 50 = 150 against the printed 408.1."""
    records = [
        EvalRecord(
            "with-value", f"gsm8k/test/{n}", 0, 0.9, "h", "4", "4", n < 3, float(n < 3), "ok" if n < 3 else "wrong", "",
            10, 12, 4, 0, 1, "eos", [3, 3, 3, 3], compat=n < 2, visible_tokens=12,
        )
        for n in range(4)
    ]  # fmt: skip
    one = Evaluation("with-value", "rival", "x", "gsm8k", records, published="w/ Value Model")
    built = tables.table5(collect([one], "e", n_bootstrap=1000).headline)
    text = built.markdown()
    assert text.startswith("## Table 5: with a value model, GSM8K\n\n### As published\n\n| Benchmark | Row |")
    assert GOLDEN in text
    aups = chosen(built.data, metric="aup").set_index("part")["value"]
    assert aups["measured"] == 187.5
    assert [aups[part] for part in ("difference", "of which grader and count", "left")] == pytest.approx(
        [187.5 - 408.1, 37.5, 150 - 408.1]
    )


def test_a_speed_on_another_benchmark_than_the_papers_is_shown_and_compared_with_nothing():
    built = speed.table7(speeds([SPEED | {"benchmark": "math500"}]))
    assert "| MATH500 | SDAR-8B-b32 | base | NVIDIA H200 | bfloat16 | out | 211.2 [205.0, 216.0] |" in built.markdown()
    assert set(chosen(built.data, policy="base")["part"]) == {"measured"}
    assert set(built.data["part"]) == {"published", "as published", "measured"}
