"""Two thresholds that differ in the ninth digit are two: in names, files, rows, tables, and where one is looked up."""

import ast
import dataclasses
import json
import re

import pytest
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.config.decoding import DirectDecoding
from lightningrl.config.experiment import load
from lightningrl.errors import ConfigError, StageError
from lightningrl.evaluation.metrics import problem_sums
from lightningrl.evaluation.sweep import Sweep
from lightningrl.inference.policy import direct_policy, policy_of
from lightningrl.inference.trace import policy_in_words
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.stages.collected import read_collected
from lightningrl.pipeline.stages.sources import labels_of, read_rows
from lightningrl.report.formats import csv_text
from lightningrl.report.frontier import collect, groups
from lightningrl.report.tables import frontier as frontier_table
from lightningrl.utils import files

LOW, HIGH = 0.9, 0.900000001
PATH = "lightningrl.decoding.selectors.threshold:Threshold"


@pytest.fixture(scope="module")
def both(evaluations):
    """A policy's evaluation at both thresholds; all answers are right at the higher one."""
    records = [record for record in evaluations[0].records if record.threshold == LOW]
    again = [dataclasses.replace(record, threshold=HIGH, correct=True) for record in records]
    assert not all(record.correct for record in records)
    return dataclasses.replace(evaluations[0], records=records + again)


@pytest.mark.parametrize("primary", [LOW, HIGH])
def test_rows_labels_and_the_headline_are_of_the_threshold_that_is_meant(both, primary, tmp_path):
    found = collect(groups([both], primary, 20), "toy")
    assert found.headline["threshold"].tolist() == [primary]
    assert (found.headline["accuracy_pct"].item() == 100) is (primary == HIGH)
    assert found.frontier["is_primary"].tolist() == [primary == LOW, primary == HIGH]
    (tmp_path / "frontier.csv").write_text(csv_text(found.frontier))
    assert read_collected(tmp_path, "frontier")["threshold"].tolist() == [LOW, HIGH], "no bit is lost in the file"
    assert labels_of(read_rows(tmp_path / "frontier.csv")) == ["SDAR/gsm-mini@0.9", "SDAR/gsm-mini@0.900000001"]
    printed = [[cell.removesuffix("*") for cell in row] for row in frontier_table(found.frontier).rows]
    assert ["0.9" in row for row in printed] == [True, False] and "0.900000001" in printed[1]
    with pytest.raises(StageError, match=r"threshold 0\.9000000005 \(found: 0\.9, 0\.900000001\)"):
        collect(groups([both], 0.9000000005, 20), "toy")


def test_files_and_messages_name_the_one_that_is_meant(both, tmp_path):
    sweep = Sweep(
        name="p", examples=[], samples=1, shard=1, cache=tmp_path, load=None, policy=policy_of, report=print,
        timing=print, should_stop=bool,
    )  # fmt: skip
    assert len({sweep._file(each).path for each in (LOW, HIGH)}) == 2
    with pytest.raises(StageError, match=r"at threshold 0\.900000001 comes twice"):
        problem_sums([*both.records, both.records[-1]])
    with pytest.raises(StageError, match=r"has no record at threshold 0\.900000001; every"):
        problem_sums(both.records[:-1])
    words = [policy_in_words(policy_of("threshold", each, temperature=each)) for each in (LOW, HIGH)]
    assert words[1] == words[0].replace("0.9", "0.900000001")


def test_compare_is_at_the_threshold_that_it_is_given(both, tmp_path):
    path = tmp_path / "records.jsonl"
    files.write_jsonl(path, (record.to_json() for record in both.records))
    for given, accuracy in ((LOW, None), (HIGH, "accuracy 100.0")):
        words = ["compare", str(path), str(path), "--threshold", repr(given), "--bootstrap", "20"]
        line = CliRunner().invoke(app, words).stdout.splitlines()[0]
        assert f"(threshold {given}; " in line and "thresholds 0.9 0.900000001" in line
        assert ("accuracy 100.0" in line) is (accuracy is not None)


def test_no_threshold_is_printed_with_a_number_of_digits():
    """f"{threshold:g}" has six of them."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "threshold" in text else ():
            if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
                value = ast.unparse(node.value)
                if re.search(r"threshold|\btau\b|\bparameter\b", value) and not value.startswith("shortest("):
                    found.append(f"{path.name}: {value}")
    assert found == []


@pytest.mark.parametrize("selector", ["threshold", PATH])
@pytest.mark.parametrize("value", [-0.5, 0.0, 1.0000001, 90.0])
def test_a_threshold_that_is_no_probability_is_refused_however_it_is_asked_for(tmp_path, selector, value):
    with pytest.raises(ConfigError, match=r"within \(0, 1\], found "):
        direct_policy(DirectDecoding(selector=selector), value)
    nano = (PACKAGE.parent / "config" / "nano.yaml").read_text()
    text = nano.replace("thresholds: [0.02, 0.9]", f"thresholds: {sorted([value, 0.9])}")
    assert text != nano
    (tmp_path / "mine.yaml").write_text(f"{text}\ndecoding: {{selector: {json.dumps(selector)}}}\n")
    with pytest.raises(ConfigError, match=r"evaluation\.thresholds\.\d: a threshold is a probability within \(0, 1\]"):
        load(tmp_path / "mine.yaml")
    for verb in (["train"], ["states"]):
        words = ["bench", *verb, "--checkpoint", str(tmp_path), "--threshold", str(value)]
        told = CliRunner().invoke(app, words)
        assert told.exit_code == 2 and "--threshold: a threshold is a probability within (0, 1]" in told.stderr


def test_other_selectors_have_their_own_range_and_what_is_no_number_is_refused_everywhere(tmp_path):
    assert direct_policy(DirectDecoding(selector="quota"), 4).selector.steps == 4
    assert direct_policy(DirectDecoding(ranking="neg_entropy"), -0.5).selector.tau == -0.5
    for words in (["compare", "a", "b"], ["score", "a", "--benchmark", "gsm-mini", "--out", str(tmp_path / "out")]):
        for value in ("nan", "inf"):
            told = CliRunner().invoke(app, [*words, "--threshold", value])
            assert told.exit_code == 2 and f"--threshold: found {value}, expected a finite number" in told.stderr
