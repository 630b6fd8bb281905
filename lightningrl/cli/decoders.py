"""`lightningrl decoders`: the published decoders by name, and what each needs of the model. No torch."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from lightningrl.cli import options
from lightningrl.decoding.presets import PRESETS, fitting, needs
from lightningrl.utils.numbers import shortest

NEEDS = {
    ("block_causal", None): "a model of blocks: each position sees to the end of its own (SDAR, Fast-dLLM v2)",
    ("block_causal", True): "a model of blocks with shifted logits (Fast-dLLM v2)",
    ("full", False): "a model of canvases: each position sees all of it (LLaDA)",
    ("full", True): "a model of canvases with shifted logits (Dream)",
    ("full", None): "a model of canvases, shifted logits or not (LLaDA, Dream)",
    ("causal", None): "an autoregressive model (Qwen2.5, Llama 3)",
}
"""What a preset's `attention` and `logit_shift` mean together."""
PLANNED = "a model of canvases with a planner (dUltra's LLaDA)"
WIDTH = 110


def decoders(
    model: Annotated[Path | None, typer.Argument(help="A checkpoint's folder: only those that fit it.")] = None,
    plugins: options.Plugins = None,
) -> None:
    """List the published decoders by name: what each needs of the model, its parameter, where it comes from.

    A name is what `--decoder` takes, and `decoding: {preset: ...}` of a config. The parameter is `--threshold`; where
    none is shown, the publication leaves it to you.

    \b
    lightningrl decoders
    lightningrl generate models/LLaDA-8B-Instruct prompts.jsonl --decoder fast_dllm_v1_dual
    """
    names = list(PRESETS)
    if model is not None:
        from lightningrl.models.config_file import family_of, has_planner
        from lightningrl.models.families.registry import plug_in

        plug_in(plugins or ())
        facts = family_of(model).facts
        if "attention" in facts:
            names = fitting(facts["attention"], facts.get("logit_shift", False), has_planner(model))
    groups: dict[str, list[str]] = {}
    for name in names:
        key = PRESETS[name]["attention"], PRESETS[name].get("logit_shift")
        words = PLANNED if PRESETS[name].get("planner") else NEEDS.get(key, f"a model with {needs(name)}")
        groups.setdefault(words, []).append(name)
    for needed, members in groups.items():
        typer.echo(f"for {needed}:")
        for name in members:
            preset = PRESETS[name]
            typer.echo(_entry(name, preset["decoding"], preset.get("parameter"), preset["source"]))
        typer.echo()


def _entry(name: str, pieces: dict[str, object], parameter: float | None, source: str) -> str:
    selector = f"{pieces['selector']} {'(say --threshold)' if parameter is None else shortest(parameter)}"
    head = f"  {name:30} {selector}, ranked by {pieces['ranking']}, {pieces['schedule']}, {pieces['stop']}"
    return head + "\n" + textwrap.fill(source, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
