"""Rows of Table 2 by their published arguments: what the data say, whole runs under the harness, what is refused."""

from __future__ import annotations

import json
import re
from importlib.metadata import version

import pytest

pytest.importorskip("lm_eval")
import datasets
import torch
from fixtures.byte_checkpoint import byte_adapter, save_byte_checkpoint
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.config.decoding import preset
from lightningrl.decoding.presets import PRESETS
from lightningrl.decoding.reference import decode_one
from lightningrl.decoding.tpf_variants import views
from lightningrl.inference.harness_lm import fenced_program, pieces_of
from lightningrl.inference.llm import LLM
from lightningrl.inference.policy import policy_of
from lightningrl.models.checkpoint import load_model
from lightningrl.models.families.protocol import NO_MASK
from lightningrl.report.paper.harness import ANCHOR, ROW, WITHOUT, cells
from lightningrl.report.paper.printed import BENCHMARKS, METHODS, points_of, printed

CANVAS = {"attention": "full", "qk_norm": False, "head_dim": 4, "max_position_embeddings": 1024}
QWEN = {"qkv_bias": True, "logit_shift": True, "block_size": 1}
SHAPES = {
    "llada": CANVAS | {"family": "llada", "block_size": 32, "rms_norm_eps": 1e-5},
    "dream": CANVAS | QWEN | {"family": "Dream"},
    "qwen": CANVAS | QWEN | {"family": "qwen2", "attention": "causal", "mask_token_id": NO_MASK},
}
FIRST = "<|im_start|>"
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["zz"], do_sample: false}}
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
filter_list: [{{name: {filter}, filter: [{{function: take_first}}]}}]
"""
QUESTIONS = ("def f(x):",)
PASS_AT_K = """
def pass_at_k(references, predictions):
    return {"pass@1": float(references[0] == predictions[0])}
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("rows")
    found = {name: save_byte_checkpoint(root / name, **shape) for name, shape in SHAPES.items()}
    for name, change in {"qwen": {"mask_token": None}, "llada": {"bos_token": FIRST}}.items():
        path = found[name] / "tokenizer_config.json"
        told = json.loads(path.read_text()) | change
        path.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
    return found | {"adapter": byte_adapter(root / "adapter", load_model(found["llada"]))}


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def run(*words):
    return CliRunner().invoke(app, ["harness", *map(str, words)])


def cell_of(row, benchmark, point=ROW):
    return next(c for c in cells() if (c.row, c.benchmark, c.point) == (row, benchmark, point))


def task_of(cell, folder, answers):
    """A task of the harness in the name of the cell's, over local questions; right is what is said here."""
    folder.mkdir()
    lines = [json.dumps({"question": q, "answer": a}) for q, a in zip(QUESTIONS, answers, strict=True)]
    (folder / "data.jsonl").write_text("".join(line + "\n" for line in lines))
    (folder / "utils.py").write_text(PASS_AT_K)
    metric, filtered = cell.metric.split(",")
    metric = "!function utils.pass_at_k" if metric.startswith("pass") else metric
    text = TASK.format(name=cell.task, data=folder / "data.jsonl", metric=metric, filter=filtered)
    (folder / "task.yaml").write_text(text)
    return folder


ROWS = {
    "LLaDA on GSM8K": ("LLaDA", "gsm8k", "llada", lambda llm, q: q),
    "Fast-dLLM on LLaDA, HumanEval": (
        "Fast-dLLM-LLaDA", "humaneval", "llada",
        lambda llm, q: _turn(llm, "Write a solution to the following problem and make sure that it passes the tests:\n"
                                  f"```python\n{q}\n```\n "),
    ),
    "D2F on HumanEval, its adapter and first token": ("D2F-LLaDA", "humaneval", "llada", lambda llm, q: f"{FIRST}{q}"),
    "d3LLM on Dream, GSM8K": ("d3LLM-Dream", "gsm8k", "dream", lambda llm, q: _turn(llm, q)),
    "Qwen on GSM8K": ("Qwen-2.5-7B-Instruct", "gsm8k", "qwen", lambda llm, q: q),
}  # fmt: skip


