"""Get a benchmark's files: from a mirror folder, else from the Hugging Face hub; checked against pins and the lock.

The first fetch of a hub file writes its commit, sha256 and size to the lock file; later ones must find the same. A file
with a wrong hash is an error and is removed from the hub client's cache, so it is not used now nor next time. The hub
client itself resumes what was cut off.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightningrl.benchmarks.sources import Row, Source, content_hash, read_rows
from lightningrl.errors import BenchmarkError
from lightningrl.utils.download_lock import is_transport_error, locked

MIRROR_VARIABLE = "LIGHTNINGRL_DATA_MIRROR"
NAMED_BY = f"--mirror, {MIRROR_VARIABLE} or `data.mirror`"


@dataclass(frozen=True, slots=True)
class Origins:
    """Where files may come from.

    >>> Origins(mirror=None, lock=Path("config/data.lock.json")).require_pins
    False
    """

    mirror: Path | None
    """Folder with files at `Source.mirror`; the environment variable LIGHTNINGRL_DATA_MIRROR goes before it."""
    lock: Path
    """JSON file of what was fetched from the hub."""
    require_pins: bool = False
    """Refuse what nobody has pinned."""
    is_said: bool = False
    """The mirror was named on the command line: it goes before the environment's."""

    @property
    def mirror_folder(self) -> Path | None:
        """The mirror in use."""
        named = None if self.is_said else os.environ.get(MIRROR_VARIABLE)
        return Path(named) if named else self.mirror

    @property
    def mirror_said_by(self) -> str:
        """Where the mirror in use was named."""
        if self.is_said:
            return "--mirror"
        return MIRROR_VARIABLE if os.environ.get(MIRROR_VARIABLE) else "`data.mirror`"


@dataclass(frozen=True, slots=True)
class Obtained:
    """Rows, and where they are from."""

    rows: list[Row]
    facts: dict[str, Any]
    """JSON: from (mirror | hub), files with sha256 and bytes, revision, content_sha256, rows; no absolute path."""


def obtain(source: Source, origins: Origins) -> Obtained:
    """A source's rows. Raises BenchmarkError: not to be had, saying where it looked; other bytes than pinned."""
    folder = origins.mirror_folder
    if folder is not None and not folder.is_dir():
        raise BenchmarkError(
            f"the data mirror {folder} is not a folder. Correct {origins.mirror_said_by}, or leave it out to take "
            "files from the hub."
        )
    path = None if folder is None else folder / source.mirror
    if path is not None and path.is_file():
        return _from_mirror(source, path, origins)
    return _from_hub(source, origins, path)


def _from_mirror(source: Source, path: Path, origins: Origins) -> Obtained:
    data = _read(path)
    digest = hashlib.sha256(data).hexdigest()
    if source.mirror_sha256 is None and source.content_sha256 is None and origins.require_pins:
        raise BenchmarkError(_unpinned(source, f"the mirror's {source.mirror}"))
    if source.mirror_sha256 is not None and digest != source.mirror_sha256:
        raise BenchmarkError(
            f"{path} has sha256 {digest}, expected {source.mirror_sha256}: it is damaged or another version. It was "
            "not used; replace it."
        )
    rows = read_rows(source, [(source.mirror, data)])
    return Obtained(rows, _facts(source, "mirror", None, {source.mirror: (digest, len(data))}, rows))


def _from_hub(source: Source, origins: Origins, looked: Path | None) -> Obtained:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    with locked(origins.lock) as lock:
        known = {file: lock.get(f"{source.repo}/{file}") for file in source.files}
        pinned = source.revision or next((entry["revision"] for entry in known.values() if entry), None)
        if origins.require_pins and (pinned is None or (source.content_sha256 is None and None in known.values())):
            raise BenchmarkError(_unpinned(source, f"the hub's {source.name}"))
        parts: dict[str, bytes] = {}
        cached: list[Path] = []
        revision = pinned
        try:
            for file in source.files:
                if revision is None:
                    url = hf_hub_url(source.repo, file, repo_type="dataset")
                    revision = get_hf_file_metadata(url).commit_hash
                got = Path(hf_hub_download(source.repo, file, repo_type="dataset", revision=revision))
                cached.append(got)
                parts[file] = _checked(got, file, source, revision, known[file])
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
            raise BenchmarkError(_not_to_be_had(source, looked, error)) from error
        except Exception as error:  # the client's transport (httpx) has errors of its own: connection refused, cut off
            if not is_transport_error(error):
                raise
            raise BenchmarkError(_not_to_be_had(source, looked, error)) from error
        try:
            rows = read_rows(source, list(parts.items()))
        except BenchmarkError:
            for path in cached:  # damaged on the way or changed at the origin: the next run looks again
                _forget(path)
            raise
        hashes = {file: (hashlib.sha256(data).hexdigest(), len(data)) for file, data in parts.items()}
        for file, (digest, size) in hashes.items():
            lock[f"{source.repo}/{file}"] = {"revision": revision, "sha256": digest, "bytes": size}
    return Obtained(rows, _facts(source, "hub", revision, hashes, rows))


def _checked(path: Path, file: str, source: Source, revision: str | None, entry: dict[str, Any] | None) -> bytes:
    data = _read(path)
    digest = hashlib.sha256(data).hexdigest()
    if entry is not None and entry["revision"] == revision and digest != entry["sha256"]:
        _forget(path)
        raise BenchmarkError(
            f"{source.repo}: {file} has sha256 {digest}, the lock says {entry['sha256']}. It was not used and is "
            "deleted from the cache. Run again; if it stays so, the file was changed at its origin."
        )
    return data


def _forget(path: Path) -> None:
    """Delete the cache's link and what it points to."""
    for each in {path, path.resolve()}:
        with contextlib.suppress(OSError):
            each.unlink(missing_ok=True)


def _facts(
    source: Source, origin: str, revision: str | None, hashes: dict[str, tuple[str, int]], rows: list[Row]
) -> dict[str, Any]:
    files = {file: {"sha256": digest, "bytes": size} for file, (digest, size) in hashes.items()}
    facts = {"from": origin, "repo": source.repo, "revision": revision, "files": files}
    return facts | {"rows": len(rows), "content_sha256": content_hash(rows)}


def _unpinned(source: Source, what: str) -> str:
    return (
        f"{what} is pinned by no hash and no commit, and data.require_pins refuses what nobody has seen. Fetch it once "
        "with data.require_pins: false, which writes it to the lock; look at it, and commit the lock."
    )


def _not_to_be_had(source: Source, looked: Path | None, error: Exception) -> str:
    mirror = f"the mirror has no {looked}" if looked else f"no mirror is given ({NAMED_BY})"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"cannot get {', '.join(source.files)} of the dataset {source.repo} from the hub ({reason}), and {mirror}. Go "
        f"online, or put the file at <mirror>/{source.mirror}; then run the same command again."
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be read: {error.strerror}") from error
