"""From an experiment's YAML files to one tree of keys, and from a validation error to lines that say what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lightningrl.config.registries import near
from lightningrl.config.section import InvalidKeys, Section, section_in
from lightningrl.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, where YAML would take the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node, lines = super().compose_mapping_node(anchor), dict[tuple[str, str], int]()
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                told = f"found the key `{key.value}` twice, in lines {lines[name]} and {line}; keep one of them"
                raise ConfigError(f"{self.name}: {told}")
            lines[name] = line
        return node


def _read(path: Path) -> Any:
    with path.open("rb") as file:  # by which YAML's errors name it
        return yaml.load(file, _Loader)


def files_of(path: Path | str) -> list[Path]:
    """The file of an experiment that can be loaded, and those that it extends."""
    found = [Path(path)]
    while parent := _read(found[-1]).get("extends"):
        found.append(found[-1].parent / parent)
    return found


def read_tree(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Returns the keys of a YAML file over those of the file that it extends. above: the files that extend it.

    Raises ConfigError naming the file that is missing, is not YAML, has a key twice, or goes round in a circle.
    """
    if path.resolve() in above:
        raise ConfigError(f"{path}: `extends` goes round in a circle")
    try:
        tree = _read(path)
    except FileNotFoundError:
        asked = f" (extended by {above[-1]})" if above else ""
        raise ConfigError(f"config file {path} does not exist{asked}") from None
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        found = "the file is empty" if tree is None else f"found {type(tree).__name__}"
        raise ConfigError(f"{path}: expected a mapping of keys, {found}")
    if isinstance(code := tree.get("code"), dict) and isinstance(pin := code.get("pin"), str):
        tree["code"] = code | {"pin": str(path.parent / pin)}  # a path from the working directory
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
            meant = near(item["loc"][-1], siblings)
            lines.append(f"  {where}: unknown key.{meant} Allowed here: {', '.join(siblings) or 'none'}")
        elif item["type"] == "missing":
            lines.append(f"  {where}: this key is required")
        elif item["type"] == "value_error":
            message = str(item["msg"]).removeprefix("Value error, ")
            lines.append(f"  {where}: {message}" if where else f"  {message}")
        else:
            lines.append(f"  {where}: found {item['input']!r}; {item['msg'][0].lower()}{item['msg'][1:]}")
    return lines


def _allowed_keys(section: type[Section] | None, loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        if section is not None and part in section.model_fields:  # else a number of a list, or a key of a mapping
            section = section_in(section.model_fields[str(part)].annotation)
    return [] if section is None else sorted(section.model_fields)
