"""A policy from words: registry names or `module:attribute`, as the command line and JSON lines have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.registry import RANKINGS, SCHEDULES, SELECTORS, STOPS
from lightningrl.errors import ConfigError
from lightningrl.utils.registry import resolve

PIECES: Mapping[str, Mapping[str, str]] = {"ranking": RANKINGS, "schedule": SCHEDULES, "stop": STOPS}


def policy_of(
    selector: str = "threshold",
    parameter: float = 0.9,
    options: Mapping[str, Any] | None = None,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    **pieces: str,
) -> DecodePolicy:
    """selector is called with `parameter` and `options`; `pieces` name the ranking, schedule and stop.

    Raises ConfigError for a name that is not there or options a piece does not take, DecodeError for a number out of
    range.

    >>> policy_of("quota", 4, stop="inside_block").selector
    Quota(steps=4)
    """
    made = {name: _made(name, PIECES[name], value) for name, value in pieces.items()}
    chosen = _made("selector", SELECTORS, selector, parameter, **(options or {}))
    return DecodePolicy(chosen, temperature, top_k, top_p, seed=seed, **made)


def _made(kind: str, registry: Mapping[str, str], name: str, *arguments: float, **options: Any) -> Any:
    if name not in registry and ":" not in name:
        raise ConfigError(f"there is no {kind} {name!r}; take {', '.join(registry)} or your own module:attribute")
    member = resolve(registry.get(name, name))
    try:
        return member(*arguments, **options)
    except TypeError as error:
        raise ConfigError(f"{kind} {name}: {error}") from None
