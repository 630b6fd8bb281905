"""What a training was configured with, and what of it differs: the second line of defence against a mixed run.

Stage folders are content-addressed, so a changed config gets a folder of its own; a library's caller has only this. A
fingerprint is plain JSON data, compared key by key under dotted paths (`run.learning_rate`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lightningrl.utils.files import canonical_json, sha256_text

FREE = frozenset({"save_every", "role", "resources"})
"""Keys, at any depth, that may differ: they change when and where a run is saved, how it is named, not its numbers."""
_ABSENT = "nothing"


def digest(fingerprint: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON, without what may differ."""
    return sha256_text(canonical_json(dict(_leaves(fingerprint))))


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], growing: Collection[str] = ()) -> list[str]:
    """One sentence for each key that differs, with both values; empty when a run may go on.

    growing: dotted keys of numbers that may rise, as the number of steps may where nothing else is computed from it. A
    learning rate that decays to zero over the run is, and so is a validation at the last step only.

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
    """Plain values by dotted path; an empty mapping and a list are values."""
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
