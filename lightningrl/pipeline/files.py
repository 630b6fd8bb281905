"""The final files of each kind of stage, as far as they can be known before it runs."""

from __future__ import annotations

from collections.abc import Mapping

from lightningrl.config.experiment import Experiment

KINDS = (
    "data", "selfcheck", "tokenizer", "pretrain", "checkpoint", "train", "quantize", "evaluate", "speed", "probe",
    "collect", "table", "figure", "replay", "release",
)  # fmt: skip
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
CHECKPOINT = ("config.json", "model.safetensors", *TOKENIZER, "metrics.jsonl")
FILES: Mapping[str, tuple[str, ...]] = {
    "data": ("train.jsonl", "validation.jsonl", "test.jsonl", "sources.json"),
    "selfcheck": ("selfcheck.json",),
    "tokenizer": TOKENIZER,
    "pretrain": CHECKPOINT,
    "checkpoint": ("config.json", "tokenizer_config.json", "checkpoint.json"),
    "train": (*CHECKPOINT, "selection.json", "samples.jsonl", "samples.md"),
    "quantize": ("config.json", "model.safetensors", "quantization.json", *TOKENIZER),
    "evaluate": ("records.jsonl", "summary.json"),
    "speed": ("speed.json",),
    "probe": ("probe.csv",),
    "collect": (
        "frontier.csv",
        "headline.csv",
        "pooled.csv",
        "curves.csv",
        "steps.csv",
        "speed.csv",
        "probes.csv",
    ),
    "table": ("{name}.csv", "{name}.md", "{name}.tex", "{name}.html"),
    "figure": ("{name}.pdf", "{name}.png", "{name}.csv"),
}
"""Final files of each kind, the manifest aside; a release's depend on what it holds."""
RELEASED = ("configuration.yaml", "provenance.csv", "provenance.html")
"""A release's, beside copies of tables, figures and replays."""
OPEN: Mapping[str, tuple[str, ...]] = {
    "checkpoint": FILES["checkpoint"],
    "train": ("config.json", "tokenizer_config.json", "metrics.jsonl", "selection.json"),
    "quantize": ("config.json", "tokenizer_config.json", "model.safetensors", "quantization.json"),
}
"""Those that are sure where the base is a checkpoint: how many files its weights and its tokenizer are, it says itself.
The others are in the manifest."""


def files_of(experiment: Experiment, kind: str) -> tuple[str, ...]:
    """The final files of a kind that can be known before it runs."""
    if kind == "replay":
        return tuple(f"{{name}}-{number}.html" for number in range(1, experiment.report.replayed_problems + 1))
    return OPEN[kind] if has_checkpoint(experiment) and kind in OPEN else FILES[kind]


def has_checkpoint(experiment: Experiment) -> bool:
    return experiment.base is not None or bool(experiment.checkpoints)
