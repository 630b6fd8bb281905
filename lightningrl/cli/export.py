"""`lightningrl export`: a quantised checkpoint in the format that vLLM and SGLang load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightningrl.cli import options
from lightningrl.cli.outputs import say
from lightningrl.errors import ConfigError


def export(
    quantised: Annotated[Path, typer.Argument(help="The folder of a `quantize` stage.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder.")],
    plugins: options.Plugins = None,
) -> None:
    """Write quantised weights as a checkpoint in the `compressed-tensors` format, for inference engines.

    Weights alone, of 4 or 8 bits: of rtn, gptq (groups in order) and awq. It needs `pip install 'lightningrl[ptq]'`.
    Nothing is rounded anew: every verb here reads the folder, too, as the same weights bit for bit.

    \b
    lightningrl export results/miniature/quantize/w4-<key> --out w4
    """
    from lightningrl.models.families.registry import plug_in
    from lightningrl.quantization.compressed import write

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} already exists; name a new folder")
    plug_in(plugins or ())
    weights = write(quantised, out)["config_groups"]["group_0"]["weights"]
    group = f"groups of {weights['group_size']}" if weights["group_size"] else "a scale a row"
    say(f"{out}: {weights['num_bits']} bits, {group}")
