"""The config tree as help text: every key with its type, default and docstring."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from lightningrl.config.section import Section
from lightningrl.errors import ConfigError


def describe(section: type[Section], path: str = "") -> Iterator[str]:
    """Lines for the key at `path` (`runs.threshold`; list items have no number) and all below it.

    Raises ConfigError naming the keys there are when the path leads nowhere.
    """
    walked: list[str] = []
    parts = [part for part in path.split(".") if part]
    for number, part in enumerate(parts):
        if part not in section.model_fields:
            where = ".".join(walked) or "the experiment"
            raise ConfigError(f"{where} has no key {part!r}. It has: {', '.join(section.model_fields)}")
        field = section.model_fields[part]
        walked.append(part)
        below = _section(field.annotation)
        if below is None:
            if parts[number + 1 :]:
                raise ConfigError(f"{'.'.join(walked)} is a plain value: no key {parts[number + 1]!r} below it")
            yield from _lines(field, ".".join(walked))
            return
        section = below
    if walked:
        yield from _lines(field, ".".join(walked))
    yield from _tree(section, ".".join(walked))


def _tree(section: type[Section], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        path = f"{prefix}.{name}" if prefix else name
        yield from _lines(field, path)
        below = _section(field.annotation)
        if below is not None:
            yield from _tree(below, path)


def _lines(field: FieldInfo, path: str) -> Iterator[str]:
    yield f"{path}: {_type_name(field.annotation)}{_limits(field)}, {_default(field)}"
    below = _section(field.annotation)
    text = field.description or (below.__doc__ if below else None)
    if text:
        yield "    " + " ".join(text.split())


def _limits(field: FieldInfo) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of", "pattern": "matching"}
    found = []
    for item in field.metadata:
        for name, sign in signs.items():
            value = getattr(item, name, None)
            if value is not None:
                found.append(f"{sign} {value}")
        if getattr(item, "min_length", None) is not None:
            found.append(f"at least {item.min_length}")
    return f" ({', '.join(found)})" if found else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    return "default: as below" if isinstance(value, Section) else f"default: {value!r}"


def _section(annotation: Any) -> type[Section] | None:
    """The section in `Section`, `list[Section]` or `Section | None`."""
    for part in (annotation, *typing.get_args(annotation)):
        if isinstance(part, type) and not isinstance(part, types.GenericAlias) and issubclass(part, Section):
            return part
    return None


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("lightningrl.config.", "")
