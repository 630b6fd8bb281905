"""Published numbers of quantised models beside measured ones: differences, drops of averages, empty lines."""

import pandas as pd
import pytest

from lightningrl.report.frontier import HEADLINE_COLUMNS
from lightningrl.report.paper.printed import identities
from lightningrl.report.paper.quantization import QA, published_quantization


def headline(*rows):
    return pd.DataFrame([dict.fromkeys(HEADLINE_COLUMNS) | row for row in rows], columns=list(HEADLINE_COLUMNS))


def row(policy, published, benchmark, accuracy, difference=None):
    low, high = accuracy - 2, accuracy + 2
    return {"policy": policy, "published": published, "benchmark": benchmark, "accuracy_pct": accuracy,
            "accuracy_pct_low": low, "accuracy_pct_high": high, "accuracy_difference": difference}  # fmt: skip


def test_accuracies_are_compared_in_points():
    table = published_quantization(headline(row("dream-w4", "Dream-7B-Instruct GPTQ W4", "gsm8k", 74.04)))
    [line] = table.data[table.data["policy"] == "dream-w4"].to_dict("records")
    assert line["published"] == "76.0" and line["difference"] == pytest.approx(74.04 - 76.04)
    assert (line["low"], line["high"]) == (72.04, 76.04)
    shown = {cells[:4]: cells[4:] for cells in table.rows}
    assert shown["Dream-7B-Instruct GPTQ", line["bits"], "GSM8K", "dream-w4"] == ("76.0", "74.0", "−2.0")


def test_a_drop_is_of_the_mean_over_general_questions_in_percent_of_the_float_mean():
    """Float 60 and 40, quantised 54 and 37: 4.5 of 50 points are lost, 9 %; the claim is 6.6."""
    name = "LLaDA-8B QuaRot W4A4"
    table = published_quantization(headline(
        row("q", name, QA[0], 54.0, -6.0), row("q", name, QA[-1], 37.0, -3.0), row("q", name, "gsm8k", 10.0, -50.0),
    ))  # fmt: skip
    [line] = table.data[table.data["policy"] == "q"].to_dict("records")
    assert line["measured"] == pytest.approx(9.0) and line["difference"] == pytest.approx(9.0 - 6.6)


def test_every_published_number_has_a_line_and_none_is_made_up():
    table = published_quantization(headline())
    assert len(table.rows) == 15 and table.data["measured"].isna().all() and (table.data["policy"] == "").all()
    assert {">20", "near lossless", "2-3"} <= set(table.data["published"]) and table.data["source"].ne("").all()
    assert "Dream-7B-Instruct FP16" in identities() and "" not in identities()
