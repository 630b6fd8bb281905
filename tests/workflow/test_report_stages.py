"""The stages behind the results: tables read back as written, figures get their options, releases are whole."""

from __future__ import annotations

import base64
import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from lightningrl.errors import StageError
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.stages import collect, figure, release
from lightningrl.pipeline.stages.collected import read_collected
from lightningrl.report.formats import csv_text
from lightningrl.types import EvalRecord
from lightningrl.utils.files import write_json, write_jsonl, write_text


def record(policy: str, uid: str, correct: bool, forwards: int, threshold: float = 0.9) -> dict:
    return EvalRecord(
        policy, uid, 0, threshold, "h", "4", "4", correct, float(correct), "ok" if correct else "wrong", "", 6, 8,
        forwards, 0, 0, "eos", [8 - forwards + 1] + [1] * (forwards - 1),
    ).to_json()  # fmt: skip


@pytest.fixture
def context(tmp_path: Path) -> SimpleNamespace:
    """Two policies on one benchmark, of which `fast` takes half the forwards of `base`; one RL run, one supervised."""
    inputs = {}
    for policy, forwards in (("base", 6), ("fast", 3)):
        folder = tmp_path / "evaluate" / policy
        rows = [record(policy, f"toy/test/{n:05d}", n % 2 == 0, forwards) for n in range(8)]
        write_jsonl(folder / "records.jsonl", rows)
        inputs[f"evaluate/{policy}/toy"] = folder
    for run, rows in {
        "fast": [
            {"step": 1, "reward_total_mean": 0.5},
            {"step": 1, "validation_tpf": 2.0},
            {"step": 0, "token_forwards": 30},
        ],
        "control": [{"step": 1, "loss": 3.0, "token_forwards": 70}, {"step": 2, "loss": 2.0, "token_forwards": 140}],
    }.items():
        write_json(tmp_path / "train" / run / "selection.json", {"chosen": {"step": 1}})
        write_jsonl(tmp_path / "train" / run / "metrics.jsonl", rows)
        inputs[f"train/{run}"] = tmp_path / "train" / run
    policies = [
        {"name": "base", "role": "before", "algorithm": "threshold", "benchmark": None},
        {"name": "fast", "role": "after", "algorithm": "lightningrl", "benchmark": "toy"},
        {"name": "control", "role": "control", "algorithm": "supervised", "benchmark": "toy", "earlier": ["fast"]},
    ]
    config = {
        "experiment": "toys", "bootstrap": 50, "primary_threshold": 0.9, "seed": 0, "policies": policies,
        "counterparts": {}, "benchmarks": ["toy"],
    }  # fmt: skip
    folder = tmp_path / "collect"
    folder.mkdir()
    inputs = dict(sorted(inputs.items(), reverse=True))
    return SimpleNamespace(config=config, inputs=inputs, folder=folder, report=lambda line: None)


def test_collecting_gives_the_rows_in_the_experiments_order_and_the_same_bytes_again(context) -> None:
    collect.run(context)
    headline = read_collected(context.folder, "headline")
    assert headline["policy"].tolist() == ["base", "fast"]
    assert headline["tpf"].tolist() == [1.0, 2.0]  # 6 tokens in 6 forwards, in 3
    assert headline["accuracy_pct"].tolist() == [50.0, 50.0]
    assert headline["thresholds"].tolist() == ["0.9", "0.9"]
    curves = read_collected(context.folder, "curves")  # those of reinforcement learning only
    assert curves[["run", "step", "reward_total_mean", "validation_tpf"]].to_numpy().tolist() == [["fast", 1, 0.5, 2.0]]
    trainings = read_collected(context.folder, "trainings").set_index("run")
    counts = trainings[["token_forwards", "earlier_token_forwards", "steps", "chosen_step"]]
    assert counts.loc["fast"].tolist() == [30, 0, 0, 1] and counts.loc["control"].tolist() == [140, 30, 2, 1]
    before = {path.name: path.read_bytes() for path in context.folder.iterdir()}
    collect.run(context)
    assert before == {path.name: path.read_bytes() for path in context.folder.iterdir()}
    assert set(before) == set(KINDS["collect"].files)


def test_collected_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"policy": ["a", "b"], "base": ["", "a"], "thresholds": ["0.9", "0.5 0.9"], "tpf": [0.1 + 0.2, math.nan]}
    )
    write_text(tmp_path / "headline.csv", csv_text(table))
    found = read_collected(tmp_path, "headline")
    assert found["base"].tolist() == ["", "a"] and found["thresholds"].tolist() == ["0.9", "0.5 0.9"]
    assert found["tpf"][0] == 0.1 + 0.2 and math.isnan(found["tpf"][1])
    with pytest.raises(StageError, match=r"frontier\.csv is missing"):
        read_collected(tmp_path, "frontier")


def draw(table: pd.DataFrame, out_dir: Path, *, smooth_steps: int = 1, other: int = 2) -> list[Path]:
    raise NotImplementedError


def draw_plainly(table: pd.DataFrame, out_dir: Path) -> list[Path]:
    raise NotImplementedError


