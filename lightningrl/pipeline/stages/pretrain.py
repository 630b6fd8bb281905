"""Pre-train a base of the miniature for all benchmarks; save it in its family's checkpoint format. Resumable."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from lightningrl.answering import Task, answer, requests_of, score
from lightningrl.benchmarks.protocol import PromptOptions, render_chat
from lightningrl.config.model import Architecture
from lightningrl.errors import ConfigError
from lightningrl.inference.policy import make_policy
from lightningrl.models.config_file import family_named
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
from lightningrl.utils.registry import resolve

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
    shape = shape_of(config["model"], config["family"], len(tokenizer), tokenizer.mask_token_id)
    phases = config["pretrain"].phases.items()
    objectives = {name: resolve(config["members"][f"objective/{name}"])(shape, phase) for name, phase in phases}
    model = Transformer(shape).to(device_of(context.device))
    names = [role.removeprefix("data/") for role in context.inputs if role.startswith("data/")]
    corpora = {
        name: build_corpus(
            tokenizer,
            read_examples(context.inputs[f"data/{name}"] / "train.jsonl"),
            plain_chat,
            shape.block_size,
            config["max_new_tokens"][name] if shape.attention == "full" else None,
            shape.max_position_embeddings,
        )
        for name in names
    }
    validation = _Validation(context, names, tokenizer, model)
    context.report(f"{model.config.num_parameters / 1e6:.2f} M parameters, {len(tokenizer)} tokens")
    workers = ThreadPoolExecutor(context.threads, initializer=use_threads, initargs=(1,))
    budget = None
    if "matched" in context.inputs:
        budget = list(files.read_jsonl(context.inputs["matched"] / "metrics.jsonl"))[-1]["token_forwards"]
    pretrainer = Pretrainer(
        config["pretrain"], config["seed"], model, corpora, objectives, validation, workers, budget
    )  # fmt: skip
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


def shape_of(model: Architecture, family_name: str, vocab_size: int, mask_token_id: int) -> ModelConfig:
    """Returns the shape of a family's model. Raises ConfigError where the family's config.json cannot say it."""
    family = family_named(family_name)
    shape = {"vocab_size": vocab_size, "initializer_range": INITIALIZER_RANGE, "mask_token_id": mask_token_id}
    config = ModelConfig(**{**model.model_dump(), **shape, **family.facts})
    if (said := ModelConfig(**{**family.defaults, **family.shape(family.config_json(config))})) != config:
        lost = [name for name in config.__slots__ if getattr(config, name) != getattr(said, name)]
        raise ConfigError(
            f"the config.json of a {family_name} model cannot say this shape: {', '.join(lost)} would be "
            f"{', '.join(str(getattr(said, name)) for name in lost)}, not "
            f"{', '.join(str(getattr(config, name)) for name in lost)}; change `model` (head_dim is "
            "hidden_size / num_attention_heads)"
        )
    return config


class _Validation:
    """Greedy accuracy by benchmark and their mean, at the primary threshold. It decodes one problem of each at once, so
    that a decoder that the model cannot have is refused before anything is trained."""

    def __init__(self, context: StageContext, names: list[str], tokenizer: Any, model: Transformer):
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
        decoder = make_decoder(config, model, tokenizer)
        for name, task in self.tasks.items():
            decoder.decode(requests_of(tokenizer, task, [(self.examples[name][0], 0)]), self.policy)

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
