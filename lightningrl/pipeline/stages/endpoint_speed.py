"""Measure tokens per second of a server (`systems.endpoint`) on the first test problems of a benchmark.

It stands for `speed` where a system names an endpoint; what is timed, `lightningrl.bench.endpoint_speed` says. The
machine is the server's, which this one cannot know: `device` names the endpoint's model instead.
"""

from __future__ import annotations

from lightningrl.bench.endpoint_speed import EndpointBatch, measure_endpoint
from lightningrl.bench.rates import speed_row
from lightningrl.errors import Interrupted
from lightningrl.inference.endpoint.request import Sampling, make_requests
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.problems import read_examples
from lightningrl.utils import files
from lightningrl.utils.registry import resolve


def run(context: StageContext) -> None:
    """Write speed.json: one flat object, what was measured and under which conditions."""
    config, speed, endpoint = context.config, context.config["speed"], context.config["endpoint"]
    benchmark, prompt = resolve(config["members"]["benchmark"]), config["prompt"]
    examples = read_examples(context.inputs["data"] / "test.jsonl")[: speed["prompts"]]
    sampling = Sampling(config["max_new_tokens"], config["temperature"], config["seed"])
    conversations = ((example.uid, benchmark.render(example, prompt)) for example in examples)
    requests = make_requests(endpoint, conversations, 1, sampling, config["threshold"], prompt.compat)

    def stop_if_asked() -> None:
        if context.should_stop():
            raise Interrupted("stopped between two batches; a measurement starts anew, run the same command again")

    def tell(number: int, batches: tuple[EndpointBatch, ...]) -> None:
        seconds, tokens = sum(batch.seconds for batch in batches), sum(batch.tokens for batch in batches)
        context.timing(event="repeat", number=number, seconds=seconds, tokens=tokens)
        context.report(f"repeat {number}: {tokens} tokens in {seconds:.2f} s")

    found = measure_endpoint(
        endpoint, requests, warmup=speed["warmup"], batch=speed["batch"], repeats=speed["repeats"],
        between=stop_if_asked, told=tell,
    )  # fmt: skip
    row = speed_row(config, len(requests), found)
    row |= {"device": f"endpoint {endpoint.model}", "dtype": "as served"}
    files.write_json(context.folder / "speed.json", row)
    context.report(
        f"{row['tokens_per_second']:.1f} tokens/s ({row['tokens_per_second_low']:.1f} to "
        f"{row['tokens_per_second_high']:.1f}), tokens by the server's word"
    )
