"""A real inference server, `transformers serve` with a tiny random model, asked through both APIs and judged.

Its packages (FastAPI, Uvicorn, openai) are in the dev extra; where they are not, these tests are skipped and say so.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from fixtures.limits import HANG_S, wait_for
from typer.testing import CliRunner

from lightningrl.benchmarks.gsm_mini import GSM_MINI
from lightningrl.benchmarks.protocol import PromptOptions, example_to_json
from lightningrl.cli.app import app
from lightningrl.tokenization import build_tokenizer, prompt_text
from lightningrl.utils import files

PROBLEMS = GSM_MINI.load({"test": 4}, 0)["test"]
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random causal model with the miniature's kind of tokenizer, and the problems."""
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        pytest.skip("transformers serve needs fastapi, uvicorn and openai: pip install 'lightningrl[dev]'")
    import torch
    from transformers import StableLmConfig, StableLmForCausalLM

    folder = tmp_path_factory.mktemp("served")
    texts = [turn["content"] for example in PROBLEMS for turn in example.messages]
    build_tokenizer([*texts, *(example.solution or "" for example in PROBLEMS)], folder / "tiny")
    size = len(json.loads((folder / "tiny" / "tokenizer.json").read_text())["model"]["vocab"])
    torch.manual_seed(0)
    shape = StableLmConfig(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=size - 2, pad_token_id=size - 4,
    )  # fmt: skip
    StableLmForCausalLM(shape).save_pretrained(folder / "tiny")
    files.write_jsonl(folder / "test.jsonl", map(example_to_json, PROBLEMS))
    return folder


@pytest.fixture(scope="module")
def url(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", str(folder / "tiny"), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = folder / "serve.log"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "transformers.cli.transformers", *words], stdout=output, stderr=output,
            env=environment,
        )  # fmt: skip

    def answers():
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://127.0.0.1:{port}/v1/models", timeout=HANG_S) as reply:
                return reply.status == 200
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    try:
        wait_for(answers, lambda: f"transformers serve: {log.read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def greedy(folder, texts):
    """What transformers itself generates: its text, without special tokens and up to the first one that ends it; and
    its tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tiny")
    model = AutoModelForCausalLM.from_pretrained(folder / "tiny")
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        ids = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        whole = tokenizer.decode(ids).split("<|im_end|>")[0].split("<|endoftext|>")[0]
        yield {whole, tokenizer.decode(ids, skip_special_tokens=True)}, len(ids)


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_real_server_is_asked_and_judged(folder, url, api, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    words = ["--endpoint", url, "--model", str(folder / "tiny"), "--reply-model", f"{folder / 'tiny'}@main"]
    words += ["--tokenizer", str(folder / "tiny"), f"--{api}", "--concurrency", "2"]
    words += ["--benchmark", "gsm-mini", "--data", "test.jsonl", "--max-new-tokens", str(NEW_TOKENS), "--out", api]
    done = CliRunner().invoke(app, ["evaluate", *words])
    assert done.exit_code == 0, done.output
    assert "4 responses to 4 problems" in done.stdout and "tokens per answer" in done.stdout
    records = [json.loads(line) for line in (folder / api / "records.jsonl").read_text().splitlines()]
    assert [record["uid"] for record in records] == [example.uid for example in PROBLEMS]

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tiny")
    texts = [prompt_text(tokenizer, GSM_MINI.render(example, PromptOptions())) for example in PROBLEMS]
    for record, (allowed, tokens) in zip(records, greedy(folder, texts), strict=True):
        assert record["response"] in allowed
        told = record["reported"]
        assert told["completion_tokens"] == tokens and told["forwards"] is None and told["doubts"] == []
        assert record["stop"] == ("length" if tokens == NEW_TOKENS else "eos")
        assert record["denoise_forwards"] is None and record["response_tokens"] <= tokens
    [summary] = json.loads((folder / api / "summary.json").read_text())
    assert summary["tpf"] is None and summary["reported"]["tpf_reported"] is None
    assert summary["reported"]["completion_tokens_mean"] > 0


def test_a_model_that_the_server_does_not_have_stops_at_once(folder, url, monkeypatch):
    monkeypatch.chdir(folder)
    words = ["--endpoint", url, "--model", "no/such-model", "--benchmark", "gsm-mini", "--data", "test.jsonl"]
    done = CliRunner().invoke(app, ["evaluate", *words, "--out", "none", "--retries", "0"])
    assert done.exit_code == 2 and "the endpoint no/such-model" in done.stderr
    assert "0 of 4 answers are kept" in done.stderr and not (folder / "none" / "records.jsonl").exists()
