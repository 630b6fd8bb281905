"""Results of the harness verb that are there: gone on with after a kill, refused when anything behind them changed."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version

import pytest

pytest.importorskip("lm_eval")
import datasets
from fixtures.byte_checkpoint import save_byte_checkpoint
from typer.testing import CliRunner

from lightningrl.cli import harness_results
from lightningrl.cli.app import app
from lightningrl.errors import ConfigError
from lightningrl.inference.harness_answers import AnswerFile
from lightningrl.inference.harness_lm import run_cell
from lightningrl.inference.harness_tasks import load_tasks
from lightningrl.models.families.protocol import NO_MASK
from lightningrl.report.paper.harness import cells

SHAPE = {
    "attention": "causal", "qk_norm": False, "head_dim": 4, "qkv_bias": True, "logit_shift": True, "block_size": 1,
    "family": "qwen2", "mask_token_id": NO_MASK,
}  # fmt: skip
CELL = replace(next(cell for cell in cells() if cell.row.startswith("Qwen")), tokens=6)
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "none"
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
filter_list: [{{name: flexible-extract, filter: [{{function: take_first}}]}}]
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("again")
    model, tasks = save_byte_checkpoint(root / "model", **SHAPE), root / "tasks"
    path = model / "tokenizer_config.json"
    path.write_text(
        json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "mask_token"})
    )
    tasks.mkdir()
    (tasks / "data.jsonl").write_text("".join(json.dumps({"question": f"Q{n}"}) + "\n" for n in range(3)))
    (tasks / "task.yaml").write_text(TASK.format(name=CELL.task, data=tasks / "data.jsonl"))
    return model, tasks


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def answered(folders, file):
    """A run of the cell at batch 1 with answers in this file, or without one."""
    model, tasks = folders
    words = {"device": "cpu", "dtype": "float32", "batch_size": 1}
    return run_cell(CELL, load_tasks([CELL.task], tasks)[CELL.task], model, file, **words)


class Killed(AnswerFile):
    """The process ends while the second answer is written."""

    def __setitem__(self, key, answer):
        if len(self) == 1:
            with open(self.path, "ab") as file:
                file.write(b"0123456789abcdef {torn")
            raise KeyboardInterrupt
        super().__setitem__(key, answer)


def test_a_killed_cell_goes_on_with_the_answers_it_has_to_the_same_numbers(folders, tmp_path):
    whole = answered(folders, None)
    with pytest.raises(KeyboardInterrupt):
        answered(folders, killed := Killed(tmp_path / "answers", {"code": "a"}))
    killed.close()
    again = AnswerFile(tmp_path / "answers", {"code": "a"})
    kept = dict(again)
    assert len(kept) == 1 and answered(folders, again) == whole and len(again) == 3
    assert kept.items() <= again.data.items()
    again.close()
    with pytest.raises(ConfigError, match="answers by other code: delete it"):
        AnswerFile(tmp_path / "answers", {"code": "b"})


def test_what_is_there_counts_only_for_the_same_arguments_weights_and_code(folders, tmp_path, monkeypatch):
    model, tasks = folders
    out = tmp_path / "out"
    identity = {
        "settings": {"dtype": "float32", "device": "cpu", "batch_size": 1, "limit": None}, "adapter": "",
        "arguments": harness_results.arguments_of(CELL), "code": harness_results.code_hash(CELL),
        "weights": harness_results.folder_hash(model), "tasks": harness_results.tasks_hash(tasks),
        "harness": version("lm_eval"),
    }  # fmt: skip
    identity["arguments"] |= {"tokens": 256}
    told = {"row": CELL.row, "benchmark": "gsm8k", "point": "row", "problems": 3, "published": {"tpf": -5}}
    told |= {"measured": {"accuracy_pct": 0.0, "tpf": 1.0}}
    out.mkdir()
    path = out / f"{CELL.name}.json"

    def run(**changes):
        path.write_text(json.dumps(told | identity | changes))
        words = [CELL.row, "--benchmark", "gsm8k", "--model", model, "--tasks", tasks, "--device", "cpu"]
        return CliRunner().invoke(app, ["harness", *map(str, words), "--dtype", "float32", "--out", str(out)])

    assert run().exit_code == 0 and "is there" in run().stderr
    for key in ("arguments", "code", "weights", "tasks", "harness"):
        done = run(**{key: "another"})
        assert done.exit_code == 2 and f"was made with other {key}; name another folder" in done.stderr
    path.write_text(json.dumps(told | identity))
    shown = CliRunner().invoke(app, ["harness", "--out", str(out)])
    assert shown.exit_code == 0 and f"{CELL.published()['tpf']:.2f}" in shown.stdout and "-5.00" not in shown.stdout
    path.write_text(json.dumps(told | identity | {"arguments": {}}))
    assert "other arguments than those of the row" in CliRunner().invoke(app, ["harness", "--out", str(out)]).stderr


@pytest.mark.parametrize("content", ("[]", '{"row": "LLaDA"}', "no JSON", '{"measured": 1}'))
def test_a_file_that_is_no_result_is_named_and_nothing_breaks(content, tmp_path):
    (tmp_path / "mine.json").write_text(content)
    done = CliRunner().invoke(app, ["harness", "--out", str(tmp_path)])
    assert done.exit_code == 2 and "mine.json is no result of `lightningrl harness`" in done.stderr


def test_the_code_behind_a_cell_is_its_decoder_and_its_family():
    digests = {harness_results.code_hash(cell) for cell in cells()}
    assert len(digests) >= len({cell.preset for cell in cells()}) - 2  # two presets of one schedule may share all files
    assert harness_results.code_hash(CELL) == harness_results.code_hash(CELL)
