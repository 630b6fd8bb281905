"""Pre-train the miniature's base model for all benchmarks; save it in SDAR's checkpoint format. Resumable."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from lightningrl.answering import Task, answer, score
from lightningrl.benchmarks.protocol import PromptOptions, render_chat
from lightningrl.inference.policy import make_policy
from lightningrl.models.transformer import ModelConfig, Transformer
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.decoder import make_decoder
from lightningrl.pipeline.stages.loading import save_policy, use_threads
from lightningrl.pipeline.stages.problems import make_judge, read_examples
from lightningrl.tokenization import load_tokenizer
from lightningrl.training.loop import train
from lightningrl.training.supervised.corpus import build_corpus
from lightningrl.training.supervised.pretrainer import Pretrainer
from lightningrl.training.world import device_of
from lightningrl.types import Example
from lightningrl.utils import files

INITIALIZER_RANGE = 0.02


def plain_chat(example: Example) -> list[dict[str, str]]:
    """Pre-training sees the plain question; a benchmark's prompt suffix belongs to its evaluation."""
    return render_chat(example, PromptOptions())


def run(context: StageContext) -> None:
    """Write config.json, model.safetensors, the tokenizer's files and metrics.jsonl.

    `resources.pretrain_threads` are threads of our own, each of which computes a micro-batch with one of torch's; their
    number changes no bit of the base.
    """
    use_threads(1)
    config, tokenizer = context.config, load_tokenizer(context.inputs["tokenizer"])
    torch.manual_seed(config["seed"])
    model = Transformer(
        ModelConfig(
            **config["model"].model_dump(),
            vocab_size=len(tokenizer),
            initializer_range=INITIALIZER_RANGE,
            mask_token_id=tokenizer.mask_token_id,
        )
    ).to(device_of(context.device))
    names = [role.removeprefix("data/") for role in context.inputs if role.startswith("data/")]
    corpora = {
        name: build_corpus(
            tokenizer,
            read_examples(context.inputs[f"data/{name}"] / "train.jsonl"),
            plain_chat,
            model.config.block_size,
        )
        for name in names
    }
    validation = _Validation(context, names, tokenizer)
    context.report(f"{model.config.num_parameters / 1e6:.2f} M parameters, {len(tokenizer)} tokens")
    workers = ThreadPoolExecutor(context.threads, initializer=use_threads, initargs=(1,))
    pretrainer = Pretrainer(config["pretrain"], config["seed"], model, corpora, validation, workers)
    try:
        history = train(
            pretrainer,
            context.state,
            save_every=config["pretrain"].save_every,
            fingerprint=context.fingerprint,
            report=context.report,
            timing=context.timing,
            should_stop=context.should_stop,
        )
    finally:
        validation.close()
        workers.shutdown(cancel_futures=True)
    save_policy(pretrainer.averaged, tokenizer, context.inputs["tokenizer"], context.folder)
    files.write_jsonl(context.folder / "metrics.jsonl", history.rows)


class _Validation:
    """Greedy accuracy by benchmark and their mean, at the primary threshold."""

    def __init__(self, context: StageContext, names: list[str], tokenizer: Any):
        config = context.config
        self.config, self.tokenizer = config, tokenizer
        self.policy = make_policy(config, config["primary_threshold"])
        self.examples = {name: read_examples(context.inputs[f"data/{name}"] / "validation.jsonl") for name in names}
        self.tasks = {
            name: Task(
                plain_chat,
                make_judge(config["members"][f"judge/{name}"], context.judge_workers),
                config["max_new_tokens"][name],
            )
            for name in names
        }

    def __call__(self, model: Transformer) -> dict[str, float]:
        decoder, figures = make_decoder(self.config, model, self.tokenizer), {}
        for name, task in self.tasks.items():
            found = score(answer(decoder, self.tokenizer, task, [(e, 0) for e in self.examples[name]], self.policy))
            figures[f"accuracy_pct/{name}"], figures[f"tpf/{name}"] = found.accuracy_pct, found.tpf
        figures["accuracy_pct"] = sum(figures[f"accuracy_pct/{name}"] for name in self.tasks) / len(self.tasks)
        return figures

    def close(self) -> None:
        for task in self.tasks.values():
            task.judge.close()
