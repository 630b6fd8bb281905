"""Answer a benchmark of choices by likelihood; one record a problem. Resumable.

It stands for `evaluate` where a benchmark's choices are compared and nothing is generated (`benchmarks.choices`). How a
likelihood is found, `inference.likelihood` says; the system's decoder takes no part.
"""

from __future__ import annotations

from lightningrl.evaluation.choosing import ChoiceEvaluation, record_of, summary_of
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.loading import load_policy, use_threads
from lightningrl.pipeline.stages.problems import read_examples
from lightningrl.training.world import device_of
from lightningrl.utils import files
from lightningrl.utils.registry import resolve


def run(context: StageContext) -> None:
    """Write records.jsonl, summary.json (one entry) and choices.jsonl (the numbers of every choice)."""
    use_threads(context.threads)
    config, evaluation = context.config, context.config["evaluation"]
    benchmark = resolve(config["members"]["benchmark"])
    examples = read_examples(context.inputs["data"] / f"{evaluation['split']}.jsonl")
    rows = ChoiceEvaluation(
        name=config["policy"],
        benchmark=benchmark,
        prompt=config["prompt"],
        examples=examples,
        likelihood=config["likelihood"],
        seed=config["seed"],
        shard=evaluation["shard"],
        cache=context.cache,
        load=lambda: load_policy(context.inputs["policy"], device_of(context.device), config["precision"]),
        report=context.report,
        timing=context.timing,
        should_stop=context.should_stop,
    ).rows()
    records = [
        record_of(config["policy"], config["sweep"]["thresholds"][0], example, row, benchmark.per_character)
        for example, row in zip(examples, rows, strict=True)
    ]
    files.write_jsonl(context.folder / "records.jsonl", (record.to_json() for record in records))
    files.write_jsonl(context.folder / "choices.jsonl", rows)
    summary = summary_of(records, rows) | {"dtype": config["precision"], "likelihood": config["likelihood"].method}
    files.write_json(context.folder / "summary.json", [summary | {"samples": config["likelihood"].samples}])
    context.report(f"accuracy {summary['accuracy_pct']:.1f} %  ({len(records)} problems)")
