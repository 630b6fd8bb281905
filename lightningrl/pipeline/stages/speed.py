"""Measure tokens per second of a policy on the first test problems of a benchmark, at the primary threshold.

What is timed, `lightningrl.bench.speed` says; nothing is judged. It is volatile by nature: its seconds are of one
machine at one time, and another run would find others; yet once made the file is final, and nothing but a changed
config or code makes it anew. Stopped, it starts from the beginning: seconds of two starts are not mixed. Measure on a
machine that does nothing else.
"""

from __future__ import annotations

import torch

from lightningrl.bench.machine import device_name
from lightningrl.bench.rates import speed_row
from lightningrl.bench.speed import Batch, measure
from lightningrl.errors import Interrupted
from lightningrl.inference.policy import make_policy
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.decoder import load_decoder, make_requests
from lightningrl.pipeline.stages.loading import use_threads
from lightningrl.pipeline.stages.problems import read_examples
from lightningrl.utils import files


def run(context: StageContext) -> None:
    """Write speed.json: one flat object, what was measured and under which conditions."""
    use_threads(context.threads)
    config, speed = context.config, context.config["speed"]
    examples = read_examples(context.inputs["data"] / "test.jsonl")[: speed["prompts"]]
    policy = make_policy(config, config["threshold"], config["temperature"], config["seed"])
    decoder, tokenizer = load_decoder(context, config, policy, examples)
    model = decoder.model
    requests = make_requests(config, tokenizer, examples)
    found = measure(
        decoder,
        requests,
        policy,
        warmup=speed["warmup"],
        batch=speed["batch"],
        repeats=speed["repeats"],
        between=lambda: _stop_if_asked(context),
        told=lambda number, batches: _tell(context, number, batches),
    )
    row = speed_row(config, len(requests), found)
    row |= {
        "block_size": model.config.block_size,
        "schedule": config["decoding"].schedule,
        "device": device_name(model.device),
        "dtype": str(model.lm_head.weight.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    files.write_json(context.folder / "speed.json", row)
    context.report(
        f"{row['tokens_per_second']:.1f} tokens/s ({row['tokens_per_second_low']:.1f} to "
        f"{row['tokens_per_second_high']:.1f}), without prefill "
        f"{row['tokens_per_second_without_prefill']:.1f}; tpf {row['tpf']:.2f}, batch {row['batch']}, {row['device']}"
    )


def _stop_if_asked(context: StageContext) -> None:
    if context.should_stop():
        raise Interrupted("stopped between two batches; a measurement starts anew, run the same command again")


def _tell(context: StageContext, number: int, batches: tuple[Batch, ...]) -> None:
    seconds, tokens = sum(batch.seconds for batch in batches), sum(batch.tokens for batch in batches)
    prefill = sum(batch.prefill_seconds for batch in batches)
    context.timing(event="repeat", number=number, seconds=seconds, prefill_seconds=prefill, tokens=tokens)
    context.report(f"repeat {number}: {tokens} tokens in {seconds:.2f} s")
