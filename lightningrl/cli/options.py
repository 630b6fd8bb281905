"""Options that several verbs share; those of how to decode are made from the config's section. No torch on import."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from lightningrl.benchmarks.fetch import Origins
from lightningrl.config.decoding import DirectDecoding
from lightningrl.config.endpoint import Endpoint
from lightningrl.config.reading import explain
from lightningrl.config.registries import usable
from lightningrl.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from lightningrl.inference.llm import LLM

MODEL_HELP = "A checkpoint's folder, or a repository of the Hugging Face hub, like JetLM/SDAR-8B-Chat-b32."
Model = Annotated[Path, typer.Argument(help=MODEL_HELP)]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(help="Longest response, rounded up to the block grid; default: 512, or what the model has room for."),
]
BENCHMARK = typer.Option(help="gsm8k, math500, mbpp, humaneval, ... or module:attribute.")
Benchmark = Annotated[str, BENCHMARK]
Split = Annotated[str, typer.Option(help="test, validation or train.")]
DataFile = Annotated[Path | None, typer.Option("--data", help="Problems of a data stage (test.jsonl) instead.")]
Mirror = Annotated[Path | None, typer.Option(help="Folder with the files; else LIGHTNINGRL_DATA_MIRROR, or the hub.")]
Limit = Annotated[int | None, typer.Option(min=1, help="The first so many problems.")]
Style = Annotated[str, typer.Option(help="The prompt's wording.")]
Shots = Annotated[int, typer.Option(help="Worked examples before the problem.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that judge.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]


def _usable(plugins: list[str] | None) -> list[str] | None:
    """Raises ConfigError for a plug-in that cannot be used, by the option's name and not a config's key."""
    try:
        usable(plugins or ())
    except ConfigError as error:
        raise ConfigError(re.sub(r"^plugins\.\d+", "--plugins", str(error))) from None
    return plugins


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        help=f"{DirectDecoding.model_fields['plugins'].description}",
        metavar="MODULE",
        callback=_usable,
    ),
]

SERVER = "server_"
"""How the names of an endpoint's options begin in a verb's `**given`."""
SPELLINGS = {
    "schedule": ("--schedule", "--cache"), "preset": ("--preset", "--decoder"), f"{SERVER}url": ("--endpoint",),
    f"{SERVER}stop": ("--stop-texts",), f"{SERVER}chat": ("--chat/--completions",),
}  # fmt: skip
"""Options that are not spelt as their keys, or have another spelling beside their own."""
Verb = TypeVar("Verb", bound=Callable[..., None])


def decoding_options(*left_out: str, **defaults: str) -> Callable[[Verb], Verb]:
    """Gives a verb, in place of its `**given`, an option for each key of `DirectDecoding`: name, type, help, default.

    left_out: keys that the verb does not have; those that it declares itself are its own. defaults: other defaults than
    the section's. An option that the user does not give is None, so that a preset decides (`decoding_of`).
    """

    def with_options(verb: Verb) -> Verb:
        signature = inspect.signature(verb, eval_str=True)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        without = {*left_out, *(each.name for each in own)}
        made = [
            _option(name, field, defaults.get(name))
            for name, field in DirectDecoding.model_fields.items()
            if name not in without
        ]
        vars(verb)["__signature__"] = signature.replace(parameters=[*own, *made])
        return verb

    return with_options


def endpoint_options() -> Callable[[Verb], Verb]:
    """Gives a verb an option for each key of `Endpoint`, `--endpoint` for its address; their names in `**given` begin
    with `SERVER`. An option that the user does not give is None (`endpoint_of`)."""

    def with_options(verb: Verb) -> Verb:
        signature = inspect.signature(verb, eval_str=True)
        made = [_option(f"{SERVER}{name}", field, None) for name, field in Endpoint.model_fields.items()]
        vars(verb)["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), *made])
        return verb

    return with_options


def _option(name: str, field: FieldInfo, default: str | None) -> inspect.Parameter:
    """The option of a key: its help is the first sentence of the key's documentation."""
    value: Any = None if field.is_required() else field.get_default(call_default_factory=True)
    if name == "plugins":  # the option may be repeated
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Plugins)
    is_json = isinstance(value, dict | list)
    kind: Any = str if is_json else (get_args(field.annotation) or (field.annotation,))[0]
    kind = list[kind] if name == "preset" else kind  # so that both of its spellings are seen (`decoding_of`)
    text = " ".join((field.description or "").split()).partition(". ")[0].removesuffix(".") + "."
    shown = "" if default or value in (None, "", {}, []) else f" [default: {value}]"
    spellings = SPELLINGS.get(name, ("--" + name.removeprefix(SERVER).replace("_", "-"),))
    least = 1 if any(getattr(limit, "gt", None) == 0 for limit in field.metadata) else None
    option = typer.Option(
        *spellings, help=text + shown, min=least, metavar="JSON" if is_json else "NAME" if name == "preset" else None
    )
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def decoding_of(given: Mapping[str, Any]) -> DirectDecoding:
    """Returns how to decode by the options that a verb was given. Raises ConfigError for those that cannot be."""
    tree = {name: value for name, value in given.items() if value is not None}
    if isinstance(named := tree.get("preset"), list):
        if len(different := dict.fromkeys(named)) > 1:
            raise ConfigError(f"--decoder and --preset name one thing; found {', '.join(different)}: give one of them")
        tree["preset"] = named[0] if named else ""
    for key in ("selector_options", "ranking_options", "schedule_options", "logits_options"):
        if key in tree:
            tree[key] = _options(key, tree[key])
    try:
        return DirectDecoding.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(map(str.strip, explain(error, DirectDecoding)))) from None


