"""Command-line options that several verbs share. Light: nothing of torch is imported here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lightningrl.benchmarks.fetch import Origins
    from lightningrl.decoding.protocol import DecodePolicy
    from lightningrl.inference.llm import LLM

Model = Annotated[Path, typer.Argument(help="A checkpoint's folder: an SDAR model with its tokenizer.")]
BlockSize = Annotated[
    int | None, typer.Option(help="K, for checkpoints that do not say it themselves, as the official ones.")
]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, or `stored`.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(help="Longest response, rounded up to the block grid; left out: 512, or what the model has room for."),
]
Selector = Annotated[str, typer.Option(help="What is revealed: a name of decoding/registry.py or module:attribute.")]
Threshold = Annotated[float, typer.Option(help="The selector's parameter: a confidence, steps, nats, ...")]
SelectorOptions = Annotated[
    str, typer.Option(metavar="JSON", help="""More for the selector: '{"inclusive": true, "steps": 8}'.""")
]
Ranking = Annotated[str, typer.Option(help="confidence, neg_entropy, position, or module:attribute.")]
Schedule = Annotated[
    str, typer.Option("--schedule", "--cache", help="fused, separate, recompute, full_sequence, or module:attribute.")
]
Stop = Annotated[str, typer.Option(help="finish_block, inside_block, or module:attribute.")]
Temperature = Annotated[float, typer.Option(help="0: greedy.")]
TopK = Annotated[int, typer.Option(help="0: all tokens.")]
TopP = Annotated[float, typer.Option(help="1: all tokens.")]
Rows = Annotated[int, typer.Option(min=1, help="Most responses that are decoded together.")]
MemoryMB = Annotated[
    int | None, typer.Option("--memory-mb", min=1, help="Of the KV cache, in 10^6 bytes; left out: what the rows need.")
]
Mirror = Annotated[Path | None, typer.Option(help="Folder with the files; else LIGHTNINGRL_DATA_MIRROR, or the hub.")]
Seed = Annotated[int, typer.Option(help="Part of the key of every draw.")]


def open_llm(model: Path, block_size: int | None, dtype: str, device: str, **engine: Any) -> LLM:
    """Load a checkpoint. Raises ConfigError for a dtype there is not, CheckpointError for a folder of no use."""
    import torch

    from lightningrl.errors import ConfigError
    from lightningrl.inference.llm import LLM

    dtypes = {"stored": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
    if dtype not in dtypes:
        raise ConfigError(f"--dtype: found {dtype!r}, allowed: {', '.join(dtypes)}")
    require_device(device)
    return LLM(model, block_size=block_size, dtype=dtypes[dtype], device=device, **engine)


def require_device(device: str) -> None:
    """Raises ConfigError for a device that torch does not know or does not find."""
    import torch

    from lightningrl.errors import ConfigError

    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"--device: found {device!r}, expected cpu, cuda, cuda:1, ...")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: this machine has no CUDA device that torch can use; take `cpu`")


def selector_options_of(text: str) -> dict[str, Any]:
    """The JSON of `--selector-options`. Raises ConfigError when it is no object."""
    from lightningrl.errors import ConfigError

    try:
        options = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--selector-options: {error}") from None
    if not isinstance(options, dict):
        raise ConfigError(f"--selector-options: found {text}, expected an object")
    return options


def origins(mirror: Path | None) -> Origins:
    """Where a tool takes published files from: --mirror, else the environment's mirror, else the hub."""
    from lightningrl.benchmarks.fetch import Origins

    return Origins(mirror, Path("config/data.lock.json"), is_said=mirror is not None)


def policy_from(**words: Any) -> DecodePolicy:
    """lightningrl.inference.policy.policy_of, imported when it is needed."""
    from lightningrl.inference.policy import policy_of

    return policy_of(**words)