def _turn(llm, text):
    turns = [{"role": "user", "content": text}]
    return llm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_decoded_by_its_published_arguments_and_stands_beside_its_published_number(name, folders, tmp_path):
    row, benchmark, family, prompt_of = ROWS[name]
    cell = cell_of(row, benchmark)
    adapter = folders["adapter"] if cell.adapter else None
    llm, pieces = LLM(folders[family], adapter=adapter), pieces_of(cell.preset, cell.options)
    policy = policy_of(parameter=cell.parameter, **pieces)
    found, texts = [], []
    for question in QUESTIONS:  # by the plain decoder, one at a time
        ids = llm.tokenizer(prompt_of(llm, question), add_special_tokens=False, return_tensors="np")["input_ids"][0]
        request = llm.request(ids, uid="x", max_new_tokens=cell.tokens, policy=policy)
        found.append(decode_one(llm.model, request, policy, llm.stop_ids))
        text = llm.text(found[-1])
        texts.append(fenced_program(text) if cell.fenced else text.split("zz")[0])
    tasks = task_of(cell, tmp_path / "tasks", texts)
    words = [row, "--model", folders[family], "--benchmark", benchmark, "--tasks", tasks, "--device", "cpu", "--dtype"]
    words += ["float32", "--out", tmp_path / "out", *(["--adapter", adapter] if adapter else [])]
    done = run(*words, *(["--run-code"] if cell.runs_programs else []))
    assert done.exit_code == 0, (done.output, done.exception)
    told = json.loads((tmp_path / "out" / f"{cell.name}.json").read_text())
    assert told["measured"]["accuracy_pct"] == 100.0 and told["problems"] == 1
    assert told["figures"]["forwards"] == sum(each.stats.denoise_forwards for each in found)
    counts = views([each.stats for each in found], [each.stop for each in found])
    assert told["measured"]["tpf"] == counts["tpf_harness"] > 0
    assert told["arguments"]["preset"] == cell.preset and told["published_harness"] == "0.4.9"
    accuracy = next(each for each in printed("table2") if each.identity == row).numbers[benchmark, "accuracy_pct"]
    assert f"{100 - accuracy:+.1f}" in done.stdout
    again = run(*words, *(["--run-code"] if cell.runs_programs else []))
    assert again.exit_code == 0 and "is there" in again.stderr
    assert f"{100 - accuracy:+.1f}" in run("--out", tmp_path / "out").stdout
    other = run(*words, "--limit", 1, *(["--run-code"] if cell.runs_programs else []))
    assert other.exit_code == 2 and "was made with other settings" in other.stderr


def test_every_row_of_table_2_has_its_arguments_or_the_reason_why_it_has_none():
    rows = {each.identity for each in printed("table2")}
    told = {cell.row for cell in cells()}
    assert told | set(WITHOUT) == rows and not told & set(WITHOUT) and told <= set(METHODS)
    for row in told:
        assert {c.benchmark for c in cells() if c.row == row and c.point == ROW} == set(BENCHMARKS)
    assert len({cell.name for cell in cells()}) == len(cells())
    for cell in cells():
        assert cell.options.keys() <= preset(cell.preset)["decoding"].keys()
        policy_of(parameter=cell.parameter, **pieces_of(cell.preset, cell.options))
        assert not cell.multiturn or cell.chat
        if cell.point == ANCHOR:
            assert cell.published()["tpf"] == 1 == points_of(cell.row, BENCHMARKS[cell.benchmark])[0][0]
    assert cell_of("D2F-LLaDA", "math500").tokens == 512 and cell_of("dParallel-LLaDA", "mbpp").parameter == 0.45
    code = cell_of("d3LLM-LLaDA", "humaneval")  # its command without a cache names a threshold and nothing else
    assert (code.preset, code.parameter, code.options) == ("dparallel_llada", 0.5, {})
    assert pieces_of("d3llm", {})["logits_options"] == {"untempered": True, "bans_mask": False}


