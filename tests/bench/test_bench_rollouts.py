"""The benchmark of rollouts: both ways give the same responses, and its counts are what they say."""

import torch

from lightningrl.bench.random_model import random_model
from lightningrl.bench.rollouts import Step, run_benchmark


def test_both_ways_decode_the_same_and_the_stream_computes_each_prompt_once():
    """The same rows take the same turns, prefill aside; in a stream they wait less for each other. Seconds aside, that
    is what a step costs."""
    step = Step(prompts=4, responses=3, max_rounds=3, kept=0.4, rows=6, prompt_tokens=32, max_new_tokens=48)
    found = run_benchmark(random_model("miniature", 8, torch.float64, "cpu"), step, 1, lambda _: None)
    rounds, stream = found["lines"]
    assert (rounds["way"], stream["way"]) == ("rounds", "stream")
    assert found["parted"] == 0 and found["responses"] == 3 * found["asked"] and found["rounds"] > 1
    assert (stream["prefilled"], rounds["prefilled"]) == (32 * found["asked"], 32 * 3 * found["asked"])
    assert rounds["positions"] - stream["positions"] == rounds["prefilled"] - stream["prefilled"]
    assert rounds["row_turns"] - stream["row_turns"] == 2 * found["asked"], "two of three rows compute no prompt"
