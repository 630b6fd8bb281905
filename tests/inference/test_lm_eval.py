"""The decoder under lm-evaluation-harness: a small task of a local file, for real; what it cannot do is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("lm_eval")
import datasets
import lm_eval
import numpy as np
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.limits import HANG_S
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from lightningrl.decoding.protocol import Request
from lightningrl.errors import ConfigError
from lightningrl.inference.likelihood import encode_continuation, log_likelihoods
from lightningrl.inference.lm_eval import BlockDiffusionLM
from lightningrl.inference.policy import policy_of
from lightningrl.pipeline.code_digest import PACKAGE

WITH_IT = ("lm_eval.py", "harness_lm.py", "harness_tasks.py")
TASK = """
task: tiny_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["e"], max_gen_toks: 24, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(6)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tiny_sums.yaml").write_text(TASK.format(data=folder / "sums.jsonl"))
    return folder


@pytest.fixture(scope="module")
def lm(model):
    return BlockDiffusionLM(str(model), threshold=0.3, batch_size=4, device="cpu")


@pytest.mark.parametrize("chat", [False, True])
def test_a_local_task_is_run_and_equals_our_own_decoding(task, lm, chat, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    manager, before = TaskManager(include_path=str(task), include_defaults=False), lm.figures()["responses"]
    found = lm_eval.simple_evaluate(
        lm, tasks=["tiny_sums"], task_manager=manager, apply_chat_template=chat, bootstrap_iters=0, log_samples=True
    )
    assert found["n-samples"]["tiny_sums"]["original"] == 6
    assert 0 <= found["results"]["tiny_sums"]["exact_match,none"] <= 1
    for sample in found["samples"]["tiny_sums"]:
        number = sample["doc_id"]
        question = f"What is {number} + {number}?"
        context = lm.apply_chat_template([{"role": "user", "content": question}]) if chat else question
        assert sample["arguments"][0][0] == context
        request = lm._request(number, context, {"max_gen_toks": 24})
        [trajectory] = lm.llm.decoder.decode([request], request.policy)
        assert sample["resps"][0][0] == lm.llm.text(trajectory).split("e")[0]
    figures = lm.figures()
    assert figures["responses"] == before + 6 and figures["tpf"] >= 1
    assert figures["forwards"] * figures["tpf"] == pytest.approx(figures["tokens"])
    assert figures["tpf_harness"] < figures["tpf"] and figures["positions_per_token"] > 1


def test_the_command_line_with_our_model_runs_a_task(task, model, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "lightningrl.inference.lm_eval", "run", "--model", "lightningrl", "--model_args",
         f"pretrained={model},threshold=0.3", "--tasks", "tiny_sums", "--include_path", str(task), "--device",
         "cpu", "--batch_size", "4"],
        env=environment, capture_output=True, text=True, timeout=HANG_S, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "tiny_sums" in done.stdout and "exact_match" in done.stdout


@pytest.mark.parametrize("text", [False, True])
def test_a_published_decoder_by_its_name_answers_as_it_does_here(tmp_path, text):
    """On another family; options as a mapping (Python) or as JSON (the harness's command line)."""
    shape = {"family": "llada", "attention": "full", "qk_norm": False, "head_dim": 4, "rms_norm_eps": 1e-5}
    folder, options = save_byte_checkpoint(tmp_path / "llada", **shape), {"block_size": 8}
    lm = BlockDiffusionLM(
        str(folder), decoder="fast_dllm_v1_dual", threshold=0.12, device="cpu",
        schedule_options=json.dumps(options) if text else options,
    )  # fmt: skip
    instance = Instance("generate_until", {}, ("What is 1 + 1?", {"until": ["e"], "max_gen_toks": 30}), 0)
    [found] = lm.generate_until([instance])
    policy = policy_of(preset="fast_dllm_v1_dual", parameter=0.12, schedule_options=options)
    ids = np.array(lm.llm.tokenizer("What is 1 + 1?")["input_ids"])
    [expected] = lm.llm.decoder.decode([Request("lm-eval/0", 0, ids, 24)], policy)
    assert found == lm.llm.text(expected).split("e")[0]
    assert lm.figures()["tpf"] == expected.stats.tpf


def test_a_decoder_that_does_not_fit_is_refused_before_a_weight_is_read(tmp_path):
    folder = save_byte_checkpoint(tmp_path / "sdar")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"llada is for models with full attention.*sdar_dynamic"):
        BlockDiffusionLM(str(folder), decoder="llada", device="cpu")
    with pytest.raises(ConfigError, match="two names of one thing"):
        BlockDiffusionLM(str(folder), decoder="mbd", preset="sdar_dynamic", device="cpu")
    with pytest.raises(ConfigError, match="leaves its parameter to you"):
        BlockDiffusionLM(str(folder), decoder="sdar_static", device="cpu")
    with pytest.raises(ConfigError, match=r"schedule_options is .*no JSON"):
        BlockDiffusionLM(str(folder), schedule_options="{", device="cpu")


