"""The base of every config section: unknown keys are errors, values are frozen, docstrings are the help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import GenericAlias
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from lightningrl.config.registries import names
from lightningrl.utils.registry import resolve


class Section(BaseModel):
    """A part of the experiment's YAML. The string under each field is its documentation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """A key whose default alone is changed keeps its documentation."""
        for name, field in cls.model_fields.items():
            above = (base.model_fields.get(name) for base in cls.__mro__[1:] if issubclass(base, Section))
            field.description = field.description or next((f.description for f in above if f), None)

    UNKEYED: ClassVar[frozenset[str]] = frozenset()
    """Keys that only name something, or change no result; left out of the science of whatever holds the section, too.
    """

    def science(self, given: bool = False) -> dict[str, Any]:
        """Returns the section as plain JSON: what goes into the keys of the stages that read it.

        given: of it and of the sections in it only the keys that the config gives.
        """
        names = [name for name in type(self).model_fields if name not in self.UNKEYED]
        return {
            name: science(getattr(self, name), given) for name in names if name in self.model_fields_set or not given
        }


@dataclass(frozen=True)
class ChosenBy:
    """Marks a key whose section is the `Config` of a class that another key names (`runs.method`, by `algorithm`)."""

    key: str
    """Which is also the kind of its registry."""

    def sections(self) -> dict[str, type[Section]]:
        """The section of each registered name."""
        return {name: resolve(reference).Config for name, reference in names(self.key).items()}


class InvalidKeys(ValueError):
    """Keys that a chosen section does not take, told apart from the errors of the section that they are in."""

    def __init__(self, where: str, section: type[Section], error: ValidationError):
        super().__init__(f"{where}: {error}")
        self.where, self.section, self.error = where, section, error


def section_in(annotation: Any) -> type[Section] | None:
    """Returns the section in `Section`, `list[Section]`, `dict[str, Section]` or `Section | None`."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and not isinstance(part, GenericAlias) and issubclass(part, Section):
            return part
    return None


def science(value: Any, given: bool = False) -> Any:
    """A config value as plain JSON, sections by their own `science`."""
    if isinstance(value, Section):
        return value.science(given)
    if isinstance(value, Mapping):
        return {str(key): science(item, given) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [science(item, given) for item in value]
    return value
