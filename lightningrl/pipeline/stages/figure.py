"""Draw one figure of the experiment as PDF and PNG, with the plotted data beside it, from the collected results."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from lightningrl.pipeline.stages.collected import read_all
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.utils.files import write_bytes
from lightningrl.utils.registry import resolve

OPTION_NAMES = {"smooth_steps": "window"}
"""Plot options of the config that figures know under another name."""


def run(context: StageContext) -> None:
    """Write `<name>.pdf`, `.png` and `.csv`."""
    draw = resolve(context.config["members"]["figure"])
    collected = read_all(context.inputs["collect"], context.config["collected"])
    scratch = context.state / "drawn"
    scratch.mkdir(parents=True, exist_ok=True)
    common = context.config["plot"].model_dump() | {"policies": tuple(context.config["policies"])}
    for path in draw(*collected, scratch, options_for(draw, common)):
        final = context.folder / f"{context.config['name']}{path.suffix}"
        write_bytes(final, path.read_bytes())
        context.report(str(final))


def options_for(draw: Callable[..., Any], plot: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the common plot options that this figure has."""
    known: set[str] = set()
    hint = typing.get_type_hints(draw).get("options")
    for option in typing.get_args(hint) or (hint,):
        if inspect.isclass(option) and dataclasses.is_dataclass(option):
            known |= {field.name for field in dataclasses.fields(option)}
    named = {OPTION_NAMES.get(name, name): value for name, value in plot.items()}
    return {name: value for name, value in named.items() if name in known}