@pytest.mark.parametrize("name", ["dparallel_llada", "dparallel_dream"])
def test_what_a_preset_says_was_published_is_what_its_rows_are_decoded_with(name):
    """'Published: 0.5 on GSM8K and MATH, ...' against the arguments of the rows."""
    tasks = {"GSM8K": "gsm8k", "MATH": "math500", "MBPP": "mbpp", "HumanEval": "humaneval"}
    said = re.findall(r"(0\.\d+) on (.+?)(?=, 0\.|$)", PRESETS[name]["source"].partition("Published: ")[2])
    told = {tasks[task]: float(value) for value, names in said for task in re.findall(r"[A-Z]\w+", names)}
    assert told == {cell.benchmark: cell.parameter for cell in cells() if (cell.preset, cell.point) == (name, ROW)}


def test_what_cannot_be_run_is_refused_before_a_model_is_loaded(folders, tmp_path):
    model, out = ["--model", folders["llada"]], ["--out", tmp_path / "out"]
    gsm8k = ("LLaDA", "--benchmark", "gsm8k", *model, *out)
    for words, told in {
        ("d3LLM-LLaMA",): "found the row 'd3LLM-LLaMA', allowed: LLaDA, ",
        ("EAGLE-3 (LLaMA-3.1)",): "no arguments are published: no script was published",
        ("LLaDA", "--anchor", *model, *out): "LLaDA has no published arguments for --anchor",
        ("LLaDA", "--benchmark", "primes", *model, *out): "no published arguments for --benchmark primes",
        ("LLaDA", *model): "say --model",
        ("LLaDA", "--model", tmp_path, "--benchmark", "gsm8k", *out): "is no checkpoint's folder; the row's is GSAI-ML",
        ("LLaDA", *model, *out): "mbpp, humaneval: the harness runs what the model writes, without a jail",
        ("D2F-LLaDA", *model, "--benchmark", "gsm8k", *out): "needs the adapter SJTU-Deng-Lab/D2F_LLaDA",
        ("LLaDA", *model, "--adapter", "x", "--benchmark", "gsm8k", *out): "has no adapter: leave it out",
        ("LLaDA", "--benchmark", "gsm8k", "--model", folders["dream"], *out): "whose model_type is 'llada'",
        ("Dream", "--benchmark", "gsm8k", *model, *out): "has the model_type 'llada'; the row Dream is of Dream-org/",
        ("Llada", *model, *out): "Did you mean 'LLaDA'?",
        (*gsm8k, "--device", "gpu"): "--device: found 'gpu', expected auto, cpu, cuda",
        (*gsm8k, "--dtype", "int8"): "--dtype: found 'int8'",
        (*gsm8k, "--tasks", tmp_path / "none"): "none is no folder",
        (*gsm8k, "--device", "cpu", "--tasks", tmp_path): "has no task 'gsm8k_cot_zeroshot' in",
        ("--anchor", "--benchmark", "gsm8k", *model): "--model, --benchmark, --anchor: name a row",
        ("--out", tmp_path): "nothing was measured there yet",
    }.items():
        done = run(*words)
        assert done.exit_code == 2 and told in done.stderr, (words, done.output)
    if not version("antlr4-python3-runtime").startswith("4.11"):
        done = run("LLaDA", "--benchmark", "math500", *model, *out, "--device", "cpu")
        assert done.exit_code == 2 and "PYTHONPATH=harness-antlr lightningrl harness" in done.stderr
    if not torch.cuda.is_available():
        assert "no CUDA device" in run(*gsm8k).stderr
    assert not (tmp_path / "out").exists()
    listed = run().stdout
    assert all(row in listed for row in (*METHODS, *WITHOUT))
