"""Whether an object is a benchmark: every attribute of the protocol, of its type, and a judge that is one; no torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lightningrl.benchmarks.protocol import SPLITS, Benchmark
from lightningrl.benchmarks.sources import Source
from lightningrl.errors import BenchmarkError
from lightningrl.utils.registry import PACKAGE, resolve


def _all(kind: type, *needed: object, among: tuple[object, ...] = ()) -> Callable[[Any], bool]:
    """Whether something is a tuple or list of this kind, with all that is needed, and nothing that is not `among`."""
    return lambda found: (
        isinstance(found, tuple | list)
        and all(isinstance(each, kind) and (not among or each in among) for each in found)
        and set(needed) <= set(found)
    )


TEXT: tuple[str, Callable[[Any], bool]] = ("a text", lambda found: isinstance(found, str))
ATTRIBUTES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("a text without slashes", lambda found: isinstance(found, str) and found != "" and "/" not in found),
    "licence": TEXT,
    "citation": TEXT,
    "judge": ("module:attribute of a class", lambda found: isinstance(found, str) and ":" in found),
    "sources": ("a tuple of `benchmarks.sources.Source`, empty where problems are generated", _all(Source)),
    "styles": ("a tuple of texts with 'default' among them", _all(str, "default")),
    "shots": ("a tuple of numbers with 0 among them", _all(int, 0)),
    "splits": (f"a tuple of some of {', '.join(SPLITS)}", _all(str, among=SPLITS)),
}
"""Attribute -> what it must be, in words and as a test. `splits` may be left out."""
METHODS = {"load": ("sizes", "seed", "rows"), "render": ("example", "prompt"), "signature": ("example",)}
"""Method -> the arguments that it is called with, by position."""
JUDGE = ("judge", "close", "needs_jail", "graded")
"""What a judge's class has (`judges.protocol.Judge`)."""


def checked(path: str, where: str = "") -> Benchmark:
    """Returns the benchmark at `module:attribute`.

    where: the key of the config that has it, with which errors begin. Raises BenchmarkError, which lists all that is
    missing or of another type, and ConfigError where there is no such object, or no such judge.
    """
    found = resolve(path, where)
    if wrong := [*_wrong(found)]:
        key = f"{where}: " if where else ""
        raise BenchmarkError(f"{key}{path} is not a benchmark: {'; '.join(wrong)} (see docs/add-a-benchmark.md)")
    if path.split(".")[0] != PACKAGE:  # ours are tested, and their judges take time to import
        judge = resolve(found.judge, f"{where or path}: judge")
        lacking = [name for name in JUDGE if not hasattr(judge, name)]
        if not isinstance(judge, type) or lacking:
            told = f"it lacks {', '.join(lacking)}" if lacking else "expected a class"
            raise BenchmarkError(f"{where or path}: judge: {found.judge} is not a judge: {told} (see docs/judging.md)")
    return found


def _wrong(found: Any) -> Iterator[str]:
    """Yields what an object lacks to be a benchmark."""
    for name, (expected, is_right) in ATTRIBUTES.items():
        if not hasattr(found, name):
            if name != "splits":
                yield f"`{name}` is missing, expected {expected}"
        elif not is_right(getattr(found, name)):
            yield f"`{name}` is {getattr(found, name)!r}, expected {expected}"
    for name, arguments in METHODS.items():
        called = f"{name}({', '.join(arguments)})"
        if not callable(getattr(found, name, None)):
            yield f"`{called}` is missing"
        elif not _takes(getattr(found, name), len(arguments)):
            yield f"`{name}` cannot be called as {called}"


def _takes(method: Callable[..., Any], count: int) -> bool:
    """Whether a method takes so many arguments by position."""
    try:
        inspect.signature(method).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        pass  # a callable without a signature
    return True
