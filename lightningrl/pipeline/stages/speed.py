"""Measure tokens a second of a policy on the first test problems of a benchmark, at the primary threshold.

What is timed, `lightningrl.bench.speed` says; nothing is judged. It is volatile by nature: its seconds are of one
machine at one time, and another run would find others; yet once made the file is final, and nothing but a changed
config or code makes it anew. Stopped, it starts from the beginning: seconds of two starts are not mixed. Measure on a
machine that does nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lightningrl.bench.machine import device_name
from lightningrl.bench.speed import Batch, measure
from lightningrl.decoding.protocol import Request
from lightningrl.errors import Interrupted
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.decoder import make_decoder, make_policy
from lightningrl.pipeline.stages.loading import load_policy, use_threads
from lightningrl.pipeline.stages.problems import read_examples
from lightningrl.tokenization import encode_prompts
from lightningrl.training.world import device_of
from lightningrl.utils import files
from lightningrl.utils.registry import resolve


def run(context: StageContext) -> None:
    """Write speed.json: one flat object, what was measured and under which conditions."""
    use_threads(context.threads)
    config, checkpoint = context.config, context.inputs["policy"]
    speed = config["speed"]
    model, tokenizer = load_policy(checkpoint, device_of(context.device))
    requests = _requests(context, tokenizer)
    found = measure(
        make_decoder(config, model, tokenizer, checkpoint),
        requests,
        make_policy(config, config["threshold"], config["temperature"], config["seed"]),
        warmup=speed["warmup"],
        batch=speed["batch"],
        repeats=speed["repeats"],
        between=lambda: _stop_if_asked(context),
        told=lambda number, batches: _tell(context, number, batches),
    )
    low, high = found.interval(config["seed"])
    row = {
        "policy": config["policy"],
        "benchmark": config["benchmark"],
        "prompts": len(requests),
        "warmup_prompts": min(speed["warmup"], len(requests)),
        "batch": speed["batch"],
        "repeats": speed["repeats"],
        "prefill_included": True,
        **found.figures(),
        "tokens_per_second_low": low,
        "tokens_per_second_high": high,
        "threshold": config["threshold"],
        "temperature": config["temperature"],
        "max_new_tokens": config["max_new_tokens"],
        "block_size": model.config.block_size,
        "schedule": config["decoding"].schedule,
        "device": device_name(model.device),
        "dtype": str(model.lm_head.weight.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    files.write_json(context.folder / "speed.json", row)
    context.report(
        f"{row['tokens_per_second']:.1f} tokens/s ({low:.1f} to {high:.1f}), without prefill "
        f"{row['tokens_per_second_without_prefill']:.1f}; tpf {row['tpf']:.2f}, batch {row['batch']}, {row['device']}"
    )


def _requests(context: StageContext, tokenizer: Any) -> list[Request]:
    config, prompt = context.config, context.config["prompt"]
    examples = read_examples(context.inputs["data"] / "test.jsonl")[: config["speed"]["prompts"]]
    benchmark = resolve(config["members"]["benchmark"])
    encoded = encode_prompts(tokenizer, [benchmark.render(example, prompt) for example in examples], prompt.compat)
    return [
        Request(example.uid, 0, np.asarray(ids), config["max_new_tokens"])
        for example, ids in zip(examples, encoded, strict=True)
    ]


def _stop_if_asked(context: StageContext) -> None:
    if context.should_stop():
        raise Interrupted("stopped between two batches; a measurement starts anew, run the same command again")


def _tell(context: StageContext, number: int, batches: tuple[Batch, ...]) -> None:
    seconds, tokens = sum(batch.seconds for batch in batches), sum(batch.tokens for batch in batches)
    prefill = sum(batch.prefill_seconds for batch in batches)
    context.timing(event="repeat", number=number, seconds=seconds, prefill_seconds=prefill, tokens=tokens)
    context.report(f"repeat {number}: {tokens} tokens in {seconds:.2f} s")