def asked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of decoding that the user gave, without those of an endpoint."""
    return {name: value for name, value in given.items() if value is not None and not name.startswith(SERVER)}


def endpoint_of(given: Mapping[str, Any]) -> Endpoint | None:
    """Returns the server that a verb was told of, None where it was told of none. Raises ConfigError for options that
    cannot be, or that need `--endpoint`."""
    named = {name: value for name, value in given.items() if name.startswith(SERVER) and value is not None}
    if not named:
        return None
    tree = {name.removeprefix(SERVER): value for name, value in named.items()}
    if not tree.get("url") or "model" not in tree:
        told = "--model, the model's name at the server" if tree.get("url") else "--endpoint, the server's address"
        raise ConfigError(f"an endpoint needs {told}")
    if "extra_body" in tree:
        tree["extra_body"] = _options("extra_body", tree["extra_body"], keep=True)
    if "stop" in tree:
        try:
            tree["stop"] = json.loads(tree["stop"])
        except ValueError as error:
            raise ConfigError(f"--stop-texts: {error}; expected a list of texts as JSON") from None
    try:
        return Endpoint.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(map(str.strip, explain(error, Endpoint)))) from None


def _options(key: str, text: str, keep: bool = False) -> dict[str, Any]:
    """An option that is null is the piece's own default, or is kept."""
    option = f"--{key.replace('_', '-')}"
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{option}: found {text}, expected an object")
    return {name: value for name, value in found.items() if keep or value is not None}


def open_llm(model: Path, decoding: DirectDecoding) -> LLM:
    """Load a checkpoint, from a folder or the hub. Raises ConfigError for a dtype there is not, CheckpointError for one
    of no use."""
    from lightningrl.inference.llm import LLM
    from lightningrl.inference.policy import require_fitting
    from lightningrl.models.families.registry import plug_in
    from lightningrl.models.hub import block_size_named, located

    plug_in(decoding.plugins)
    dtype = None if decoding.dtype == "stored" else dtype_of(decoding.dtype, "stored")
    require_device(decoding.device)
    folder = located(model, decoding.revision)
    require_fitting(folder, decoding.preset)
    return LLM(
        folder, block_size=decoding.block_size or block_size_named(model, folder), adapter=decoding.adapter or None,
        dtype=dtype, device=decoding.device, rows=decoding.rows, memory_bytes=decoding.memory_bytes,
        forwards=decoding.forwards, plugins=decoding.plugins,
    )  # fmt: skip


def dtype_of(name: str, *others: str) -> torch.dtype:
    """Raises ConfigError, which names `others` too, for a precision there is not."""
    import torch

    names = ("float32", "bfloat16", "float64")
    if name not in names:
        raise ConfigError(f"--dtype: found {name!r}, allowed: {', '.join((*others, *names))}")
    return getattr(torch, name)


def require_device(device: str) -> None:
    """Raises ConfigError for a device that torch does not know or does not find."""
    import torch

    if device == "auto":
        return
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"--device: found {device!r}, expected auto, cpu, cuda, cuda:1, ...")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: this machine has no CUDA device that torch can use; take `cpu`")


def require_finite(option: str, value: float | None) -> None:
    """Raises ConfigError for a parameter of an unknown selector that could not be told from others, as `nan`."""
    if value is not None and not math.isfinite(value):
        raise ConfigError(f"{option}: found {value}, expected a finite number")


def origins(mirror: Path | None) -> Origins:
    """Returns where a tool takes published files from: --mirror, else the environment's mirror, else the hub."""
    return Origins(mirror, Path("config/data.lock.json"), is_said=mirror is not None)
