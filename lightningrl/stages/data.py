"""Make one benchmark's train, validation and test problems, as canonical JSONL.

Asserts that no two splits share a problem. Reads nothing but the seed and the sizes.
"""

from __future__ import annotations

from lightningrl import io
from lightningrl.benchmarks.protocol import check_disjoint, example_to_json
from lightningrl.resolve import resolve
from lightningrl.stages.context import StageContext


def run(context: StageContext) -> None:
    """Write train.jsonl, validation.jsonl, test.jsonl."""
    benchmark = resolve(context.config["members"]["benchmark"])
    wanted = context.config["benchmark"]
    sizes = {split: wanted[split] for split in ("train", "validation", "test")}
    splits = benchmark.load(sizes, context.config["seed"])
    check_disjoint(splits, benchmark.signature)
    for split, examples in splits.items():
        io.write_jsonl(context.folder / f"{split}.jsonl", (example_to_json(example) for example in examples))
    context.report(", ".join(f"{len(examples)} {split}" for split, examples in splits.items()) + " problems")
