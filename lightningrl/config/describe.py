"""The config tree as help text: every key with its type, default and docstring."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from lightningrl.config.section import ChosenBy, Section, section_in
from lightningrl.errors import ConfigError

LIMITS = {
    "gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of", "pattern": "matching",
    "min_length": "at least",
}  # fmt: skip


def describe(section: type[Section], path: str = "", above: str = "") -> Iterator[str]:
    """Lines for the key at `path` (`runs.threshold`; list items have no number; "": every key) and all below it.

    above: the path of the section itself. Raises ConfigError naming the keys there are when the path leads nowhere.
    """
    name, _, rest = path.partition(".")
    for key in [name] if path else section.model_fields:
        if key not in section.model_fields:
            raise _no_key(above, key, section)
        field, where = section.model_fields[key], f"{above}.{key}".lstrip(".")
        if rest:
            yield from _inside(field, where, rest)
        else:
            yield from _lines(field, where)
            yield from _below(field, where)


def _no_key(where: str, name: str, *sections: type[Section]) -> ConfigError:
    keys = dict.fromkeys(key for section in sections for key in section.model_fields)
    return ConfigError(f"{where or 'the experiment'} has no key {name!r}. It has: {', '.join(keys)}")


def _inside(field: FieldInfo, where: str, rest: str) -> Iterator[str]:
    """The key at `rest` below a field; where a name chooses its section, once for all sections that say the same."""
    chosen, below, key = _chosen(field), section_in(field.annotation), rest.partition(".")[0]
    if chosen:
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
        raise ConfigError(f"{where} is a plain value: no key {key!r} below it")


def _below(field: FieldInfo, path: str) -> Iterator[str]:
    """All keys of a field's section. Where a name chooses the section: those of each, without what was told before."""
    chosen, below = _chosen(field), section_in(field.annotation)
    if not chosen:
        yield from describe(below, "", path) if below else ()
        return
    told: set[str] = set()
    for label, section in chosen.sections().items():
        lines, known = [], []
        for name in section.model_fields:
            new = _untold(list(describe(section, name, path)), told)
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
    found = [(sign, getattr(item, name, None)) for item in field.metadata for name, sign in LIMITS.items()]
    limits = ", ".join(f"{sign} {value}" for sign, value in found if value is not None)
    default: Any = field.get_default(call_default_factory=True)
    told = "as below" if isinstance(default, Section) else repr(default)
    told = "required" if field.is_required() else f"default: {told}"
    yield f"{path}: {_type_name(field.annotation)}{f' ({limits})' if limits else ''}, {told}"
    below = section_in(field.annotation)
    if text := field.description or (below.__doc__ if below else None):
        yield "    " + " ".join(text.split())


def _chosen(field: FieldInfo) -> ChosenBy | None:
    return next((item for item in field.metadata if isinstance(item, ChosenBy)), None)


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    short = re.sub(r"\b(typing|lightningrl(\.\w+)*)\.", "", str(annotation))
    return re.sub(r"Annotated\[(\w+), FieldInfo\(.*?\]\)\]", r"\1", short)  # limits of the items
