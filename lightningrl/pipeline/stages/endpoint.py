"""Ask a server (`systems.endpoint`) a benchmark's problems and judge its answers; one record a problem and sample.

It stands for `evaluate` where a system names an endpoint. Its key holds the model's name, the prompts, the sampling
settings and what else is asked, and not the address, the API key or how many requests are open. Nothing is decoded
here, so no edit of a model's or decoder's code asks a server again.
"""

from __future__ import annotations

from lightningrl.config.endpoint import Endpoint
from lightningrl.evaluation.endpoint import EndpointEvaluation, summary_of
from lightningrl.inference.endpoint.request import Sampling
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.problems import make_judge, read_examples
from lightningrl.utils import files
from lightningrl.utils.registry import resolve


def run(context: StageContext) -> None:
    """Write records.jsonl (thresholds in order) and summary.json (one entry per threshold, the server's word apart)."""
    evaluation = make_evaluation(context)
    found = {threshold: evaluation.at(threshold) for threshold in context.config["sweep"]["thresholds"]}
    rows = (record.to_json() for records in found.values() for record in records)
    files.write_jsonl(context.folder / "records.jsonl", rows)
    files.write_json(context.folder / "summary.json", [summary_of(records) for records in found.values()])


def make_evaluation(context: StageContext) -> EndpointEvaluation:
    """Returns what the stage's config describes."""
    config, evaluation = context.config, context.config["evaluation"]
    benchmark, prompt = resolve(config["members"]["benchmark"]), config["prompt"]
    endpoint: Endpoint = config["endpoint"]
    return EndpointEvaluation(
        name=config["policy"],
        endpoint=endpoint,
        examples=read_examples(context.inputs["data"] / f"{evaluation['split']}.jsonl"),
        render=lambda example: benchmark.render(example, prompt),
        samples=evaluation["samples"],
        sampling=Sampling(config["max_new_tokens"], evaluation["temperature"], config["seed"]),
        cache=context.cache,
        make_judge=lambda: make_judge(config["members"]["judge"], context.judge_workers),
        identity={"judge": config["members"]["judge"]},
        compat=prompt.compat,
        report=context.report,
        timing=context.timing,
        should_stop=context.should_stop,
    )
