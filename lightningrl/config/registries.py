"""Names of a config to what they stand for: the package's registries, and what plug-ins add to them.

A registry is a literal mapping of name -> `module:attribute`; it is found by its own name and never imported by a
stage, so that a new member changes no stage's key. A plug-in is a module outside the package with the attribute
`MEMBERS`, which adds names to registries: `MEMBERS = {"selector": {"gap": "colourbench.gap:Gap"}}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from lightningrl.errors import ConfigError
from lightningrl.utils.registry import resolve

REGISTRIES = {
    "benchmark": "lightningrl.benchmarks.registry:BENCHMARKS",
    "selector": "lightningrl.decoding.registry:SELECTORS",
    "ranking": "lightningrl.decoding.registry:RANKINGS",
    "schedule": "lightningrl.decoding.registry:SCHEDULES",
    "stop": "lightningrl.decoding.registry:STOPS",
    "algorithm": "lightningrl.rl.registry:ALGORITHMS",
    "family": "lightningrl.models.families.registry:FAMILIES",
    "objective": "lightningrl.training.supervised.registry:OBJECTIVES",
    "quantizer": "lightningrl.quantization.registry:QUANTIZERS",
    "table": "lightningrl.report.registry:TABLES",
    "figure": "lightningrl.report.registry:FIGURES",
}
"""The registry of each kind of part that a config, or a checkpoint (its family), chooses by name."""
DECODER = ("selector", "ranking", "schedule", "stop")
"""The pieces of a decoder: each is a registry above and a key of the config's `decoding`."""
PLUGGED = (*REGISTRIES, "stage")
"""What a plug-in may add: names in the registries above, and kinds of stages (`pipeline.kinds`)."""


def member(kind: str, name: str, where: str, plugins: Iterable[str] = ()) -> str:
    """Returns the `module:attribute` of a registered name; such a string itself is an outsider's own part.

    Raises ConfigError, which begins with `where` (the config's key), when the name is neither, and what `names` raises.
    """
    known = names(kind, plugins)
    if name in known:
        return known[name]
    if ":" in name:
        return name
    raise ConfigError(
        f"{where}: there is no {kind} {name!r}.{near(name, known)} Allowed: {', '.join(sorted(known))}, or your own as "
        "module:attribute"
    )


def near(name: object, known: Iterable[str]) -> str:
    """Returns " Did you mean `x`?" of the known name that is most like this one, or "" if none is."""
    found = get_close_matches(str(name), list(known), n=1)
    return f" Did you mean `{found[0]}`?" if found else ""


def names(kind: str, plugins: Iterable[str] = ()) -> dict[str, str]:
    """Returns every name of a kind with its `module:attribute`, those that plug-ins add included.

    Raises ConfigError for a plug-in that cannot be used.
    """
    found = dict(resolve(REGISTRIES[kind])) if kind in REGISTRIES else {}
    for plugin in plugins:
        for name, reference in _members(plugin).get(kind, {}).items():
            if found.setdefault(name, reference) != reference:
                raise ConfigError(
                    f"plugins: {plugin} calls {reference} the {kind} {name!r}, a name that {found[name]} has already; "
                    "register it under another one"
                )
    return found


def usable(plugins: str | Iterable[str]) -> list[str]:
    """Returns plug-ins as a list; a string alone is one.

    Raises ConfigError, which begins with `plugins` and its number, for one that cannot be used.
    """
    found = [plugins] if isinstance(plugins, str) else list(plugins)
    for number, plugin in enumerate(found):
        try:
            names("stage", [plugin])
        except ConfigError as error:  # at once: what its names stand for cannot be checked
            raise ConfigError(f"plugins.{number}: {str(error).removeprefix('plugins: ')}") from None
    return found


def _members(plugin: str) -> Mapping[str, Mapping[str, str]]:
    """Imports a plug-in and returns what it registers, by kind."""
    if not all(part.isidentifier() for part in plugin.split(".")):
        raise ConfigError(f"plugins: found {plugin!r}, expected the dotted name of a module")
    members: Any = resolve(f"{plugin}:MEMBERS", "plugins")
    if not isinstance(members, Mapping) or not all(map(_are_references, members.values())):
        raise ConfigError(
            f"plugins: {plugin}:MEMBERS is {members!r}; expected a mapping of kinds to mappings of names to "
            'module:attribute, like {"selector": {"gap": "my_package.gap:Gap"}}'
        )
    if unknown := sorted(set(members) - set(PLUGGED)):
        raise ConfigError(f"plugins: {plugin} registers {unknown}; the kinds that have names are {sorted(PLUGGED)}")
    return members


def _are_references(names: Any) -> bool:
    return isinstance(names, Mapping) and all(isinstance(each, str) and ":" in each for each in names.values())
