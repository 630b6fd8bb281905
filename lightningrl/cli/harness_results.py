"""The files of `lightningrl harness`: what a result depends on, and the reading of those that are there. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightningrl.cli.outputs import say
from lightningrl.config.decoding import Decoding, preset
from lightningrl.errors import ConfigError
from lightningrl.models import hub
from lightningrl.pipeline import code_digest
from lightningrl.report.paper.harness import Cell, cells
from lightningrl.utils import files
from lightningrl.utils.registry import resolve

CODE = ("lightningrl.inference.harness_lm", "lightningrl.inference.harness_tasks")
NOWHERE = Path("config/data.lock.json")
"""The lock of the hub's files, which a folder does not have."""


def arguments_of(cell: Cell) -> dict[str, Any]:
    """Returns what a row was evaluated with."""
    return {
        name: getattr(cell, name) for name in Cell.__dataclass_fields__ if name not in ("row", "benchmark", "point")
    }


def folder_hash(folder: Path, patterns: tuple[str, ...] = hub.PATTERNS) -> str:
    """Returns one hash of a checkpoint's or an adapter's files, tokenizer included, wherever the folder is."""
    return hub.find(str(folder), None, None, NOWHERE, False, patterns).sha256


def tasks_hash(folder: Path) -> str:
    """Returns one hash of all files of a folder of tasks."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return files.sha256_text(
        files.canonical_json({str(path.relative_to(folder)): files.sha256_file(path) for path in paths})
    )


def code_hash(cell: Cell) -> str:
    """Returns a digest of the code that answers a cell: the decoder's pieces and the family with it."""
    decoding = Decoding.model_validate(preset(cell.preset)["decoding"] | cell.options)
    families: Mapping[str, str] = resolve("lightningrl.models.families.registry:FAMILIES")
    members = [*decoding.members().values(), families[cell.family]]
    return code_digest.digest([*CODE, *(each.partition(":")[0] for each in members)])


def is_result(found: Any) -> bool:
    """Whether what a file has is a finished cell's."""
    if not isinstance(found, dict) or not {"row", "benchmark", "point", "problems", "measured"} <= found.keys():
        return False
    return isinstance(found["measured"], dict) and {"accuracy_pct", "tpf"} <= found["measured"].keys()


def read_result(path: Path) -> dict[str, Any]:
    """Returns a finished cell. Raises ConfigError for a file that is something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if found is None or not is_result(found):
        raise ConfigError(f"{path} is no result of `lightningrl harness`: move it away, or name another folder")
    return found


def results(out: Path) -> list[dict[str, Any]]:
    """Returns the finished cells of a folder, each with the numbers that are published of it today, and says on
    standard error which were evaluated with other arguments than those. Raises ConfigError where there is none."""
    known = {(cell.row, cell.benchmark, cell.point): cell for cell in cells()}
    found = []
    for path in sorted(out.glob("*.json")):
        told = read_result(path)
        cell = known.get((told["row"], told["benchmark"], told["point"]))
        if cell is None:
            raise ConfigError(f"{path} is of {told['row']} on {told['benchmark']}, which has no published arguments")
        if told.get("arguments") != arguments_of(cell):
            say(f"{path} was made with other arguments than those of the row: delete it and run it again")
        found.append(told | {"published": cell.published()})
    if not found:
        raise ConfigError(f"--out {out}: nothing was measured there yet")
    return found
