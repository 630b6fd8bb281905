"""`code.pin`: a committed file of stage -> digest, taken into keys in place of the digest of today's code.

A refactoring that changes no result would otherwise rename every result it touches, and what cost GPU-hours would be
made again. A pinned stage keeps its key whatever its code becomes; config, members and inputs still count. What is made
later under a pin says so: its manifest's `code` has the pinned digest and the one of the code that ran.

Nothing of it is taken for what the pinned code made: caches are kept apart (`stage.cache_key`), a state of other code
is refused (`runner.check_state`), without its pin a stage that other code has made is an error (`manifest.check_code`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lightningrl.config.experiment import Experiment
from lightningrl.errors import ConfigError, StageError
from lightningrl.utils.files import read_json, write_json

if TYPE_CHECKING:
    from lightningrl.pipeline.plan import Plan

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


def pins_told(planned: Plan, most: int | None = None) -> list[str]:
    """Lines for people: which pins there are, which of them today's code departs from (that many of them by name),
    which are of no stage; none where nothing is pinned."""
    if not planned.pins:
        return []
    pinned = [stage for stage in planned if stage.pin is not None]
    edited = [stage.label for stage in pinned if stage.pin != stage.live_code]
    more = f" and {len(edited[most:])} more" if most is not None and edited[most:] else ""
    names = ", ".join(edited[:most]) + more
    what = f"today's code is another for {names}" if edited else "today's code is the pinned one for all"
    first = f"* {len(pinned)} stages pinned by {planned.experiment.code.pin}; {what}"
    return [
        first,
        *(f"note: {label} is pinned there, and no stage of this experiment" for label in planned.unused_pins),
    ]


def write_pins(path: Path, experiment: str, pins: Mapping[str, str]) -> None:
    """Write a pin file, sorted, to be committed."""
    write_json(path, {"experiment": experiment, "pinned": dict(pins)})
