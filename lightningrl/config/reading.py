"""From an experiment's YAML files to one tree of keys, and from a validation error to lines that say what to change."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lightningrl.config.code import settle_pin
from lightningrl.config.section import InvalidKeys, Section
from lightningrl.errors import ConfigError


def files_of(path: Path | str) -> list[Path]:
    """The file of an experiment that can be loaded, and those that it extends."""
    found = [Path(path)]
    while parent := yaml.safe_load(found[-1].read_text()).get("extends"):
        found.append(found[-1].parent / parent)
    return found


def read_tree(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Returns the keys of a YAML file over those of the file that it extends. above: the files that extend it.

    Raises ConfigError naming the file that is missing, is not YAML, or goes round in a circle.
    """
    if path.resolve() in above:
        raise ConfigError(f"{path}: `extends` goes round in a circle")
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        asked = f" (extended by {above[-1]})" if above else ""
        raise ConfigError(f"config file {path} does not exist{asked}") from None
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, found {type(tree).__name__}")
    settle_pin(tree, path)
    if "extends" not in tree:
        return tree
    parent = tree.pop("extends")
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends: expected a file name, found {parent!r}")
    return _merge(read_tree(path.parent / parent, (*above, path.resolve())), tree)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def explain(error: ValidationError, section: type[Section], above: str = "") -> list[str]:
    """Returns a line for each mistake: the key's path, what was found, what is allowed.

    section: what the error is of; above: the path of its keys.
    """
    lines = []
    for item in error.errors():
        inner = item.get("ctx", {}).get("error")
        where = ".".join(str(part) for part in ([above] if above else []) + list(item["loc"]))
        if isinstance(inner, InvalidKeys):
            lines += explain(inner.error, inner.section, inner.where)
        elif item["type"] == "extra_forbidden":
            siblings = _allowed_keys(section, item["loc"][:-1])
            near = get_close_matches(str(item["loc"][-1]), siblings, n=1)
            meant = f" Did you mean `{near[0]}`?" if near else ""
            lines.append(f"  {where}: unknown key.{meant} Allowed here: {', '.join(siblings) or 'none'}")
        elif item["type"] == "missing":
            lines.append(f"  {where}: this key is required")
        elif item["type"] == "value_error":
            message = str(item["msg"]).removeprefix("Value error, ")
            lines.append(f"  {where}: {message}" if where else f"  {message}")
        else:
            lines.append(f"  {where}: found {item['input']!r}; {item['msg'][0].lower()}{item['msg'][1:]}")
    return lines


def _allowed_keys(section: Any, loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        if isinstance(part, int) or part not in section.model_fields:  # a number of a list, a key of a mapping
            continue
        annotation = section.model_fields[part].annotation
        arguments = [a for a in getattr(annotation, "__args__", ()) if isinstance(a, type)]
        section = next((a for a in [annotation, *arguments] if isinstance(a, type) and issubclass(a, Section)), None)
        if section is None:
            return []
    return sorted(section.model_fields)
