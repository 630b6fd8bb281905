"""Which code results are named by: today's, or what was pinned when they were released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightningrl.config.section import Section


class Code(Section):
    """Part of no stage's config; a pin changes keys only where today's code differs from the pinned one."""

    pin: str | None = None
    """A file that `lightningrl pin` writes, relative to the YAML file that names it: digests by stage, which keys take
    in place of today's code, so that a refactoring makes no finished stage run again."""


def settle_pin(tree: dict[str, Any], path: Path) -> None:
    """Make `code.pin` of a raw tree, read from `path`, a path from the working directory."""
    code = tree.get("code")
    if isinstance(code, dict) and isinstance(code.get("pin"), str):
        tree["code"] = code | {"pin": str(path.parent / code["pin"])}
