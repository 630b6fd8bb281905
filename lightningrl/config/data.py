"""Where published problems come from: a mirror folder or the hub, and what is known of their files."""

from __future__ import annotations

from pydantic import Field

from lightningrl.config.section import Section


class Data(Section):
    """Places, which enter no key: the files' hashes are checked, whatever the place."""

    mirror: str | None = None
    """Folder with the files, laid out as the benchmarks' sources say. The environment variable LIGHTNINGRL_DATA_MIRROR
    goes before it. Left out: the Hugging Face hub."""
    lock: str = Field("config/data.lock.json", min_length=1)
    """File that the first fetch from the hub writes (commit, sha256, bytes); later fetches must agree with it."""
    require_pins: bool = False
    """Refuse files that neither a mirror's hash, nor the hub's commit and hash, nor the lock pins."""
