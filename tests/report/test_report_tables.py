"""Tables as text: units, intervals, notes, escaping, width, fixed bytes; the sentences under the headline."""

import dataclasses
import re

import pandas as pd
import pytest

from lightningrl.errors import StageError
from lightningrl.report import tables
from lightningrl.report.findings import among_seeds, differences, read_seeds
from lightningrl.report.frontier import collect, groups
from lightningrl.report.study import phrasing


def test_markdown_has_units_intervals_and_what_the_numbers_need(collected):
    text = tables.main(collected.headline).markdown()
    row = collected.headline.iloc[1]
    for word in ("Accuracy (%)", "TPF (tokens/forward)", "Δ accuracy (points)", "Response (tokens)"):
        assert word in text
    assert f"{row.tpf:.2f} [{row.tpf_low:.2f}, {row.tpf_high:.2f}]" in text
    assert f"y_max = {row.y_max:.1f} %; y_min = {row.y_min:.1f} % (from SDAR)" in text
    assert "n = 120 problems" in text and "0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {11}
    table = tables.frontier(collected.frontier)
    assert len(table.rows) == 42 and sum(row[2] == "0.9*" for row in table.rows) == 6
    assert "* the primary threshold" in table.notes[0]


def check_latex(text, tables):
    """Braces are balanced, everything is ASCII, and all rows of a table have as many cells as its header."""
    assert text.isascii() and text.count(r"\begin{tabular}") == len(tables)
    assert text.count(r"\begin") == text.count(r"\end") == 3 * len(tables)
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    for part, table in zip(text.split(r"\toprule")[1:], tables, strict=True):
        rows = [line for line in part.split(r"\bottomrule")[0].splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {len(table.header) - 1}


def test_latex_is_balanced_and_escapes_what_users_may_type(collected):
    for table in (tables.main(collected.headline), tables.frontier(collected.frontier)):
        check_latex(table.latex(), [table])
    assert tables.escape("gsm_8k & 50 % {x}") == r"gsm\_8k \& 50 \% \{x\}"
    assert tables.escape("[1, 2]") == "{}[1, 2]"  # after a row end, "[" would be read as a length
    table = tables.Table("t", "c", (), ("A", "B"), (("x [beta]", "1.0 [0.9, 1.1]"),))
    assert r"x [beta] & 1.0 \\" in table.latex() and r" & {\scriptsize {}[0.9, 1.1]} \\" in table.latex()


def test_written_tables_are_the_same_bytes_every_time_with_every_number_exact(collected, tmp_path):
    first, second = (tables.write(tables.main(collected.headline), tmp_path / name) for name in "ab")
    assert [path.name for path in first] == ["main.csv", "main.md", "main.tex", "main.html"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    back = pd.read_csv(first[0], keep_default_na=False, na_values=[""])
    for column in ("tpf", "aup_anchored_high"):
        pd.testing.assert_series_equal(back[column], collected.headline[column], check_exact=True)


def test_console_fits_a_terminal(collected):
    headline = collected.headline.copy()
    headline.loc[0, "policy"] = "a policy with a very long name"
    text = tables.console(headline)
    assert max(len(line) for line in text.splitlines()) <= 110
    assert "LightningRL" in text and "a policy with a…" in text and "nan" not in text


def test_numbers_have_true_minus_signs_and_no_negative_zero():
    minus = "\N{MINUS SIGN}"
    assert tables.number(-1.25, 1) == f"{minus}1.2" and tables.number(0.04, 1, sign=True) == "0.0"
    assert tables.number(-0.04, 1, sign=True) == "0.0" and tables.number(float("nan"), 1) == "\N{EN DASH}"
    assert tables.number(3.0, 1, sign=True) == "+3.0"


def test_the_published_graders_column_is_there_only_with_its_verdicts(collected, evaluations):
    judged = [
        dataclasses.replace(each, records=[dataclasses.replace(r, compat=r.correct) for r in each.records])
        for each in evaluations[:3]
    ]
    both = collect(groups(judged, n_bootstrap=20), "e")
    for build, plain, data in (
        (tables.main, collected.headline, both.headline),
        (tables.frontier, collected.frontier, both.frontier),
    ):
        without, shown = build(plain), build(data)
        assert "Published grader (%)" not in without.header and len(shown.header) == len(without.header) + 1
        column, accuracy = (shown.header.index(title) for title in ("Published grader (%)", "Accuracy (%)"))
        assert all(row[accuracy].split()[0] == row[column] for row in shown.rows)


def test_tables_of_several_families_show_positions_and_commits_beside_tpf(collected):
    """Where all rows are of one family, or none is known, the headline has TPF alone; the sweep shows what it knows."""
    beside = ("TPF with commits", "Positions (per token)")
    headline, sweep = collected.headline.copy(), collected.frontier.copy()
    assert not {*beside} & {*tables.main(headline).header} and beside[1] not in tables.frontier(sweep).header
    for table in (headline, sweep):
        table["positions_per_token"] = [10.0 + row for row in range(len(table))]
        table["family"] = "sdar"
    assert not {*beside} & {*tables.main(headline).header} and beside[1] in tables.frontier(sweep).header
    headline.loc[1, "family"] = "llada"
    shown = tables.main(headline)
    assert shown.header[shown.header.index("TPF (tokens/forward)") + 1 :][:2] == beside
    assert [row[shown.header.index(beside[1])] for row in shown.rows[:2]] == ["10.0", "11.0"]
    headline = headline.assign(positions_per_token_low=9.5, positions_per_token_high=12.25)
    assert tables.main(headline).rows[1][shown.header.index(beside[1])] == "11.0 [9.5, 12.2]"
    assert tables.WORK_NOTE in shown.notes and tables.WORK_NOTE not in tables.main(collected.headline).notes
    older = headline.drop(columns=["family", *(name for name in headline if "per_token" in name)])
    assert not {*beside} & {*tables.main(older).header}, "collected before there were such columns"


def test_phrasing_has_a_column_a_policy_and_a_row_a_kind_of_phrase():
    measures = (("phrasing_nats_greedy", "plus"), ("calibration_error", "all"), ("class_together", "end"))
    rows = [
        (policy, role, "gsm-mini", measure, label, 9, value)
        for policy, role, value in (("base", "before", 1.5), ("ours", "after", 0.25)) for measure, label in measures
    ]  # fmt: skip
    columns = ["policy", "role", "benchmark", "measure", "label", "count", "value"]
    shown = phrasing(pd.DataFrame(rows, columns=columns))
    assert shown.header == ("Benchmark", "How", "What", "base", "ours")
    assert shown.rows == (
        ("gsm-mini", "greedy", "plus", "1.500", "0.250"), ("gsm-mini", "calibration", "all", "1.500", "0.250"),
    )  # fmt: skip
    assert phrasing(pd.DataFrame(columns=columns)).rows == ()


NAN = float("nan")
HEADLINE = pd.DataFrame(
    [
        ("t", "base", 1.5, NAN, NAN, NAN),
        ("t", "slow", 1.6, -2.94, -5.1, -0.6),
        ("t", "good", 1.7, 3.2, 1.0, 5.0),
        ("t", "even", 3.0, -0.4, -1.2, 0.4),
        ("t", "edge", 3.0, 0.4, 0.0, 0.8),
    ],
    columns=["benchmark", "policy", "tpf", *(f"accuracy_difference{end}" for end in ("", "_low", "_high"))],
)


def test_only_intervals_that_exclude_zero_are_sentences():
    assert differences(HEADLINE) == [
        "On t, slow is 2.9 points less accurate than its base: the 95 % interval [−5.1, −0.6] excludes 0.",
        "On t, good is 3.2 points more accurate than its base: the 95 % interval [+1.0, +5.0] excludes 0.",
    ]


def test_a_run_is_placed_among_the_seeds_of_its_policy_and_benchmark(tmp_path):
    path = tmp_path / "seeds.csv"
    rows = ("0,even,t,2.9,-0.5", "1,even,t,3.1,-0.2", "2,even,t,2.8,0.1", "0,base,t,1.6,", "0,even,another,9,9")
    path.write_text("seed,policy,benchmark,tpf,accuracy_difference\n" + "\n".join(rows))
    assert among_seeds(HEADLINE, read_seeds(path)) == [
        "Of the one recorded seed of base on t, none has a lower TPF than this run's 1.50 (range 1.60 to 1.60).",
        "Of the 3 recorded seeds of even on t, 2 have a lower TPF than this run's 3.00 (range 2.80 to 3.10); "
        "one has a lower Δ accuracy than this run's −0.4 (range −0.5 to +0.1).",
    ]


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", '"half a quote\n1,2\n', "\x00"])
def test_a_file_of_seeds_that_is_no_table_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "seeds.csv"
    path.write_text(content)
    with pytest.raises(StageError, match=r"seeds.csv, the config's `report.seeds`, is no CSV file.*leave the key out"):
        read_seeds(path)
