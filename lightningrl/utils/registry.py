"""From `module:attribute` strings to objects: how registry members and users' own parts are found."""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Any

from lightningrl.errors import ConfigError

PACKAGE = __name__.split(".")[0]


def resolve(reference: str, where: str = "") -> Any:
    """Returns the object that `module:attribute` names.

    where: the key of the config that has it, with which errors begin. Raises ConfigError when the string has another
    form, the module or the attribute does not exist, or a module from outside the package fails when it is imported.
    """
    key = f"{where}: " if where else ""
    module_name, colon, attribute = reference.partition(":")
    if not (colon and attribute and all(map(str.isidentifier, module_name.split(".")))):
        raise ConfigError(f"{key}found {reference!r}; expected `module:attribute`")
    try:
        module = importlib.import_module(module_name)
        return getattr(module, attribute)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{key}{reference}: {_told(error, module_name, attribute)}") from error


def _told(error: BaseException, module_name: str, attribute: str) -> str:
    """Returns what is wrong with a module that could not be used. Raises what the package's own modules raise."""
    if isinstance(error, ModuleNotFoundError):
        remedy = "install it or put it on PYTHONPATH"
        if str(error.name).split(".")[0] == PACKAGE:
            remedy = "check the name; for results of another version, take the commit in their manifest.json"
        is_itself = f"{module_name}.".startswith(f"{error.name}.")
        return f"{'' if is_itself else f'{module_name} imports what is not there: '}no module {error.name!r}; {remedy}"
    if isinstance(error, AttributeError) and error.name == attribute and error.obj is sys.modules.get(module_name):
        return f"module {module_name} has no attribute {attribute!r}"
    if module_name.split(".")[0] == PACKAGE:
        raise error
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if "importlib" not in frame.filename]
    place = f", at {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""  # a SyntaxError says its own
    return f"{module_name} cannot be imported: {type(error).__name__}: {error}{place}; fix it, or leave it out"
