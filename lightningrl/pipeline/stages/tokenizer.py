"""Build the tokenizer from the benchmarks' training problems; a Hugging Face folder that AutoTokenizer loads."""

from __future__ import annotations

from itertools import islice

from lightningrl.benchmarks.protocol import example_from_json
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.tokenization import build_tokenizer, load_tokenizer
from lightningrl.utils.files import read_jsonl


def run(context: StageContext) -> None:
    """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json."""
    count = context.config["tokenizer"].texts_per_benchmark
    texts: list[str] = []
    for role, folder in context.inputs.items():
        if role.startswith("data/"):
            for row in islice(read_jsonl(folder / "train.jsonl"), count):
                example = example_from_json(row)
                texts += [message["content"] for message in example.messages]
                texts += [example.solution] if example.solution else []
    build_tokenizer(texts, context.folder)
    context.report(f"{len(load_tokenizer(context.folder))} tokens from {len(texts)} texts")