def test_sampling_settings_of_a_task_are_followed(lm):
    greedy = lm._request(0, "a", {"temperature": 0.0}).policy
    sampled = lm._request(0, "a", {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9}).policy
    assert greedy.temperature == 0 and (sampled.temperature, sampled.top_k, sampled.top_p) == (0.7, 5, 0.9)
    assert lm._request(0, "a", {"do_sample": False, "temperature": 0.7}).policy is greedy
    assert lm._request(0, "a", {"do_sample": True}).policy.temperature == 1.0
    assert lm._request(0, "a" * 100, {"max_gen_toks": 10_000}).max_new_tokens == 256 - 100


def test_a_prompt_that_is_too_long_loses_its_beginning(lm, caplog):
    request = lm._request(0, "a" * 400 + "b" * 100, {"max_gen_toks": 56})
    assert len(request.prompt_ids) == 200 and request.max_new_tokens == 56
    assert lm.llm.tokenizer.decode(request.prompt_ids) == "a" * 100 + "b" * 100
    assert "500 tokens is cut to its last 200" in caplog.text


CHOICES = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.mark.parametrize("method", ["bound", "left_to_right"])
def test_a_task_of_choices_is_answered_by_our_own_likelihood(model, method, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    rows = [{"question": f"{n} + 1?", "choices": [str(n), str(n + 1)], "answer": 1} for n in range(8, 11)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tiny_choice.yaml").write_text(CHOICES.format(data=tmp_path / "rows.jsonl"))
    lm = BlockDiffusionLM(str(model), device="cpu", likelihood=method, samples=2)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = lm_eval.simple_evaluate(
        lm, tasks=["tiny_choice"], task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    right = 0
    for sample in found["samples"]["tiny_choice"]:
        row = rows[sample["doc_id"]]
        pairs = [
            encode_continuation(lm.llm.tokenizer, f"Question: {row['question']}\nAnswer:", f" {c}")
            for c in row["choices"]
        ]
        ours = [each.logp for each in log_likelihoods(lm.llm.model, pairs, method, samples=2)]
        assert [one[0] for one in sample["filtered_resps"]] == pytest.approx(ours, abs=1e-4)
        right += ours[1] > ours[0]
    assert found["results"]["tiny_choice"]["acc,none"] == pytest.approx(right / 3)


def test_perplexity_is_refused_with_the_reason_and_wrong_words_at_once(lm, model):
    with pytest.raises(NotImplementedError, match="output_type loglikelihood_rolling"):
        lm.loglikelihood_rolling([])
    for words in (
        {"dtype": "int3"},
        {"selector": "best"},
        {"schedule": "none"},
        {"rows": 3},
        {"likelihood": "x"},
        {"samples": 0},
    ):
        with pytest.raises(ConfigError):
            BlockDiffusionLM(str(model), device="cpu", **words)
    for words in ({"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.9}):
        with pytest.raises(ConfigError, match=rf"model_args: found {next(iter(words))}; .*--gen_kwargs"):
            BlockDiffusionLM(str(model), device="cpu", **words)


def test_nothing_else_imports_the_harness():
    names = [
        p
        for p in PACKAGE.rglob("*.py")
        if re.search(r"^\s*(from|import) lm_eval", p.read_text(), re.MULTILINE) and p.name not in WITH_IT
    ]
    assert not names, names
