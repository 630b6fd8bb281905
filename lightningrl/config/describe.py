"""The config tree as help text: every key with its type, default and docstring."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from lightningrl.config.section import ChosenBy, Section
from lightningrl.errors import ConfigError


def describe(section: type[Section], path: str = "", above: str = "") -> Iterator[str]:
    """Lines for the key at `path` (`runs.threshold`; list items have no number) and all below it.

    above: the path of the section itself. Raises ConfigError naming the keys there are when the path leads nowhere.
    """
    if not path:
        yield from _tree(section, above)
        return
    name, _, rest = path.partition(".")
    if name not in section.model_fields:
        raise _no_key(above, name, section)
    field, where = section.model_fields[name], f"{above}.{name}".lstrip(".")
    chosen, below = _chosen(field), _section(field.annotation)
    if not rest:
        yield from _lines(field, where)
        yield from _below(field, where)
    elif chosen:
        key = rest.partition(".")[0]
        having = {label: each for label, each in chosen.sections().items() if key in each.model_fields}
        if not having:
            raise _no_key(where, key, *chosen.sections().values())
        by_lines: dict[tuple[str, ...], list[str]] = {}
        for label, each in having.items():
            by_lines.setdefault(tuple(describe(each, rest, where)), []).append(label)
        for lines, labels in by_lines.items():
            yield from (f"With {chosen.key}: {', '.join(labels)}", *lines)
    elif below:
        yield from describe(below, rest, where)
    else:
        raise ConfigError(f"{where} is a plain value: no key {rest.partition('.')[0]!r} below it")


def _no_key(where: str, name: str, *sections: type[Section]) -> ConfigError:
    keys = dict.fromkeys(key for section in sections for key in section.model_fields)
    return ConfigError(f"{where or 'the experiment'} has no key {name!r}. It has: {', '.join(keys)}")


def _tree(section: type[Section], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        path = f"{prefix}.{name}" if prefix else name
        yield from _lines(field, path)
        yield from _below(field, path)


def _below(field: FieldInfo, path: str) -> Iterator[str]:
    """All keys of a field's section. Where a name chooses the section: those of each, without what was told before."""
    chosen, below = _chosen(field), _section(field.annotation)
    if not chosen:
        yield from _tree(below, path) if below else ()
        return
    told: set[str] = set()
    for label, section in chosen.sections().items():
        lines, known = [], []
        for name, each in section.model_fields.items():
            new = _untold([*_lines(each, f"{path}.{name}"), *_below(each, f"{path}.{name}")], told)
            lines += new
            known += [] if new else [name]
        heading = f"With {chosen.key}: {label}" + (f", as above: {', '.join(known)}" if known else "")
        yield from (heading if section.model_fields else f"{heading}, no keys", *lines)
        told.update(lines)


def _untold(lines: list[str], told: set[str]) -> list[str]:
    """The lines that are not among `told`, and those of keys whose documentation is not."""
    pairs = zip(lines, [*lines[1:], ""], strict=True)
    return [line for line, after in pairs if line not in told or (after.startswith(" ") and after not in told)]


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


def _chosen(field: FieldInfo) -> ChosenBy | None:
    return next((item for item in field.metadata if isinstance(item, ChosenBy)), None)


def _section(annotation: Any) -> type[Section] | None:
    """The section in `Section`, `list[Section]` or `Section | None`."""
    for part in (annotation, *typing.get_args(annotation)):
        if isinstance(part, type) and not isinstance(part, types.GenericAlias) and issubclass(part, Section):
            return part
    return None


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return re.sub(r"\b(typing|lightningrl(\.\w+)*)\.", "", str(annotation))