def test_a_figure_is_given_the_common_options_that_it_has() -> None:
    plot = {"unknown_to_figures": 5.5, "smooth_steps": 7}
    assert figure.options_for(draw, plot) == {"smooth_steps": 7}
    assert figure.options_for(draw_plainly, plot) == {}


def a_manifest(
    kind: str, name: str, key: str, folder: Path, inputs: dict[str, Path], science: dict | None = None,
    files: tuple[str, ...] = ("it.csv",),
) -> None:  # fmt: skip
    outputs = {file: {"bytes": 3, "sha256": "0" * 64} for file in files}
    manifest = {
        "kind": kind, "name": name, "key": key, "outputs": outputs, "git": {"commit": "c0ffee", "dirty": False},
        "preimage": {"science": science or {}, "code": {}},
        "inputs": {role: {"folder": str(source)} for role, source in inputs.items()},
    }  # fmt: skip
    write_text(folder / "manifest.json", json.dumps(manifest))


def release_of(folder: Path, inputs: dict[str, Path], figures: list[str], key: str = "new") -> tuple[list, dict]:
    """Makes a release of what is drawn and collected; returns the rows of its provenance, and its configuration."""
    differs = {"accuracy_difference": 3.0, "accuracy_difference_low": 1.0, "accuracy_difference_high": 5.0}
    headline = pd.DataFrame([{"benchmark": "toy", "policy": "fast", **differs}])
    write_text(inputs["collect"] / "headline.csv", csv_text(headline))
    context = SimpleNamespace(
        config={"tables": [], "figures": figures, "replays": []}, inputs=inputs, folder=folder / f"release-{key}",
        report=lambda line: None,
    )  # fmt: skip
    release.run(context)  # type: ignore[arg-type]
    assert (folder / "latest").readlink() == Path(f"release-{key}")
    latest = folder / "latest"
    rows = list(csv.DictReader((latest / "provenance.csv").open()))
    return rows, yaml.safe_load((latest / "configuration.yaml").read_text())


def test_a_release_is_a_copy_and_latest_points_at_it(tmp_path: Path) -> None:
    drawn, collect = tmp_path / "figure" / "pie-1", tmp_path / "collect" / "pie-1"
    for name in ("pie.png", "pie.pdf"):
        write_text(drawn / name, name)
    a_manifest("collect", "pie", "1", collect, {}, {"bootstrap": 7})
    a_manifest("figure", "pie", "2", drawn, {"collect": collect}, {"name": "pie"}, ("pie.pdf", "pie.png"))
    inputs = {"figure/pie": drawn, "collect": collect}
    release_of(tmp_path, inputs, ["pie"], key="old")
    rows, told = release_of(tmp_path, inputs, ["pie"])
    assert sorted(path.name for path in (tmp_path / "latest" / "figures").iterdir()) == ["pie.pdf", "pie.png"]
    assert "<td>collect/pie</td>" in (tmp_path / "latest" / "provenance.html").read_text()
    assert told == {"collect/pie": {"bootstrap": 7}, "figure/pie": {"name": "pie"}}
    assert [(row["stage"], row["key"], row["commit"], row["bytes"]) for row in rows] == [
        ("collect/pie", "1", "c0ffee", "3"), ("figure/pie", "2", "c0ffee", "6"),
    ]  # fmt: skip
    assert rows[1]["from"].endswith("collect/pie-1")
    page = (tmp_path / "latest" / "report.html").read_text()
    assert f"data:image/png;base64,{base64.b64encode(b'pie.png').decode()}" in page and 'href="figures/pie.pdf"' in page
    assert "On toy, fast is 3.0 points more accurate than its base" in page


def test_provenance_lists_self_checks_and_the_code_that_ran_with_the_one_in_the_key(tmp_path: Path) -> None:
    """Judged by a self-check that is there, and by an older one whose folder is gone."""
    data, check, other = tmp_path / "data" / "pie-1", tmp_path / "selfcheck" / "pie-2", tmp_path / "selfcheck" / "pie-3"
    collect = tmp_path / "collect" / "pie-4"
    a_manifest("data", "pie", "1", data, {})
    a_manifest("selfcheck", "pie", "2", check, {"data": data})
    a_manifest("collect", "pie", "4", collect, {}, {"bootstrap": 7})
    manifest = json.loads((collect / "manifest.json").read_text())
    manifest["code"] = {"digest": "a" * 64, "live": "b" * 64, "pinned": True}
    manifest["after"] = {f"selfcheck/{f.name}": {"folder": str(f), "key": f.name[-1]} for f in (check, other)}
    write_text(collect / "manifest.json", json.dumps(manifest))
    rows, told = release_of(tmp_path, {"collect": collect}, [])
    assert told == {"collect/pie": {"bootstrap": 7}}
    assert [(row["stage"], row["key"], row["bytes"]) for row in rows] == [
        ("collect/pie", "4", "3"), ("data/pie", "1", "3"), ("selfcheck/pie", "2", "3"), ("selfcheck/pie", "3", ""),
    ]  # fmt: skip
    code = [(row["code_sha256"], row["pinned"], row["pinned_code_sha256"]) for row in rows]
    assert code[0] == ("b" * 64, "True", "a" * 64)
    assert len(code[1][0]) == 64 and code[1][1:] == ("", "") and code[3] == ("", "", "")
