"""`lightningrl decoders`: the published decoders by name, and what each needs of the model. No torch."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from lightningrl.decoding.presets import PRESETS

NEEDS = {
    "block_causal": "a model of blocks: each position sees to the end of its own (SDAR)",
    "full": "a model of canvases: each position sees all of it (LLaDA)",
}
"""What a preset's `attention` means."""
WIDTH = 110


def decoders(
    model: Annotated[Path | None, typer.Argument(help="A checkpoint's folder: only those that fit it.")] = None,
) -> None:
    """List the published decoders by name: what each needs of the model, its parameter, where it comes from.

    A name is what `--decoder` takes, and `decoding: {preset: ...}` of a config. The parameter is `--threshold`; where
    none is shown, the publication leaves it to you.

    \b
    lightningrl decoders
    lightningrl generate models/LLaDA-8B-Instruct prompts.jsonl --decoder fast_dllm_v1_dual
    """
    found = None
    if model is not None:
        from lightningrl.models.config_file import family_of

        found = family_of(model).facts.get("attention")
    for attention in dict.fromkeys(preset["attention"] for preset in PRESETS.values()):
        if found in (None, attention):
            typer.echo(f"for {NEEDS.get(attention, f'a model with {attention} attention')}:")
            for name, preset in PRESETS.items():
                if preset["attention"] == attention:
                    typer.echo(_entry(name, preset["decoding"], preset.get("parameter"), preset["source"]))
            typer.echo()


def _entry(name: str, pieces: dict[str, object], parameter: float | None, source: str) -> str:
    selector = f"{pieces['selector']} {'(say --threshold)' if parameter is None else f'{parameter:g}'}"
    head = f"  {name:30} {selector}, ranked by {pieces['ranking']}, {pieces['schedule']}, {pieces['stop']}"
    return head + "\n" + textwrap.fill(source, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
