"""Decode a benchmark's problems at every threshold of the sweep; one record a problem and sample. Resumable.

The sweep itself is `lightningrl.evaluation.sweep`: an interrupted one goes on at the next shard of problems, and one
with one more threshold pays only for that one. Large ones are decoded in parts (`--part 2/8`), each by a job of its
own; the job without a part then only gathers them.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightningrl.evaluation.metrics import summarise
from lightningrl.evaluation.sweep import Loaded, Sweep
from lightningrl.inference.policy import make_policy
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.decoder import load_decoder, make_task
from lightningrl.pipeline.stages.loading import use_threads
from lightningrl.pipeline.stages.problems import make_judge, read_examples
from lightningrl.types import Example
from lightningrl.utils import files
from lightningrl.utils.numbers import shortest


def run(context: StageContext) -> None:
    """Write records.jsonl (thresholds in order) and summary.json (one entry per threshold, with the precision)."""
    sweep = _sweep(context)
    try:
        found = {threshold: sweep.at(threshold) for threshold in context.config["sweep"]["thresholds"]}
    finally:
        sweep.close()
    files.write_jsonl(
        context.folder / "records.jsonl", (record.to_json() for records, _ in found.values() for record in records)
    )
    how = {"dtype": context.config["precision"]}
    summaries = [summarise(records).to_json() | how | {"engine": engine} for records, engine in found.values()]
    files.write_json(context.folder / "summary.json", summaries)


def run_part(context: StageContext, part: tuple[int, int]) -> None:
    """Decodes one part of the shards, at every threshold, into the cache."""
    sweep = _sweep(context, part)
    try:
        for threshold in context.config["sweep"]["thresholds"]:
            sweep.decode(threshold)
            context.report(f"threshold {shortest(threshold)}: this part is there")
    finally:
        sweep.close()


def _sweep(context: StageContext, part: tuple[int, int] = (1, 1)) -> Sweep:
    use_threads(context.threads)
    config, evaluation = context.config, context.config["evaluation"]
    examples = read_examples(context.inputs["data"] / f"{evaluation['split']}.jsonl")
    return Sweep(
        name=config["policy"],
        examples=examples,
        samples=evaluation["samples"],
        shard=evaluation["shard"],
        cache=context.cache,
        load=lambda: _load(context, examples),
        policy=lambda threshold: make_policy(config, threshold, evaluation["temperature"], config["seed"]),
        report=context.report,
        timing=context.timing,
        should_stop=context.should_stop,
        part=part,
    )


def _load(context: StageContext, examples: Sequence[Example]) -> Loaded:
    config = context.config
    policy = make_policy(config, config["sweep"]["thresholds"][0])  # all fit that differ in the parameter alone
    decoder, tokenizer = load_decoder(context, config, policy, examples)
    judge = make_judge(config["members"]["judge"], context.judge_workers)
    return Loaded(decoder, tokenizer, make_task(config, judge))
