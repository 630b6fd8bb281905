"""The base of every config section: unknown keys are errors, values are frozen, docstrings are the help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the experiment's YAML. The string under each field is its documentation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )

    def science(self) -> dict[str, Any]:
        """The section as plain JSON: what goes into the keys of the stages that read it."""
        return self.model_dump(mode="json")


def science(value: Any) -> Any:
    """A config value as plain JSON, sections by their own `science`."""
    if isinstance(value, Section):
        return value.science()
    if isinstance(value, Mapping):
        return {str(key): science(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [science(item) for item in value]
    return value
