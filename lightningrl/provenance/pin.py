"""`code.pin`: a committed file of stage -> digest, taken into keys in place of the digest of today's code.

A refactoring that changes no result would otherwise rename every result it touches, and what cost GPU-hours would be
made again. A pinned stage keeps its key whatever its code becomes; config, members and inputs still count. What is made
later under a pin says so: its manifest's `code` has the pinned digest and the one of the code that ran.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lightningrl.config.experiment import Experiment
from lightningrl.errors import ConfigError, StageError
from lightningrl.io import read_json, write_json

CHEAP = ("selfcheck", "collect", "table", "figure", "release")
"""Kinds that are pinned only when they are named: they take no GPU, and an edit of them is meant to be seen."""
DIGEST = re.compile(r"[0-9a-f]{64}")


def read_pins(experiment: Experiment) -> dict[str, str]:
    """`<kind>/<name>` -> digest; empty without `code.pin`. Raises ConfigError for a file that is none or another's."""
    if experiment.code.pin is None:
        return {}
    path = Path(experiment.code.pin)
    if not path.is_file():
        raise ConfigError(
            f"code.pin: {path} does not exist. `lightningrl pin` with the same --config writes it; without the key "
            "results are named by today's code"
        )
    try:
        tree = read_json(path)
    except StageError:
        raise ConfigError(f"code.pin: {path} is not JSON; take it from the repository's history") from None
    pins = tree.get("pinned") if isinstance(tree, dict) else None
    if not isinstance(pins, dict) or not all(isinstance(d, str) and DIGEST.fullmatch(d) for d in pins.values()):
        raise ConfigError(
            f'code.pin: {path} is no pin file: expected {{"experiment": ..., "pinned": {{"<kind>/<name>": sha256}}}}'
        )
    if tree.get("experiment") != experiment.experiment:
        raise ConfigError(
            f"code.pin: {path} pins the experiment {tree.get('experiment')!r}, this one is {experiment.experiment!r}, "
            "of which nothing was released under those digests. Take the key away (`code: {pin: null}`) or name a pin "
            "file of its own"
        )
    return dict(pins)


def write_pins(path: Path, experiment: str, pins: Mapping[str, str]) -> None:
    """Write a pin file, sorted, to be committed."""
    write_json(path, {"experiment": experiment, "pinned": dict(pins)})
