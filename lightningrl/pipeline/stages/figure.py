"""Draw one figure of the experiment as PDF and PNG, with the plotted data beside it, from the collected results."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lightningrl.pipeline.stages.collected import read_all
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.utils.files import write_bytes
from lightningrl.utils.registry import resolve


def run(context: StageContext) -> None:
    """Write `<name>.pdf`, `.png` and `.csv`."""
    draw = resolve(context.config["members"]["figure"])
    scratch = context.state / "drawn"
    scratch.mkdir(parents=True, exist_ok=True)
    options = context.config["plot"].model_dump() | {"policies": tuple(context.config["policies"])}
    collected = read_all(context.inputs["collect"], context.config["collected"])
    for path in draw(*collected, scratch, **options_for(draw, options)):
        final = context.folder / f"{context.config['name']}{path.suffix}"
        write_bytes(final, path.read_bytes())
        context.report(str(final))


def options_for(draw: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the common options that this figure names."""
    known = inspect.signature(draw).parameters
    return {name: value for name, value in options.items() if name in known}
