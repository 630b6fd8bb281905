"""The stage: which problems a quantizer is shown, how they were decoded, and in what precision it works."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures.byte_checkpoint import save_byte_checkpoint
from safetensors.torch import load_file, save_file

from lightningrl.config.experiment import Experiment
from lightningrl.config.tasks import Prompt
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import Request
from lightningrl.inference.policy import policy_of
from lightningrl.models.checkpoint import load_model
from lightningrl.pipeline import runner
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.runner import run_stage
from lightningrl.pipeline.stages.problems import read_examples
from lightningrl.quantization.calibration import visited
from lightningrl.quantization.rtn import RoundToNearest
from lightningrl.tokenization import encode_prompts, encode_texts, load_tokenizer, stop_token_ids
from lightningrl.utils.registry import resolve

PRIMARY, OTHERS = 0.015, (0.5, 0.9)
PROBLEMS = 3


@pytest.fixture
def quantized(tmp_path, monkeypatch):
    """Runs the stage of a system with such a calibration; returns its folder and what `rtn` was given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.system, "set_thread_environment", lambda threads: None)
    save_byte_checkpoint(tmp_path / "model", max_position_embeddings=512)
    mask, given = load_tokenizer(tmp_path / "model").mask_token_id, []
    plain = RoundToNearest.quantize

    def noted(self, model, calibration):
        given.append((model.lm_head.weight.dtype, calibration))
        return plain(self, model, calibration)

    monkeypatch.setattr(RoundToNearest, "quantize", noted)

    def run(source):
        calibration = {"source": source, "problems": PROBLEMS}
        of = plan(Experiment.model_validate({
            "experiment": "t",
            "benchmarks": [{"name": "gsm-mini", "train": 8, "validation": 4, "test": 8, "max_new_tokens": 12}],
            "base": {"checkpoint": str(tmp_path / "model"), "block_size": 4, "mask_token_id": mask},
            "evaluation": {"thresholds": [PRIMARY, *OTHERS], "primary_threshold": PRIMARY},
            "systems": [{"name": "w4", "policy": "base",
                         "quantizer": {"name": "rtn", "bits": 4, "calibration": calibration}}],
            "report": {"tables": ["main"], "figures": [], "replays": []},
        }))  # fmt: skip
        for kind, name in (("data", "gsm-mini"), ("checkpoint", "base"), ("quantize", "w4")):
            run_stage(of, of.stage(kind, name))
        [(dtype, found)] = given
        return of, dtype, found

    return run


def prompts(of, tokenizer, split):
    """The prompts of a split's problems, and the problems."""
    examples = read_examples(of.stage("data", "gsm-mini").folder / f"{split}.jsonl")
    benchmark = resolve(of.stage("quantize", "w4").members["benchmark"])
    return encode_prompts(tokenizer, [benchmark.render(each, Prompt()) for each in examples]), examples


def same(found, expected):
    return len(found) == len(expected) and all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_visited_states_are_of_the_first_train_problems_at_the_primary_threshold(quantized, tmp_path):
    of, _, found = quantized("decode")
    tokenizer, model = load_tokenizer(tmp_path / "model"), load_model(tmp_path / "model")
    model.usable_vocab = min(len(tokenizer), model.config.vocab_size)
    (train, _), (test, _) = prompts(of, tokenizer, "train"), prompts(of, tokenizer, "test")
    assert same([each.prompt_ids for each in found.sequences], train[:PROBLEMS])
    assert not same(train[:PROBLEMS], test[:PROBLEMS]) and len(train) == len(test) == 8
    assert not any(len(each.response_ids) for each in found.sequences)
    decoder = BlockDecoder(model, stop_token_ids(tokenizer, tmp_path / "model", ()))
    requests = [Request(str(n), 0, np.asarray(ids), 12) for n, ids in enumerate(train[:PROBLEMS])]

    def shown(threshold):
        return [
            each.ids_N for each in visited(model, decoder, requests, policy_of(parameter=threshold), 2**18).forwards
        ]

    ids = [each.ids_N for each in found.forwards]
    assert same(ids, shown(PRIMARY)) and not any(same(ids, shown(other)) for other in OTHERS)


@pytest.mark.parametrize("source", ["clean", "random"])
def test_texts_are_the_worked_answers_of_the_first_train_problems(quantized, source, tmp_path):
    of, dtype, found = quantized(source)
    tokenizer = load_tokenizer(tmp_path / "model")
    train, examples = prompts(of, tokenizer, "train")
    assert dtype == torch.float32 and same([each.prompt_ids for each in found.sequences], train[:PROBLEMS])
    for each, solution in zip(
        found.sequences, encode_texts(tokenizer, [one.solution for one in examples]), strict=False
    ):
        own = each.response_ids[: len(solution)]
        assert np.array_equal(own, solution) and each.response_ids[len(solution)] == tokenizer.eos_token_id
    mask = tokenizer.mask_token_id
    assert any((each.ids_N == mask).any() for each in found.forwards) == (source == "random")


def test_weights_that_are_stored_in_bfloat16_stay_so(quantized, tmp_path):
    path = tmp_path / "model" / "model.safetensors"
    save_file({name: each.to(torch.bfloat16) for name, each in load_file(path).items()}, path, {"format": "pt"})
    of, dtype, _ = quantized("clean")
    assert dtype == torch.bfloat16
    kinds = {each.dtype for name, each in load_file(of.stage("quantize", "w4").folder / "model.safetensors").items()
             if not name.endswith((".codes", ".scale"))}  # fmt: skip
    assert kinds == {torch.bfloat16}
