"""The fingerprint of a training: its config as plain JSON data, compared with that of a saved state.

Stage folders are content-addressed, so a changed config gets a folder of its own; callers of the library have only this
check against a mixed run. Values are compared key by key under dotted paths (`run.learning_rate`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lightningrl.utils.files import canonical_json, sha256_text

FREE = frozenset({"save_every", "role", "resources"})
"""Keys that may differ at any depth: they change when and where a run is saved or its name, but no number."""
_ABSENT = "nothing"


def digest(fingerprint: Mapping[str, Any]) -> str:
    """Returns the sha256 of the canonical JSON, without the keys that may differ."""
    return sha256_text(canonical_json(dict(_leaves(fingerprint))))


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], growing: Collection[str] = ()) -> list[str]:
    """Returns one sentence with both values for each key that differs; a run may resume when there is none.

    growing: dotted keys of numbers that may rise. The number of steps may, unless something else is computed from it,
    such as a learning rate that decays to zero over the run or a validation at the last step only.

    >>> differences({"run": {"steps": 4, "kl": 0.1}}, {"run": {"steps": 8, "kl": 0.2, "role": "x"}}, ["run.steps"])
    ['run.kl was 0.1, is 0.2']
    """
    before, after = dict(_leaves(saved)), dict(_leaves(now))
    return [
        f"{key} was {_shown(before, key)}, is {_shown(after, key)}"
        for key in sorted(before.keys() | after.keys())
        if _shown(before, key) != _shown(after, key) and not (key in growing and _grew(before.get(key), after.get(key)))
    ]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields plain values with their dotted paths; an empty mapping and a list count as values."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            if key not in FREE:
                yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, value


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return canonical_json(leaves[key]) if key in leaves else _ABSENT


def _grew(before: Any, after: Any) -> bool:
    numbers = (int, float)
    return isinstance(before, numbers) and isinstance(after, numbers) and after >= before
