"""From `module:attribute` strings to objects: how registry members and users' own parts are found."""

from __future__ import annotations

import importlib
from typing import Any

from lightningrl.errors import ConfigError


def resolve(reference: str) -> Any:
    """Returns the object that `module:attribute` names.

    Raises ConfigError when the string has another form, or the module or the attribute does not exist.
    """
    module_name, colon, attribute = reference.partition(":")
    if not (colon and attribute and all(map(str.isidentifier, module_name.split(".")))):
        raise ConfigError(f"found {reference!r}; expected `module:attribute`")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        remedy = "install it or put it on PYTHONPATH"
        if str(error.name).split(".")[0] == __name__.split(".")[0]:
            remedy = "check the name; for results of another version, take the commit in their manifest.json"
        raise ConfigError(f"{reference}: no module {error.name!r}; {remedy}") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ConfigError(f"{reference}: module {module_name} has no attribute {attribute!r}") from None
