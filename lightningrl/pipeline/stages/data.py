"""Get one benchmark's train, validation and test problems, as canonical JSONL: generated, or from its published files.

No problem is in two splits. Of generated ones that is an error; of published ones the training copy is dropped and
counted in sources.json, beside the files that were read, with their hashes.
"""

from __future__ import annotations

from lightningrl.benchmarks.fetch import obtain
from lightningrl.benchmarks.protocol import check_disjoint, example_to_json, question_text
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.utils import files
from lightningrl.utils.registry import resolve


def run(context: StageContext) -> None:
    """Write train.jsonl, validation.jsonl, test.jsonl and sources.json."""
    benchmark = resolve(context.config["members"]["benchmark"])
    sizes = {split: context.config["benchmark"][split] for split in ("train", "validation", "test")}
    obtained = {source.key: obtain(source, context.origins) for source in benchmark.sources}
    for key, found in obtained.items():
        context.report(f"{key}: {found.facts['rows']} rows of {found.facts['repo']}, from the {found.facts['from']}")
    splits = benchmark.load(sizes, context.config["seed"], {key: found.rows for key, found in obtained.items()})
    check_disjoint(splits, benchmark.signature)
    for split, examples in splits.items():
        files.write_jsonl(context.folder / f"{split}.jsonl", (example_to_json(example) for example in examples))
    dropped = getattr(splits, "dropped", {})
    test = splits["test"] if benchmark.sources else []
    twice = len(test) - len({question_text(example) for example in test})
    facts = {
        "benchmark": benchmark.name,
        "licence": benchmark.licence,
        "citation": benchmark.citation,
        "problems": {split: len(examples) for split, examples in splits.items()},
        "dropped": dropped,
        "test_problems_that_come_twice": twice,
        "sources": {key: found.facts for key, found in obtained.items()},
    }
    files.write_json(context.folder / "sources.json", facts)
    for reason, count in dropped.items():
        context.report(f"dropped {count} {reason}")
    if twice:
        context.report(f"{twice} test problems come twice; they are kept, as published")
    context.report(", ".join(f"{len(examples)} {split}" for split, examples in splits.items()) + " problems")
