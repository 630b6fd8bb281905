"""Sentences under the headline: what is no chance, and where a run lies among other seeds."""

import pandas as pd
import pytest

from lightningrl.errors import StageError
from lightningrl.report.findings import among_seeds, differences, read_seeds

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
        "Among 1 other seeds of base on t: TPF 1.50 is below all of them (1.60 to 1.60).",
        "Among 3 other seeds of even on t: TPF 3.00 is above 2 (2.80 to 3.10); "
        "Δ accuracy −0.4 is above 1 (−0.5 to +0.1).",
    ]
    assert among_seeds(HEADLINE, read_seeds(path)[:1])[0].endswith(
        "TPF 3.00 is above all of them (2.90 to 2.90); Δ accuracy −0.4 is above all of them (−0.5 to −0.5)."
    )


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", '"half a quote\n1,2\n', "\x00"])
def test_a_file_of_seeds_that_is_no_table_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "seeds.csv"
    path.write_text(content)
    with pytest.raises(StageError, match=r"seeds.csv, the config's `report.seeds`, is no CSV file.*leave the key out"):
        read_seeds(path)
